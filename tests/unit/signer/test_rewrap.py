"""`Rewrap`: what comes in, what goes out, and that no version ever comes back by it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.audit import OpKind, OpResult
from agentkeys_core.bodies import StoreBody
from agentkeys_core.envelope import Envelope, ObjectPlaintext
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.hashes import sha256
from agentkeys_core.ops import ObjectClass, Op
from tests.unit.core.refusal import refused
from tests.unit.signer.rewrap_kit import (
    CLASSES,
    NAME,
    TRAVEL,
    VALUE,
    legacy,
    opened,
    opened_at_first,
    owner_of,
    rewrap,
    rows,
    sealed,
    stored,
)
from tests.unit.signer.world import AUDIT, MEMORY, Between, current, digest_of, row_of, world_in


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        made.gate.open_window(600)
        yield made


@pytest.mark.parametrize("name", [NAME, TRAVEL])
def test_an_envelope_of_an_older_epoch_comes_back_under_the_current_one(world, name):
    released, envelope, cap = stored(world, name)
    world.advance()
    wrapped = rewrap(world, envelope, name)
    header = Envelope.parse(wrapped)
    assert (header.epoch, header.object_class) == (2, CLASSES[name.partition(":")[0]][0])
    assert header.salt != released.salt
    assert opened(world, wrapped, name) == opened_at_first(world, released, envelope, name)
    row, content = rows(world)[-2], rows(world)[-2].verify(world.audit_keys())
    assert row.actor == owner_of(world, name)
    assert content.operator_omni == world.user.operator
    assert content.op_kind == (OpKind.CRED_REWRAP if name == NAME else OpKind.MEMORY_REWRAP)
    body = content.op_body
    assert (body.cap, body.svc, body.epoch, body.salt) == (digest_of(cap), name, 2, header.salt)
    assert body.req is None, "no row of the signer's vouches for what a worker sealed"
    assert content.result is OpResult.SUCCESS
    assert [line["kind"] for line in world.lines() if line["method"] == "Rewrap"] == ["release"]


def test_the_store_stays_the_same_for_whoever_replaces_it(world):
    _, envelope, cap = stored(world)
    world.advance()
    wrapped = rewrap(world, envelope)
    rewrap(world, wrapped)
    assert current(world) == digest_of(cap)
    world.store(expect=digest_of(cap))
    with refused("version_not_current"):
        opened(world, wrapped)


def test_the_older_envelope_opens_until_the_newer_one_is_read(world):
    _, envelope, _ = stored(world)
    world.advance()
    wrapped = rewrap(world, envelope)
    opened(world, envelope)
    opened(world, wrapped)
    with refused("version_not_current"):
        opened(world, envelope)


def test_showing_the_new_envelope_acknowledges_it(world):
    _, envelope, _ = stored(world)
    world.advance()
    wrapped = rewrap(world, envelope)
    assert rewrap(world, wrapped) == wrapped
    with refused("version_not_current"):
        opened(world, envelope)
    with world.database.snapshot() as ledger:
        assert ledger.salts_by_epoch() == {2: 1}, "nothing names the old epoch any more"
    world.settle()
    before = world.dump()
    assert rewrap(world, wrapped) == wrapped
    assert world.dump()[:-2] == before[:-2], "and nothing more to change"


def test_a_lost_answer_costs_one_more_salt_and_nothing_else(world):
    _, envelope, _ = stored(world)
    world.advance()
    lost, kept = rewrap(world, envelope), rewrap(world, envelope)
    assert lost != kept
    opened(world, kept)
    with refused("version_not_current"):
        opened(world, lost)


def test_what_was_not_read_yet_can_go_on_to_the_next_epoch(world):
    world.advance(2)
    _, envelope, _ = stored(world)
    world.advance(1)  # the fixture holds two epochs: whichever comes next
    wrapped = rewrap(world, envelope)
    world.advance(2)
    opened(world, rewrap(world, wrapped))


def test_an_older_version_is_not_revived(world):
    _, old, cap = stored(world)
    stored(world, expect=digest_of(cap))
    world.advance()
    with refused("version_not_current"):
        rewrap(world, old)


@pytest.mark.parametrize("name", [NAME, TRAVEL])
def test_a_store_that_came_meanwhile_wins(world, name):
    """The copy of the older value is no newer version, also where replacing needs no K11."""
    _, envelope, cap = stored(world, name)
    op = Op.CRED_STORE if name == NAME else Op.MEMORY_PUT
    key = None if name == NAME else world.user.agent
    world.advance()
    newer = world.cap(op, name, key=key, touch=name == NAME)
    released = world.derive(newer, expect=digest_of(cap))
    wrapped = rewrap(world, envelope, name)
    world.ack(newer)
    with refused("version_not_current"):
        opened(world, wrapped, name)
    with refused("version_not_current"):
        rewrap(world, wrapped, name)
    world.read(world.cap(Op.CRED_FETCH if name == NAME else Op.MEMORY_GET, name, key=world.user.agent), released)


def test_a_store_that_was_never_acknowledged_is_not_made_current(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    released = world.derive(cap)
    world.advance()
    with refused("version_not_current"):
        rewrap(world, sealed(world, released, released.row))
    assert current(world) is None


def test_a_deleted_object_stays_deleted(world):
    _, envelope, _ = stored(world)
    world.ack(world.cap(Op.CRED_DELETE, NAME))
    world.advance()
    for gone in (envelope, legacy(world.user.operator)):
        with refused("version_not_current"):
            rewrap(world, gone)


@pytest.mark.parametrize("spelling", ["openrouter", "cred:openrouter"])
@pytest.mark.parametrize("told", [1, 2, 77])
def test_a_legacy_envelope_becomes_a_store(world, spelling, told):
    """However its writer spelt the name; the epoch in its header is no more than a hint."""
    wrapped = rewrap(world, legacy(world.user.operator, spelling=spelling, told=told))
    plaintext = ObjectPlaintext.parse(opened(world, wrapped))
    assert StoreBody.parse(plaintext.body).value == VALUE
    content = row_of(plaintext.row.encode(), world)[1]
    body = content.op_body
    assert (content.op_kind, body.svc, body.req) == (OpKind.CRED_REWRAP, NAME, sha256(plaintext.body))
    assert (content.actor_omni, content.operator_omni) == (world.user.operator, world.user.operator)
    assert (body.epoch, body.salt) == (1, Envelope.parse(wrapped).salt)
    assert current(world) == body.cap, "a name in the list, which the next store replaces"
    with pytest.raises(KeyServiceError) as caught:
        world.store()
    assert caught.value.reason == "k11_required"
    world.store(expect=body.cap)


def test_a_legacy_envelope_comes_in_once(world):
    envelope = legacy(world.user.operator)
    wrapped = rewrap(world, envelope)
    assert rewrap(world, wrapped) == wrapped
    for again in (envelope, legacy(world.user.operator, value=b"another")):
        with refused("version_not_current"):
            rewrap(world, again)


def test_a_legacy_envelope_replaces_nothing(world):
    stored(world)
    with refused("version_not_current"):
        rewrap(world, legacy(world.user.operator))


def test_a_first_store_that_came_meanwhile_wins_over_a_legacy_envelope(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    world.derive(cap)
    wrapped = rewrap(world, legacy(world.user.operator))
    world.ack(cap)
    with refused("version_not_current"):
        opened(world, wrapped)


def test_a_legacy_envelope_of_nobody_is_refused(world):
    stranger = bytes(32)
    with refused("invalid_omni"):
        rewrap(world, legacy(stranger), owner=stranger)


def test_nothing_new_is_stored_for_a_frozen_operator(world):
    _, envelope, _ = stored(world, "cred:other")
    world.registry.bend_operator(world.user.operator, frozen=True)
    with refused("operator_frozen"):
        rewrap(world, legacy(world.user.operator))
    world.advance()
    assert Envelope.parse(rewrap(world, envelope, "cred:other")).epoch == 2


@pytest.mark.parametrize("name", [NAME, TRAVEL])
def test_what_was_torn_down_is_not_rewrapped(world, name):
    _, envelope, _ = stored(world, name)
    world.advance()
    owner, object_class = owner_of(world, name), CLASSES[name.partition(":")[0]][0]
    world.registry.bend_operator(world.user.operator, torn_down={owner: 3 - object_class})
    rewrap(world, envelope, name)
    world.registry.bend_operator(world.user.operator, torn_down={owner: int(object_class)})
    with refused("policy_refused"):
        rewrap(world, envelope, name)


def test_a_legacy_credential_becomes_no_memory(world):
    """Its class is not authenticated, and a memory is read with less."""
    for spelling in ("openrouter", "memory:openrouter"):
        envelope = legacy(world.user.operator, spelling=spelling, value=VALUE * 10)
        with refused("unsupported_version"):
            rewrap(world, envelope, "memory:openrouter", owner=world.user.operator)


def test_another_owner_or_name_does_not_open(world):
    _, envelope, _ = stored(world)
    world.advance()
    for changed in ({"owner": world.user.agent_actor}, {"service": "cred:other"}):
        with refused("invalid_envelope"):
            rewrap(world, envelope, **changed)
        with refused("invalid_envelope"):
            rewrap(world, legacy(world.user.operator), **changed)


def test_without_a_window_there_is_nothing(world):
    _, envelope, _ = stored(world)
    world.advance()
    world.gate.open_window(0)
    before = world.count("salts")
    for data in (envelope, legacy(world.user.operator), b""):
        with refused("window_closed"):
            rewrap(world, data)
    assert world.count("salts") == before


@pytest.mark.parametrize("caller", [AUDIT, MEMORY])
def test_only_the_worker_of_that_class(world, caller):
    _, envelope, _ = stored(world)
    world.gate.open_window(0)
    with refused("class_mismatch"):
        rewrap(world, envelope, caller=caller)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"object_class": 0}, "invalid_body"),
        ({"object_class": 3}, "invalid_body"),
        ({"object_class": ObjectClass.MEMORY}, "class_mismatch"),
        ({"owner": b"x" * 31}, "invalid_omni"),
        ({"service": "openrouter"}, "invalid_body"),
        ({"service": "memory:openrouter"}, "invalid_body"),
        ({"service": "cred:list"}, "invalid_body"),
        ({"service": "audit:own"}, "invalid_body"),
        ({"envelope": b""}, "invalid_envelope"),
        ({"envelope": b"\x05" * 97}, "invalid_envelope"),
        ({"envelope": b"\x04" * 29}, "invalid_envelope"),
        ({"envelope": b"\x06" * 200}, "unsupported_version"),
    ],
)
def test_bad_requests_have_a_reason(world, changed, reason):
    with refused(reason):
        rewrap(world, **({"envelope": b"\x05" * 200} | changed))


def test_an_envelope_is_opened_in_the_order_of_the_protocol(world):
    _, envelope, _ = stored(world)
    other_class = envelope[:5] + b"\x02" + envelope[6:]
    with refused("class_mismatch"):
        rewrap(world, other_class[:1] + b"\x00\x00\x00\x63" + other_class[5:])
    with refused("epoch_not_held"):
        rewrap(world, envelope[:1] + b"\x00\x00\x00\x63" + envelope[5:])
    with refused("epoch_not_held"):
        rewrap(world, legacy(world.user.operator, told=9)[:-1] + b"\x00")
    for place in (10, 50, 75, -1):  # salt, commitment, nonce, tag
        damaged = bytearray(envelope)
        damaged[place] ^= 1
        with refused("invalid_envelope"):
            rewrap(world, bytes(damaged))


def test_an_epoch_that_moved_meanwhile_is_taken_as_it_is_then(world):
    _, envelope, _ = stored(world)
    world.service = world.make_service(world.registry, journalist=Between(world, world.advance))
    assert Envelope.parse(rewrap(world, envelope)).epoch == 2


def test_what_cannot_be_recorded_is_not_rewrapped(world):
    _, envelope, _ = stored(world)
    world.advance()
    before = world.count("rows")
    world.committer.close()
    with refused("journal_unavailable"):
        rewrap(world, envelope)
    assert world.count("rows") == before


def test_a_refusal_is_recorded_under_the_callers_certificate(world):
    with refused("invalid_envelope"):
        rewrap(world, b"")
    world.refusals.flush()
    assert [line["reason"] for line in world.lines() if line["kind"] == "refusal"] == ["invalid_envelope"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with world_in(tmp_path_factory.mktemp("shared")) as made:
        made.gate.open_window(3600)
        yield made


@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"\x04", b"\x05", b"\x05\x00\x00\x00\x01\x01"]))
def test_hostile_bytes_are_refused_by_name(shared, data, head):
    with pytest.raises(KeyServiceError) as caught:
        rewrap(shared, head + data)
    reasons = {"invalid_envelope", "unsupported_version", "class_mismatch", "epoch_not_held"}
    assert caught.value.reason in reasons


@given(name=st.text(max_size=80), owner=st.binary(max_size=40), number=st.integers(0, 2**31))
def test_hostile_names_are_refused_by_name(shared, name, owner, number):
    with pytest.raises(KeyServiceError) as caught:
        rewrap(shared, b"\x05" * 200, service=name, owner=owner, object_class=number)
    assert caught.value.reason in {"invalid_body", "invalid_omni", "class_mismatch", "invalid_envelope"}
