"""The session of a store or delete holds its object: what waits, what ends a hold, and what is refused after it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import HOLD_S, ObjectClass, Op
from signer.holds import Hold, check_free, check_still_held
from signer.ledger import ObjectRef
from signer.ports import StsSession
from tests.unit.core.refusal import refused
from tests.unit.signer.world import ARN, World, digest_of, world_in

NAME = "cred:openrouter"


class Exchange:
    """An STS endpoint that gives everybody a session."""

    def __init__(self) -> None:
        self.calls = 0

    def assume_role(self, **_asked: str) -> StsSession:
        self.calls += 1
        return StsSession(access_key_id="A", secret_access_key="s", session_token="t", expires_at=1)


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
def world(tmp_path: Path, exchange: Exchange) -> Iterator[World]:
    with world_in(tmp_path, exchange=exchange) as made:
        yield made


def session(world: World, cap: bytes) -> None:
    world.service.sts_credentials(world.caller(cap), cap, ARN)


def stored(world: World, *, expect: bytes = b"") -> bytes:
    """A store through the object store, from session to acknowledgement."""
    cap = world.cap(Op.CRED_STORE, NAME, touch=bool(expect))
    session(world, cap)
    world.derive(cap, expect=expect)
    world.ack(cap)
    return cap


def current(world: World) -> bytes | None:
    return {entry.name: entry.store for entry in world.names().names}.get("openrouter")


def test_of_two_stores_at_once_one_waits(world: World, exchange: Exchange) -> None:
    first, second = world.cap(Op.CRED_STORE, NAME), world.cap(Op.CRED_STORE, NAME)
    session(world, first)
    before = world.dump()
    with refused("overloaded"):
        session(world, second)
    assert world.dump()[:4] == before[:4]
    assert exchange.calls == 1, "the endpoint is spared"
    session(world, world.cap(Op.CRED_STORE, "cred:other"))
    world.derive(first)
    world.ack(first)
    with refused("k11_required"):  # no longer held: it would replace the first
        session(world, second)


def test_an_acknowledged_store_lets_go_at_once(world: World) -> None:
    second = stored(world, expect=digest_of(stored(world)))
    assert current(world) == digest_of(second)
    assert world.count("holds") == 0


def test_a_fetch_waits_for_nobody(world: World) -> None:
    world.store()
    session(world, world.cap(Op.CRED_STORE, NAME, touch=True))
    session(world, world.cap(Op.CRED_FETCH, NAME))


def test_a_hold_ends_with_its_time(world: World) -> None:
    first, second = world.cap(Op.CRED_STORE, NAME), world.cap(Op.CRED_STORE, NAME)
    session(world, first)
    world.derive(first)
    world.clock.forward(HOLD_S - 1)
    world.settle()
    with refused("overloaded"):
        session(world, second)
    world.clock.forward(1.5)
    session(world, second)


def test_what_another_may_have_overwritten_is_not_acknowledged(world: World) -> None:
    """The first worker comes back after the second took over: the bucket may hold either, so only the second counts."""
    first, second = world.cap(Op.CRED_STORE, NAME), world.cap(Op.CRED_STORE, NAME)
    session(world, first)
    world.derive(first)
    world.clock.forward(HOLD_S + 1)
    session(world, second)
    world.derive(second)
    with refused("version_not_current"):
        world.ack(first)
    world.ack(second)
    assert current(world) == digest_of(second)
    with refused("version_not_current"):
        world.ack(first)


def test_a_late_acknowledgement_counts_while_nobody_took_over(world: World) -> None:
    cap = world.cap(Op.CRED_STORE, NAME)
    session(world, cap)
    world.derive(cap)
    world.clock.forward(HOLD_S + 1)
    world.ack(cap)
    assert current(world) == digest_of(cap)


def test_a_failure_lets_go_only_where_no_key_was_released(world: World) -> None:
    """Without a key nothing was sent to the bucket. What was sent and failed may still arrive there."""
    first, second, third = (world.cap(Op.CRED_STORE, NAME) for _ in range(3))
    session(world, first)
    world.ack(first, 1)
    session(world, second)
    world.derive(second)
    world.ack(second, 1)
    with refused("overloaded"):
        session(world, third)


def test_a_failure_said_twice_lets_go_of_nothing(world: World) -> None:
    """What its worker wrote may still arrive at the object store."""
    failed = world.cap(Op.CRED_STORE, NAME)
    session(world, failed)
    world.derive(failed)
    assert world.ack(failed, 1) == world.ack(failed, 1)
    with refused("overloaded"):
        session(world, world.cap(Op.CRED_STORE, NAME))


def test_somebody_elses_outcome_ends_no_hold(world: World) -> None:
    cap = stored(world)
    other = world.cap(Op.CRED_STORE, NAME, touch=True)
    session(world, other)
    world.ack(cap)
    with refused("overloaded"):
        session(world, world.cap(Op.CRED_STORE, NAME, touch=True))


def test_a_read_supersedes_nothing_that_a_store_under_way_expects(world: World) -> None:
    """Else the store under way would be refused after it has overwritten what the read made current."""
    unacknowledged = world.cap(Op.CRED_STORE, NAME)
    session(world, unacknowledged)
    written = world.derive(unacknowledged)
    world.clock.forward(HOLD_S + 1)
    under_way = world.cap(Op.CRED_STORE, NAME)
    session(world, under_way)
    world.derive(under_way)
    with refused("overloaded"):
        world.fetch(written)
    world.ack(under_way)
    assert current(world) == digest_of(under_way)


def test_nor_where_the_worker_has_a_lock_of_its_own_and_no_session(world: World) -> None:
    """A worker wrote a store and died; the next one is under way when somebody reads what is there."""
    written = world.derive(world.cap(Op.CRED_STORE, NAME))
    under_way = world.cap(Op.CRED_STORE, NAME)
    world.derive(under_way)
    with refused("overloaded"):
        world.fetch(written)
    world.ack(under_way)
    assert current(world) == digest_of(under_way)


def test_a_store_without_a_session_keeps_no_session_out(world: World) -> None:
    world.derive(world.cap(Op.CRED_STORE, NAME))
    session(world, world.cap(Op.CRED_STORE, NAME))


def test_a_store_without_a_session_that_died_keeps_reads_out_for_a_while_only(world: World) -> None:
    written = world.cap(Op.CRED_STORE, NAME)
    version = world.derive(written)
    world.derive(world.cap(Op.CRED_STORE, NAME))
    world.clock.forward(HOLD_S)
    world.fetch(version)
    assert current(world) == digest_of(written)


def test_a_store_without_a_session_takes_no_session_its_object(world: World) -> None:
    held = world.cap(Op.CRED_STORE, NAME)
    session(world, held)
    world.derive(held)
    world.derive(world.cap(Op.CRED_STORE, NAME))
    world.ack(held)
    assert current(world) == digest_of(held)


def test_a_read_makes_a_store_current_that_was_not_acknowledged(world: World) -> None:
    cap = world.cap(Op.CRED_STORE, NAME)
    session(world, cap)
    written = world.derive(cap)
    world.fetch(written)
    assert current(world) == digest_of(cap)


def deleted(world: World) -> bytes:
    cap = world.cap(Op.CRED_DELETE, NAME)
    world.ack(cap)
    session(world, cap)
    return cap


def test_a_delete_holds_until_it_was_carried_out(world: World) -> None:
    stored(world)
    cap = deleted(world)
    with refused("overloaded"):
        session(world, world.cap(Op.CRED_STORE, NAME))
    assert world.ack(cap) == world.ack(cap)
    stored(world)


def test_a_delete_waits_for_a_store(world: World) -> None:
    session(world, world.cap(Op.CRED_STORE, NAME))
    cap = world.cap(Op.CRED_DELETE, NAME)
    world.ack(cap)
    with refused("overloaded"):
        session(world, cap)
    world.clock.forward(HOLD_S + 1)
    session(world, cap)


def test_a_delete_that_was_not_carried_out_gets_another_session(world: World) -> None:
    stored(world)
    cap = deleted(world)
    session(world, cap)
    world.ack(cap)
    session(world, cap)


def test_an_unauthorised_delete_gets_one_session(world: World) -> None:
    cap = world.cap(Op.CRED_DELETE, NAME)
    session(world, cap)
    with refused("cap_replayed"):
        session(world, cap)


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_delete_gets_no_session_once_something_was_stored_since(world: World, *, acknowledged: bool) -> None:
    stored(world)
    cap = deleted(world)
    world.ack(cap)
    newer = world.cap(Op.CRED_STORE, NAME)
    session(world, newer)
    world.derive(newer)
    if acknowledged:
        world.ack(newer)
    with refused("version_not_current"):
        session(world, cap)


def test_a_hold_is_of_one_object(world: World) -> None:
    ref = ObjectRef(owner=bytes(32), object_class=ObjectClass.CREDENTIALS, service=NAME)
    mine = Hold(digest=b"mine", until=1.5)
    world.committer.run(lambda tx: tx.ledger.put_hold(ref, mine))
    others = [
        replace(ref, owner=bytes([1]) * 32),
        replace(ref, object_class=ObjectClass.MEMORY),
        replace(ref, service="cred:other"),
    ]
    with world.database.snapshot() as ledger:
        assert ledger.hold(ref) == mine
        assert [ledger.hold(other) for other in others] == [None] * 3
    world.committer.run(lambda tx: tx.ledger.end_hold(ref, b"another's"))
    with world.database.snapshot() as ledger:
        assert ledger.hold(ref) == mine


HOLDS = st.none() | st.builds(
    Hold, digest=st.sampled_from([b"a", b"b"]), until=st.floats(min_value=0, max_value=100, allow_nan=False)
)


@given(hold=HOLDS, now=st.floats(min_value=0, max_value=100, allow_nan=False))
def test_who_may_take_an_object_is_whoever_nobody_else_keeps_out(hold: Hold | None, now: float) -> None:
    def free(digest: bytes) -> bool:
        try:
            check_free(hold, digest, now=now)
        except KeyServiceError as error:
            return error.reason != "overloaded"
        return True

    assert free(b"a") or free(b"b")
    assert (free(b"a") and free(b"b")) == (hold is None or now >= hold.until)
    if hold is not None:
        assert free(hold.digest)
        check_still_held(hold, hold.digest)
