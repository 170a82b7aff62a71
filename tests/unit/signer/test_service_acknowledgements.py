"""`SignAuditRow`: it acknowledges, records failures and authorises deletes; the first outcome stands."""

from dataclasses import replace

import pytest

from agentkeys_core.audit import AuditRow, OpKind, OpResult
from agentkeys_core.captoken import Cap
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import Op
from tests.unit.core.refusal import refused
from tests.unit.signer.world import MEMORY, Between, World, current, digest_of, row_of, world_in

NAME = "cred:openrouter"


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


def test_a_failure_that_must_now_touch(world):
    """What was decided before the transaction is decided again inside it, for the failure of a store too."""
    cap = world.cap(Op.CRED_STORE, NAME)
    service = world.make_service(world.registry, journalist=Between(world, world.store))
    with refused("k11_required"):
        service.sign_audit_row(world.caller(cap), cap, 1)


# Deletes.


def test_a_delete_closes_every_salt(world):
    stored, cap = world.store()
    pending = world.derive(world.cap(Op.CRED_STORE, NAME, touch=True), expect=digest_of(cap))
    row, content = row_of(world.ack(world.cap(Op.CRED_DELETE, NAME)), world)
    assert (content.op_kind, content.result, content.op_body.salt) == (OpKind.CRED_DELETE, OpResult.SUCCESS, None)
    for version in (stored, pending):
        with refused("version_not_current"):
            world.fetch(version)
    assert current(world) is None
    assert world.count("salts") == 0
    fresh, _ = world.store()
    assert world.fetch(fresh).key == fresh.key
    with refused("version_not_current"):
        world.fetch(pending)
    assert row.seq == 2


def test_a_store_that_was_deleted_meanwhile_is_not_acknowledged(world):
    pending = world.cap(Op.CRED_STORE, NAME)
    world.derive(pending)
    world.ack(world.cap(Op.CRED_DELETE, NAME))
    with refused("version_not_current"):
        world.ack(pending)
    world.store()
    with refused("version_not_current"):
        world.ack(pending)


def test_a_delete_works_once_and_answers_again(world):
    world.store()
    cap = world.cap(Op.CRED_DELETE, NAME)
    first = world.ack(cap)
    stored, _ = world.store()
    assert world.ack(cap) == first
    assert world.fetch(stored).key == stored.key
    with pytest.raises(KeyServiceError) as caught:
        world.ack(cap, 1)
    assert (caught.value.reason, caught.value.row) == ("cap_replayed", first)


def test_a_failed_delete_closes_nothing(world):
    stored, _ = world.store()
    cap = world.cap(Op.CRED_DELETE, NAME)
    _, content = row_of(world.ack(cap, 1), world)
    assert content.result == OpResult.FAILURE
    assert world.fetch(stored).key == stored.key
    with refused("cap_replayed"):
        world.ack(cap, 0)


def test_a_delete_needs_a_touch_and_the_whole_order(world):
    world.store()
    with refused("k11_required"):
        world.ack(world.cap(Op.CRED_DELETE, NAME, touch=False))
    cap = world.cap(Op.CRED_DELETE, NAME)
    world.registry.bend_device(world.user.master.key_hash, revoked=True)
    with refused("device_revoked"):
        world.ack(cap)


def test_a_delete_of_another_body_is_malformed(world):
    with refused("invalid_body"):
        world.ack(world.cap(Op.CRED_DELETE, NAME, request_hash=bytes(32)))


# SignAuditRow.


