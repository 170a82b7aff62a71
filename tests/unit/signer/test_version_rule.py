"""The version rule against a small model: whatever a worker tries, only the current store or a newer one is released."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op
from signer.ledger import IssuedSalt, Versions
from signer.releases import KeyRelease
from signer.versions import check_acknowledgement, check_expect, check_legacy, check_read, check_rewrap
from tests.unit.core.refusal import refused
from tests.unit.signer.world import World, digest_of

NAMES = ("memory:a", "memory:b")


@dataclass
class Issued:
    """One store that the model knows of."""

    service: str
    number: int
    cap: bytes
    expect: bytes | None
    released: KeyRelease
    closed: bool = False
    outcome: int | None = None

    @property
    def digest(self) -> bytes:
        return digest_of(self.cap)


class VersionRule(RuleBasedStateMachine):
    """Stores, acknowledgements, reads and deletes of two objects in any order."""

    stores = Bundle("stores")

    @initialize()
    def begin(self):
        self.directory = tempfile.TemporaryDirectory()
        self.world = World(Path(self.directory.name))
        self.issued: list[Issued] = []
        self.current: dict[str, Issued | None] = dict.fromkeys(NAMES)
        self.under_way: dict[str, Issued | None] = dict.fromkeys(NAMES)

    def teardown(self):
        if hasattr(self, "world"):
            self.world.check()
            self.world.close()
            self.directory.cleanup()

    def became_current(self, store: Issued) -> None:
        self.current[store.service] = store
        for other in self.issued:
            if other.service == store.service and other.number < store.number:
                other.closed = True

    def ended(self, store: Issued) -> None:
        if self.under_way[store.service] is store:
            self.under_way[store.service] = None

    @rule(target=stores, service=st.sampled_from(NAMES), guess=st.sampled_from(["right", "none", "wrong"]))
    def store(self, service, guess):
        now = self.current[service]
        right = b"" if now is None else now.digest
        expect = {"right": right, "none": b"", "wrong": b"\x99" * 32}[guess]
        cap = self.world.cap(Op.MEMORY_PUT, service)
        if expect != right:
            with refused("version_not_current"):
                self.world.derive(cap, expect=expect)
            return None
        released = self.world.derive(cap, expect=expect)
        made = Issued(service, len(self.issued) + 1, cap, expect or None, released)
        self.issued.append(made)
        self.under_way[service] = made
        return made

    @rule(store=stores, result=st.sampled_from([0, 0, 0, 1]))
    def acknowledge(self, store, result):
        if store is None:
            return
        now = self.current[store.service]
        if store.outcome is not None:
            with refused("ok" if store.outcome == result else "cap_replayed"):
                self.world.ack(store.cap, result)
            if store.outcome == result == 0:
                self.ended(store)
        elif result == 0 and (store.closed or store.expect != (None if now is None else now.digest)):
            with refused("version_not_current"):
                self.world.ack(store.cap, 0)
        else:
            row = self.world.ack(store.cap, result)
            store.outcome = result
            if result == 0:
                assert row == store.released.row
                self.became_current(store)
                self.ended(store)

    @rule(store=stores, service=st.sampled_from(NAMES))
    def read(self, store, service):
        if store is None:
            return
        cap = self.world.cap(Op.MEMORY_GET, service)
        if store.closed or service != store.service:
            with refused("version_not_current"):
                self.world.read(cap, store.released)
            return
        if self.current[service] is not store and self.under_way[service] not in (None, store):
            with refused("overloaded"):  # it would become current, and be overwritten by the store under way
                self.world.read(cap, store.released)
            return
        assert self.world.read(cap, store.released).key == store.released.key
        if self.current[service] is not store:
            self.became_current(store)
            store.outcome = 0 if store.outcome is None else store.outcome

    @rule(service=st.sampled_from(NAMES))
    def delete(self, service):
        self.world.ack(self.world.cap(Op.MEMORY_DELETE, service))
        self.current[service] = None
        for store in self.issued:
            if store.service == service:
                store.closed = True

    @rule(store=consumes(stores), expect=st.booleans())
    def replay(self, store, expect):
        if store is None:
            return
        with pytest.raises(KeyServiceError) as caught:
            self.world.derive(store.cap, expect=store.expect or b"" if expect else b"")
        assert caught.value.reason == Reason.CAP_REPLAYED
        assert caught.value.row == (store.released.row if store.outcome == 0 else None)

    @invariant()
    def the_list_shows_what_is_current(self):
        if not hasattr(self, "world"):
            return
        listed = {f"memory:{entry.name}": entry.store for entry in self.world.names(prefix="memory").names}
        assert listed == {name: store.digest for name, store in self.current.items() if store is not None}


VersionRule.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestVersionRule = VersionRule.TestCase


# The pure rules by themselves.

KNOWN = Versions(object_id=7, issued=5, current=3, store=b"s" * 32)


def salt(number: int, epoch: int = 1) -> IssuedSalt:
    return IssuedSalt(number=number, epoch=epoch, store=b"d" * 32)


@pytest.mark.parametrize(
    ("known", "expect", "reason"),
    [
        (None, None, "ok"),
        (KNOWN, b"s" * 32, "ok"),
        (None, b"s" * 32, "version_not_current"),
        (KNOWN, None, "version_not_current"),
        (KNOWN, b"x" * 32, "version_not_current"),
    ],
)
def test_expect_is_the_current_store(known, expect, reason):
    with refused(reason):
        check_expect(known, expect)


@pytest.mark.parametrize(
    ("known", "issued", "epoch", "outcome"),
    [
        (KNOWN, salt(3), 1, False),
        (KNOWN, salt(4), 1, True),
        (KNOWN, salt(2), 1, "version_not_current"),
        (KNOWN, None, 1, "version_not_current"),
        (None, None, 1, "version_not_current"),
        (KNOWN, salt(3), 2, "version_not_current"),
        (KNOWN, salt(3), 9, "epoch_not_held"),
    ],
)
def test_reads_below_the_current_store_are_refused(known, issued, epoch, outcome):
    def holds(number: int) -> bool:
        return number < 3

    if isinstance(outcome, bool):
        assert check_read(known, issued, epoch=epoch, holds=holds, guarded=False) is outcome
    else:
        with refused(outcome):
            check_read(known, issued, epoch=epoch, holds=holds, guarded=False)


@pytest.mark.parametrize(
    ("number", "expect", "outcome"),
    [(4, KNOWN.store, True), (4, None, "version_not_current"), (4, b"x" * 32, "version_not_current"), (3, None, False)],
)
def test_guarded_store_is_superseded_only_by_one_issued_to_replace_it(number, expect, outcome):
    issued = IssuedSalt(number=number, epoch=1, store=b"d" * 32, expect=expect)
    if isinstance(outcome, bool):
        assert check_read(KNOWN, issued, epoch=1, holds=lambda _: True, guarded=True) is outcome
    else:
        with refused(outcome):
            check_read(KNOWN, issued, epoch=1, holds=lambda _: True, guarded=True)


@pytest.mark.parametrize(
    ("known", "issued", "digest", "reason"),
    [
        (KNOWN, salt(3), b"d" * 32, "ok"),
        (KNOWN, salt(2), b"d" * 32, "version_not_current"),
        (KNOWN, salt(4), b"e" * 32, "version_not_current"),
        (KNOWN, None, b"d" * 32, "version_not_current"),
        (None, None, b"d" * 32, "version_not_current"),
    ],
)
def test_only_an_open_salt_is_acknowledged(known, issued, digest, reason):
    with refused(reason):
        assert check_acknowledgement(known, issued, digest=digest) == (7, issued)


@pytest.mark.parametrize(
    ("issued", "epoch", "reason"),
    [
        (IssuedSalt(number=3, epoch=1, store=b"s" * 32), 1, "ok"),
        (IssuedSalt(number=4, epoch=1, store=b"s" * 32, expect=KNOWN.store, rewrap=True), 1, "ok"),
        (IssuedSalt(number=3, epoch=1, store=b"s" * 32), 2, "version_not_current"),
        (IssuedSalt(number=2, epoch=1, store=b"s" * 32), 1, "version_not_current"),
        (IssuedSalt(number=4, epoch=1, store=b"d" * 32, expect=KNOWN.store), 1, "version_not_current"),
        (IssuedSalt(number=4, epoch=1, store=b"d" * 32, expect=b"x" * 32, rewrap=True), 1, "version_not_current"),
        (IssuedSalt(number=2, epoch=1, store=b"s" * 32, expect=KNOWN.store, rewrap=True), 1, "version_not_current"),
        (None, 1, "version_not_current"),
    ],
)
def test_only_the_current_version_is_rewrapped(issued, epoch, reason):
    with refused(reason):
        assert check_rewrap(KNOWN, issued, epoch=epoch) == (KNOWN, issued)
    with refused("version_not_current"):
        check_rewrap(None, issued, epoch=epoch)


@pytest.mark.parametrize(
    ("known", "dropped", "reason"),
    [
        (None, False, "ok"),
        (Versions(object_id=7, issued=1, current=0, store=None), False, "ok"),
        (None, True, "version_not_current"),
        (KNOWN, False, "version_not_current"),
    ],
)
def test_a_legacy_envelope_is_a_first_version_or_none(known, dropped, reason):
    with refused(reason):
        check_legacy(known, dropped=dropped)
