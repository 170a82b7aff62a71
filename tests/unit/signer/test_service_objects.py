"""Stores, reads and deletes: burns, the version rule by example, and what a lost answer costs."""

import secrets

import pytest

from agentkeys_core.audit import AuditRow, OpKind, OpResult
from agentkeys_core.captoken import Cap
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import ObjectClass, Op, Service
from tests.unit.core.refusal import refused
from tests.unit.signer.world import Between, User, current, digest_of, row_of, world_in

NAME = "cred:openrouter"


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


def test_a_store_is_read_again_under_the_same_key(world):
    stored, cap = world.store()
    assert len(stored.key) == len(stored.commitment) == len(stored.salt) == 32
    assert stored.key == world.fetch(stored).key
    assert stored.key == world.fetch(stored, key=world.user.agent).key
    expected = world.keyring.object_key(1, ObjectClass.CREDENTIALS, world.user.operator, Service(NAME), stored.salt)
    assert (stored.key, stored.commitment) == (expected.key, expected.commitment)
    assert current(world) == digest_of(cap)


def test_the_row_of_a_release_says_what_was_asked(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    stored = world.derive(cap)
    row, content = row_of(stored.row, world)
    request = Cap.parse(cap).request
    assert (row.seq, row.actor, row.epoch) == (0, world.user.operator, 1)
    assert (content.op_kind, content.result) == (OpKind.CRED_STORE, OpResult.SUCCESS)
    assert (content.actor_omni, content.operator_omni) == (world.user.operator, world.user.operator)
    assert content.ts_unix == int(world.clock.now())
    body = content.op_body
    assert (body.cap, body.req, body.svc) == (request.digest, request.request_hash, NAME)
    assert (body.epoch, body.salt) == (1, stored.salt)


def test_two_stores_never_share_a_salt(world):
    first, cap = world.store()
    second, _ = world.store(expect=digest_of(cap))
    assert first.salt != second.salt
    assert first.key != second.key


def test_a_store_cap_works_once(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    world.derive(cap)
    before = world.dump()
    with pytest.raises(KeyServiceError) as caught:
        world.derive(cap)
    assert (caught.value.reason, caught.value.row) == ("cap_replayed", None)
    world.refusals.close()
    assert world.dump()[:5] == before[:5]


def test_a_replay_of_an_acknowledged_store_carries_its_row(world):
    stored, cap = world.store()
    with pytest.raises(KeyServiceError) as caught:
        world.derive(cap)
    assert (caught.value.reason, caught.value.row) == ("cap_replayed", stored.row)


def test_a_replay_is_refused_for_as_long_as_the_cap_could_be_valid(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    world.derive(cap)
    for _ in range(6):
        world.clock.forward(59)
        for _ in range(3):
            world.settle()
        with refused("cap_replayed"):
            world.derive(cap)
    world.clock.forward(100)
    with refused("cap_expired"):
        world.derive(cap)


def test_a_fetch_may_be_repeated_each_time_with_a_row(world):
    stored, _ = world.store()
    cap = world.cap(Op.CRED_FETCH, NAME)
    first, second = world.read(cap, stored), world.read(cap, stored)
    assert first.key == second.key
    assert AuditRow.parse(second.row).prev == AuditRow.parse(first.row).row_hash


def test_another_cap_of_the_same_bytes_is_the_same_cap(world):
    """The digest is that of the request: other signatures over it do not make it new."""
    request = world.request(Op.CRED_STORE, NAME)
    world.derive(world.signed(request))
    with refused("cap_replayed"):
        world.derive(world.signed(request, k11=world.user.k11))


# The version rule.


def test_nothing_is_read_that_was_never_stored(world):
    with refused("version_not_current"):
        world.derive(world.cap(Op.CRED_FETCH, NAME), epoch=1, salt=bytes(32))
    world.store()
    with refused("version_not_current"):
        world.derive(world.cap(Op.CRED_FETCH, NAME), epoch=1, salt=secrets.token_bytes(32))


def test_a_salt_opens_only_its_own_object(world):
    stored, _ = world.store()
    other, _ = world.store("cred:other")
    with refused("version_not_current"):
        world.fetch(stored, "cred:other")
    with refused("version_not_current"):
        world.fetch(other, NAME)
    with refused("version_not_current"):
        world.fetch(stored, "memory:travel")


def test_a_salt_opens_only_its_owners_object(world):
    stored, _ = world.store()
    victim, world.user = world.user, User(b"\x77" * 20)
    world.registry.put(world.user.state())
    with refused("version_not_current"):
        world.fetch(stored)
    world.user = victim


def test_agents_have_memories_of_their_own(world):
    mine, _ = world.store("memory:travel", key=world.user.agent)
    with refused("version_not_current"):
        world.fetch(mine, "memory:travel")
    assert world.fetch(mine, "memory:travel", key=world.user.agent).key == mine.key


def test_an_old_version_is_never_released_again(world):
    old, cap = world.store()
    new, _ = world.store(expect=digest_of(cap))
    with refused("version_not_current"):
        world.fetch(old)
    assert world.fetch(new).key == new.key


def test_old_versions_are_forgotten(world):
    _, cap = world.store()
    for _ in range(3):
        _, cap = world.store(expect=digest_of(cap))
    assert world.count("salts") == 1


def test_the_epoch_must_be_the_salts_own_and_held(world):
    stored, _ = world.store()
    with refused("version_not_current"):
        world.derive(world.cap(Op.CRED_FETCH, NAME), epoch=2, salt=stored.salt)
    with refused("epoch_not_held"):
        world.derive(world.cap(Op.CRED_FETCH, NAME), epoch=9, salt=stored.salt)


def test_an_older_epochs_version_stays_readable(world):
    stored, cap = world.store()
    world.committer.run(lambda tx: tx.conn.execute("UPDATE meta SET value = 2 WHERE key = 'k3_epoch'"))
    world.registry.set_epoch(2)
    fetched = world.read(world.cap(Op.CRED_FETCH, NAME, k3_epoch=2), stored)
    assert (fetched.key, fetched.epoch) == (stored.key, 1)
    assert AuditRow.parse(fetched.row).epoch == 2
    newer = world.derive(world.cap(Op.CRED_STORE, NAME, k3_epoch=2, touch=True), expect=digest_of(cap))
    assert newer.epoch == 2


def test_a_read_of_an_unacknowledged_store_makes_it_current(world):
    old, cap = world.store()
    lost_cap = world.cap(Op.CRED_STORE, NAME, touch=True)
    lost = world.derive(lost_cap, expect=digest_of(cap))
    assert current(world) == digest_of(cap)
    assert world.fetch(lost).key == lost.key
    assert current(world) == digest_of(lost_cap)
    with refused("version_not_current"):
        world.fetch(old)
    # Its acknowledgement was only late, and a lost answer finds the row.
    with pytest.raises(KeyServiceError) as caught:
        world.derive(lost_cap, expect=digest_of(cap))
    assert caught.value.row == lost.row
    assert world.ack(lost_cap) == lost.row


def test_both_versions_are_readable_until_one_is_acknowledged(world):
    old, cap = world.store()
    world.derive(world.cap(Op.CRED_STORE, NAME, touch=True), expect=digest_of(cap))
    assert world.fetch(old).key == old.key


@pytest.mark.parametrize("expect", [b"", b"\x01" * 32])
def test_a_store_must_expect_what_is_current(world, expect):
    world.store()
    with refused("version_not_current"):
        world.derive(world.cap(Op.CRED_STORE, NAME, touch=True), expect=expect)


def test_a_first_store_expects_nothing(world):
    with refused("version_not_current"):
        world.derive(world.cap(Op.CRED_STORE, NAME), expect=bytes(32))


def test_expect_is_asked_again_at_acknowledgement(world):
    first_cap, second_cap = world.cap(Op.CRED_STORE, NAME), world.cap(Op.CRED_STORE, NAME)
    world.derive(first_cap)
    world.derive(second_cap)
    world.ack(second_cap)
    with refused("version_not_current"):
        world.ack(first_cap)
    assert current(world) == digest_of(second_cap)
    assert world.ack(first_cap, 1) == world.ack(first_cap, 1)


def test_overwriting_needs_a_touch(world):
    stored, cap = world.store()
    with refused("k11_required"):
        world.derive(world.cap(Op.CRED_STORE, NAME), expect=digest_of(cap))
    assert world.fetch(stored).key == stored.key
    world.store("memory:travel")
    _, memory = world.store("memory:food")
    world.store("memory:food", expect=digest_of(memory))


def test_a_store_that_becomes_current_in_between_needs_a_touch(world):
    """What was decided before the transaction is decided again inside it."""
    cap = world.cap(Op.CRED_STORE, NAME)
    journalist = Between(world, world.store)
    service = world.make_service(world.registry, journalist=journalist)
    with refused("k11_required"):
        service.derive_cred_kek(world.caller(cap), cap)


def test_a_missing_touch_comes_before_the_version_rule(world):
    """Without a touch the refusal comes before the version rule, whatever `expect` says."""
    world.store()
    with refused("k11_required"):
        world.derive(world.cap(Op.CRED_STORE, NAME), expect=b"\x09" * 32)
    with refused("k11_required"):
        world.ack(world.cap(Op.CRED_STORE, NAME), 1)


def test_a_lost_answer_is_found_also_after_the_store_was_replaced(world):
    stored, cap = world.store()
    world.store(expect=digest_of(cap))
    with pytest.raises(KeyServiceError) as caught:
        world.derive(cap)
    assert (caught.value.reason, caught.value.row) == ("cap_replayed", stored.row)
