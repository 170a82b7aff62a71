"""What a follower believes after which events: fresh only when caught up, in time, and never backwards."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from agentkeys.signer.v1 import registry_pb2 as pb
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, OperatorState, Tier
from agentkeys_runtime.registry_view import _MAX_CHANGED, RegistryView
from tests.unit.core.refusal import refused

ONE, TWO = b"\1" * 32, b"\2" * 32
STATE = OperatorState(
    operator_omni=ONE,
    wallet=bytes(20),
    wallet_epoch=0,
    frozen=False,
    nonce=1,
    freeze_nonce=0,
    threshold=1,
    devices=MappingProxyType({}),
    scopes=MappingProxyType({}),
    incarnation=1,
    k3_epoch=1,
)


class Hand:
    """A monotonic clock moved by hand; the registry's own time runs 1000 s ahead of it."""

    at = 50.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def view(clock: Hand) -> RegistryView:
    view = RegistryView(max_age_s=5, clock=clock)
    view.begin(status(5))
    return view


def head(sequence: int, digest: bytes = b"h") -> pb.RegistryHead:
    return pb.RegistryHead(sequence=sequence, hash=digest * 32, mac=bytes(32), epoch=1)


def status(sequence: int, *, incarnation: int = 1, registry_id: str = "r") -> pb.GetStatusResponse:
    return pb.GetStatusResponse(
        registry_id=registry_id, k3_epoch=1, incarnation=incarnation, server_time=1050, head=head(sequence)
    )


def event(
    sequence: int,
    *,
    change: int | None = None,
    operator: bytes = ONE,
    at: float = 50,
    epoch: int = 1,
    incarnation: int = 1,
    digest: bytes = b"h",
) -> pb.ChangeEvent:
    return pb.ChangeEvent(
        head=head(sequence, digest),
        server_time=int(1000 + at),
        k3_epoch=epoch,
        incarnation=incarnation,
        change=None if change is None else pb.Change(sequence=change, operator_omni=operator, type="Freeze"),
    )


def with_journal(made: pb.ChangeEvent, sequence: int, digest: bytes = b"j") -> pb.ChangeEvent:
    made.journal.CopyFrom(pb.JournalHead(sequence=sequence, hash=digest * 32, mac=bytes(32), epoch=1))
    return made


def test_a_journal_that_fell_is_a_rollback(view: RegistryView) -> None:
    """Releases that were undone show in no registry head."""
    assert view.on_event(with_journal(event(5), 7))
    assert view.on_event(with_journal(event(5), 9))
    for older in (with_journal(event(5), 8), with_journal(event(5), 9, b"k"), event(5)):
        with refused("registry_rolled_back"):
            view.on_event(older)
    assert view.journal.sequence == 9, "what is echoed stays the newest"
    view.begin(status(3, incarnation=2))
    assert view.on_event(with_journal(event(3, incarnation=2), 4))


def test_nothing_counts_before_the_first_event(view: RegistryView) -> None:
    with refused("registry_stale"):
        view.check_fresh()
    assert view.on_event(event(5))
    view.check_fresh()


def test_knowledge_ages(view: RegistryView, clock: Hand) -> None:
    view.on_event(event(5))
    clock.at += 5
    view.check_fresh()
    clock.at += 0.1
    with refused("registry_stale"):
        view.check_fresh()


def test_is_not_fresh_until_every_missed_change_was_seen(view: RegistryView) -> None:
    for number in (6, 7):
        assert not view.on_event(event(8, change=number))
        with refused("registry_stale"):
            view.check_fresh()
    assert view.on_event(event(8, change=8))
    view.check_fresh()


def test_an_event_that_was_held_up_does_not_count(view: RegistryView, clock: Hand) -> None:
    view.on_event(event(5, at=50))
    clock.at += 20
    assert not view.on_event(event(5, at=52))  # sent 18 s ago
    with refused("registry_stale"):
        view.check_fresh()
    assert view.on_event(event(5, at=70))
    view.check_fresh()