def test_acknowledging_appends_nothing_and_answers_again(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    stored = world.derive(cap)
    assert world.ack(cap) == stored.row
    rows, lines = world.count("rows"), world.count("journal")
    assert world.ack(cap) == stored.row
    assert (world.count("rows"), world.count("journal")) == (rows, lines) == (1, 3)


def test_a_failed_store_gets_a_row_of_its_own(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    stored = world.derive(cap)
    failure = world.ack(cap, 1)
    _, content = row_of(failure, world)
    assert (content.result, content.op_body.cap) == (OpResult.FAILURE, digest_of(cap))
    assert world.ack(cap, 1) == failure
    with pytest.raises(KeyServiceError) as caught:
        world.ack(cap, 0)
    assert (caught.value.reason, caught.value.row) == ("cap_replayed", failure)
    assert current(world) is None
    assert failure != stored.row


def test_success_cannot_become_failure(world):
    stored, cap = world.store()
    for result in (1, 2):
        with pytest.raises(KeyServiceError) as caught:
            world.ack(cap, result)
        assert (caught.value.reason, caught.value.row) == ("cap_replayed", stored.row)


def test_a_failed_read_after_its_release(world):
    stored, _ = world.store()
    cap = world.cap(Op.CRED_FETCH, NAME)
    fetched = world.read(cap, stored)
    _, content = row_of(world.ack(cap, 1), world)
    assert (content.op_kind, content.result) == (OpKind.CRED_FETCH, OpResult.FAILURE)
    assert world.count("rows") == 3
    with refused("cap_replayed"):
        world.ack(cap, 0)
    # Reads may be repeated also after that; the first outcome stands.
    again = world.read(cap, stored)
    assert again.key == fetched.key
    assert AuditRow.parse(world.ack(cap, 1)).seq == 2


def test_a_read_that_succeeded_is_answered_with_its_row(world):
    stored, _ = world.store()
    cap = world.cap(Op.CRED_FETCH, NAME)
    fetched = world.read(cap, stored)
    assert world.ack(cap, 0) == fetched.row
    assert world.count("rows") == 2


def test_nothing_succeeds_that_was_not_released(world):
    for cap in (world.cap(Op.CRED_FETCH, NAME), world.cap(Op.CRED_STORE, NAME)):
        with refused("invalid_body"):
            world.ack(cap, 0)


def test_what_was_refused_by_a_worker_gets_a_row_if_it_is_authorised(world):
    cap = world.cap(Op.CRED_FETCH, NAME)
    row = world.ack(cap, 2)
    _, content = row_of(row, world)
    assert content.result == OpResult.NOT_PERMITTED
    assert world.ack(cap, 2) == row
    with refused("k11_required"):
        world.ack(world.cap(Op.CRED_FETCH, NAME, touch=False), 1)
    with refused("device_signature_invalid"):
        world.ack(world.signed(world.request(Op.CRED_FETCH, NAME), device_signature=bytes(64)), 1)


def test_a_store_reported_as_failed_is_used_up(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    world.ack(cap, 1)
    with pytest.raises(KeyServiceError) as caught:
        world.derive(cap)
    assert (caught.value.reason, caught.value.row) == ("cap_replayed", None)


@pytest.mark.parametrize("result", [3, -1, 2**32 - 1])
def test_there_are_three_results(world, result):
    with refused("invalid_body"):
        world.ack(world.cap(Op.CRED_STORE, NAME), result)


def test_audit_reads_get_no_row(world):
    with refused("invalid_cap"):
        world.ack(world.cap(Op.AUDIT_LIST, "audit:own"), 1)


def test_what_was_released_is_acknowledged_whatever_happened_since(world):
    """Expired, rotated, revoked, frozen, out of scope: the object is written, so the record must be made."""
    cap = world.cap(Op.CRED_STORE, NAME)
    stored = world.derive(cap)
    read_cap = world.cap(Op.CRED_FETCH, NAME, key=world.user.agent)
    world.read(read_cap, stored)
    world.clock.forward(3600)
    world.registry.set_epoch(2)
    world.committer.run(lambda tx: tx.conn.execute("UPDATE meta SET value = 2 WHERE key = 'k3_epoch'"))
    for key in (world.user.master, world.user.agent):
        world.registry.bend_device(key.key_hash, revoked=True)
    world.registry.bend_operator(world.user.operator, frozen=True, scopes={})
    assert world.ack(cap) == stored.row
    with refused("class_mismatch"):
        world.service.sign_audit_row(MEMORY, cap, 0)


def test_only_the_digest_counts_once_a_cap_is_known(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    stored = world.derive(cap)
    stripped = replace(Cap.parse(cap), cosign=bytes(64), device_signature=bytes(64), k11=None).encode()
    assert world.ack(stripped) == stored.row


def test_a_forgotten_read_is_authorised_anew(world):
    stored, _ = world.store()
    cap = world.cap(Op.CRED_FETCH, NAME)
    world.read(cap, stored)
    world.clock.forward(421)
    world.settle()
    world.settle()
    with refused("cap_expired"):
        world.ack(cap, 1)


def test_a_digest_that_is_forgotten_between_look_and_commit(world):
    stored, _ = world.store()
    cap = world.cap(Op.CRED_FETCH, NAME)
    world.read(cap, stored)

    def forget():
        world.committer.run(lambda tx: tx.conn.execute("DELETE FROM caps WHERE digest = ?", (digest_of(cap),)))

    service = world.make_service(world.registry, journalist=Between(world, forget))
    with refused("cap_expired"):
        service.sign_audit_row(world.caller(cap), cap, 1)


def test_acknowledgements_survive_a_restart(tmp_path):
    world = World(tmp_path)
    cap = world.cap(Op.CRED_STORE, NAME)
    stored = world.derive(cap)
    user, k1 = world.user, (world.k1, world.k1_public)
    world.close()
    with world_in(tmp_path) as again:
        again.user, (again.k1, again.k1_public) = user, k1
        assert again.ack(cap) == stored.row
        again.registry.put(user.state())
        again.service = again.make_service(again.registry)
        with pytest.raises(KeyServiceError) as caught:
            again.derive(cap)
        assert (caught.value.reason, caught.value.row) == ("cap_replayed", stored.row)
