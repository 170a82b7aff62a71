"""The walk over all objects: what it changes, what it leaves, and that it may end anywhere and begin again."""

from pathlib import Path

import pytest

from agentkeys_core.bodies import FetchAnswer, StoreBody
from agentkeys_core.envelope import Envelope
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import ObjectClass
from tests.fakes.services_kit import Services
from tests.unit.core.refusal import refused
from tests.unit.signer.rewrap_kit import legacy
from worker.rewrap import Report, rewrap_all

NAMES = ("a", "b", "c")


@pytest.fixture
def filled(services: Services) -> Services:
    """Three objects of epoch 1, epoch 2 current, the window open."""
    for name in NAMES:
        asked = services.store(name.encode(), service=f"cred:{name}")
        assert services.send(asked).reason == "ok"
    services.world.advance()
    services.world.gate.open_window(600)
    return services


def walk(services: Services) -> Report:
    return rewrap_all(services.objects, services.signer, ObjectClass.CREDENTIALS, sleep=services.pauses.append)


def epochs(services: Services) -> set[int]:
    return {Envelope.parse(services.object_file(name).read_bytes()).epoch for name in NAMES}


def values(services: Services) -> list[bytes]:
    found = []
    for name in NAMES:
        answered = services.send(services.fetch(service=f"cred:{name}"))
        assert answered.reason == "ok", answered.json
        found.append(StoreBody.parse(FetchAnswer.parse(answered.plaintext).body).value)
    return found


def test_all_objects_come_under_the_current_epoch(filled: Services) -> None:
    assert walk(filled) == Report(rewrapped=3)
    assert epochs(filled) == {2}
    with filled.world.database.snapshot() as ledger:
        assert ledger.salts_by_epoch() == {2: 3}
    assert values(filled) == [b"a", b"b", b"c"]
    before = [filled.object_file(name).read_bytes() for name in NAMES]
    assert walk(filled) == Report(current=3)
    assert [filled.object_file(name).read_bytes() for name in NAMES] == before


def test_legacy_objects_become_readable(filled: Services) -> None:
    owner = filled.world.user.operator
    filled.object_file("old").write_bytes(legacy(owner, spelling="old", value=b"from before"))
    assert walk(filled) == Report(rewrapped=4)
    answered = filled.send(filled.fetch(service="cred:old"))
    assert StoreBody.parse(FetchAnswer.parse(answered.plaintext).body).value == b"from before"


def test_what_is_refused_is_named_and_left_as_it_is(filled: Services) -> None:
    filled.object_file("a").write_bytes(b"damaged")
    filled.object_file("c").write_bytes(filled.object_file("b").read_bytes())
    found = walk(filled)
    place = "bots/" + filled.world.user.operator.hex() + "/credentials/"
    assert found.refused == {f"{place}a.enc": Reason.INVALID_ENVELOPE, f"{place}c.enc": Reason.INVALID_ENVELOPE}
    assert (found.rewrapped, filled.object_file("a").read_bytes()) == (1, b"damaged")


def test_foreign_files_are_passed_over(filled: Services, tmp_path: Path) -> None:
    folder = filled.object_file("a").parent
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.enc").write_text("x")
    (folder / "UPPER.enc").write_text("x")
    (folder.parent / "other").mkdir()
    (filled.folder / "bots" / "file").write_text("x")
    (filled.folder / "bots" / ("ab" * 32)).symlink_to(tmp_path)
    assert walk(filled).rewrapped == 3


@pytest.mark.parametrize("reason", ["window_closed", "sealed"])
def test_what_speaks_against_all_ends_the_walk(filled: Services, reason: str) -> None:
    def after_the_first(name: str) -> None:
        if filled.signer.calls.count("rewrap") > 2:
            raise KeyServiceError(Reason(reason))

    filled.signer.before = after_the_first
    with refused(reason):
        walk(filled)
    filled.signer.before = lambda _: None
    assert epochs(filled) == {1, 2}
    assert walk(filled) == Report(rewrapped=2, current=1)
    assert values(filled) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("call", range(1, 7))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_anywhere_is_gone_on_from(filled: Services, call: int, moment: str) -> None:
    """The signer did or did not do what it was asked, and the walk dies of it."""

    class CrashError(Exception):
        pass

    def crash(name: str) -> None:
        if filled.signer.calls.count("rewrap") == call:
            raise CrashError

    setattr(filled.signer, moment, crash)
    with pytest.raises(CrashError):
        walk(filled)
    setattr(filled.signer, moment, lambda _: None)
    assert values(filled) == [b"a", b"b", b"c"], "readable in between"
    found = walk(filled)
    assert found.rewrapped + found.current == 3
    assert epochs(filled) == {2}
    assert values(filled) == [b"a", b"b", b"c"]
    with filled.world.database.snapshot() as ledger:
        assert set(ledger.salts_by_epoch()) == {2}


def test_an_envelope_that_the_signer_does_not_know_again_is_taken_back(filled: Services) -> None:
    before = [filled.object_file(name).read_bytes() for name in NAMES]

    def second(name: str) -> None:
        if filled.signer.calls.count("rewrap") % 2 == 0:
            raise KeyServiceError(Reason.INVALID_ENVELOPE)

    filled.signer.before = second
    assert set(walk(filled).refused.values()) == {Reason.INVALID_ENVELOPE}
    filled.signer.before = lambda _: None
    assert [filled.object_file(name).read_bytes() for name in NAMES] == before
    assert values(filled) == [b"a", b"b", b"c"]


def test_a_busy_signer_is_asked_again(filled: Services) -> None:
    def first(name: str) -> None:
        if len(filled.pauses) < 2:
            raise KeyServiceError(Reason.RATE_LIMITED)

    filled.signer.before = first
    assert walk(filled).rewrapped == 3
    assert len(filled.pauses) == 2