def test_a_change_drops_the_operators_state_and_refuses_older_ones(view: RegistryView) -> None:
    view.on_event(event(5))
    assert view.keep(STATE, 5, TWO)
    assert view.cache.of_device(TWO) is STATE
    view.on_event(event(6, change=6, operator=TWO))
    assert view.cache.of_operator(ONE) is STATE
    view.on_event(event(7, change=7, operator=ONE))
    assert view.cache.of_operator(ONE) is None
    assert not view.keep(STATE, 6, None)
    assert view.cache.of_operator(ONE) is None
    assert view.keep(STATE, 7, None)
    assert view.cache.of_operator(ONE) is STATE


def test_remembering_changes_is_bounded_and_then_strict_for_all(view: RegistryView) -> None:
    for number in range(6, 6 + _MAX_CHANGED + 1):
        view.on_event(event(number, change=number, operator=number.to_bytes(32, "big")))
    assert len(view._changed) <= _MAX_CHANGED
    assert not view.keep(STATE, view.sequence - 1, None)
    assert view.keep(STATE, view.sequence, None)


def test_a_gap_drops_everything(view: RegistryView) -> None:
    view.on_event(event(5))
    view.keep(STATE, 5, None)
    view.on_event(event(9, change=9, operator=TWO))
    assert view.cache.of_operator(ONE) is None


@pytest.mark.parametrize(
    "bad",
    [event(4), event(5, digest=b"x"), event(6, epoch=0), event(6, incarnation=0)],
    ids=["lower head", "other head", "lower epoch", "lower incarnation"],
)
def test_what_goes_backwards_is_refused(view: RegistryView, bad: pb.ChangeEvent) -> None:
    view.on_event(event(5))
    with refused("registry_rolled_back"):
        view.on_event(bad)


def test_rolled_back_lasts_until_a_head_that_is_not_older(view: RegistryView) -> None:
    view.on_event(event(5))
    view.rolled_back()
    with refused("registry_rolled_back"):
        view.check_fresh()
    view.begin(status(4))
    with refused("registry_rolled_back"):
        view.on_event(event(4))
    view.on_event(event(5))
    view.check_fresh()


def test_a_new_epoch_drops_states_and_keeps_none_of_the_old(view: RegistryView) -> None:
    view.on_event(event(5))
    view.keep(STATE, 5, None)
    view.on_event(event(5, epoch=2))
    assert view.cache.of_operator(ONE) is None
    assert view.keep(STATE, 5, None)  # good for this answer, not for later ones
    assert view.cache.of_operator(ONE) is None
    view.keep(replace(STATE, k3_epoch=2), 5, None)
    assert view.cache.of_operator(ONE) is not None


def test_a_new_incarnation_starts_anew(view: RegistryView) -> None:
    view.on_event(event(5))
    with refused("registry_stale"):
        view.on_event(event(2, incarnation=2))
    with refused("registry_stale"):
        view.check_fresh()
    view.begin(status(2, incarnation=2))
    assert view.on_event(event(2, incarnation=2))
    assert view.sequence == 2


def test_another_registry_is_refused(view: RegistryView) -> None:
    with refused("registry_rolled_back"):
        view.begin(status(9, registry_id="other"))


def test_forgetting_makes_everything_stale(view: RegistryView) -> None:
    view.on_event(event(5))
    view.keep(STATE, 5, None)
    view.cache_unsure()
    assert view.cache.of_operator(ONE) is None
    view.check_fresh()
    view.forget()
    assert not view.fresh.is_set()
    with refused("registry_stale"):
        view.check_fresh()


def test_what_was_seen_is_remembered_when_it_changes(view: RegistryView) -> None:
    """To tell who is known: also by each of its devices, whichever it was found through."""
    device = DeviceRecord(
        device_key_hash=TWO,
        operator_omni=ONE,
        actor_omni=ONE,
        address=bytes(20),
        tier=Tier.MASTER,
        roles=ALL_ROLES,
        revoked=False,
        registered_at=1,
    )
    state = replace(STATE, devices=MappingProxyType({TWO: device}))
    view.on_event(event(5))
    view.keep(state, 5, None)
    view.on_event(event(6, change=6))
    view.cache_unsure()
    assert view.cache.of_operator(ONE) is None
    assert view.seen.of_operator(ONE) == view.seen.of_device(TWO) == state
    newer = replace(state, nonce=2)
    view.keep(newer, 6, None)
    assert view.seen.of_device(TWO) == newer
    view.forget()
    assert view.seen.of_device(TWO) is None
