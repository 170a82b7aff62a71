"""Collected approvals: nobody is named, and nobody's approval counts, before it is proven over that very change."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agentkeys_core.changes import K11OfDevice, OrderedChange, SetThreshold, SignedChange
from device.collected import Collected
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.masters_kit import device_of
from tests.unit.device.persons import Person
from tests.unit.device.real_registry import RealRegistry

Bend = Callable[[Collected, Collected], Collected]


@pytest.fixture
def stage() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def file(first: Person, second: Person, third: Person, tmp_path: Path) -> Path:
    """What the first of three masters began."""
    assert device_of(second) != device_of(third)
    assert first("device", "threshold", 1, "--collect", tmp_path / "file").code == 0
    return tmp_path / "file"


@pytest.fixture
def other(first: Person, file: Path) -> Collected:
    """Another change that the same master has approved."""
    assert (
        first("device", "roles", device_of(first).hex(), "--roles", 7, "--collect", file.with_name("other")).code == 0
    )
    return Collected.read(file.with_name("other"))


def with_k11(found: Collected, *entries: K11OfDevice) -> Collected:
    signatures = replace(found.signed.signatures, k11=entries)
    return replace(found, signed=replace(found.signed, signatures=signatures))


def first_k11(found: Collected) -> K11OfDevice:
    return found.signed.signatures.k11[0]


def of_another_change(found: Collected, other: Collected) -> Collected:
    return with_k11(found, first_k11(other))


def begun_by_nobody(found: Collected, other: Collected) -> Collected:
    signatures = replace(found.signed.signatures, k10=other.signed.signatures.k10)
    return replace(found, signed=replace(found.signed, signatures=signatures))


def with_no_signature(found: Collected, other: Collected) -> Collected:
    signatures = replace(found.signed.signatures, k10=bytes(65))
    return replace(found, signed=replace(found.signed, signatures=signatures))


def twice(found: Collected, other: Collected) -> Collected:
    return with_k11(found, first_k11(found), first_k11(found))


def bent_bytes(found: Collected, other: Collected) -> Collected:
    entry = first_k11(found)
    data = entry.assertion.authenticator_data
    return with_k11(found, replace(entry, assertion=replace(entry.assertion, authenticator_data=data[:-1] + b"\xff")))


def another_change(found: Collected, other: Collected) -> Collected:
    """The approvals stay, the change under them is another one."""
    change = found.change
    assert isinstance(change, SetThreshold)
    return replace(found, signed=replace(found.signed, change=replace(change, threshold=2)))


@pytest.mark.parametrize(
    "bend", [of_another_change, begun_by_nobody, with_no_signature, twice, bent_bytes, another_change]
)
def test_false_approvals_are_refused_by_command_and_console(
    second: Person, file: Path, other: Collected, stage: ExitStack, bend: Bend
) -> None:
    bend(Collected.read(file), other).write(file, replace_it=True)
    before = file.read_bytes()
    refused = second("device", "approve", file)
    assert (refused.code, refused.reason) == (6, "approval_invalid")
    assert file.read_bytes() == before
    visitor = stage.enter_context(console_at(second.home))
    assert visitor.handed(file.read_text())["reason"] == "approval_invalid"
    assert "Nothing to approve" in visitor.get("/page/changes").text


def test_an_approval_in_anothers_name_is_refused(second: Person, third: Person, file: Path, stage: ExitStack) -> None:
    found = Collected.read(file)
    with_k11(found, replace(first_k11(found), device=device_of(third))).write(file, replace_it=True)
    assert second("device", "approve", file).reason == "approval_invalid"


def test_a_revoked_masters_approval_is_none(
    registry: RealRegistry, first: Person, second: Person, third: Person, file: Path, stage: ExitStack
) -> None:
    """Shown by the time it comes in, or gone since: the page looks again."""
    visitor = stage.enter_context(console_at(second.home))
    assert visitor.handed(file.read_text()) == {"go": "changes"}
    assert shows(visitor, first)
    collect = file.with_name("revocation")
    assert third("device", "revoke", device_of(first).hex(), "--collect", collect).code == 0
    assert second("device", "approve", collect).code == 0
    assert "bad_file" in visitor.get("/page/changes").text  # as something was changed since, too
    later = file.with_name("later")
    assert third("device", "threshold", 1, "--collect", later).code == 0
    found = Collected.read(later)
    stale = replace(first_k11(Collected.read(file)), device=device_of(first))
    with_k11(found, stale).write(later, replace_it=True)
    assert second("device", "approve", later).reason == "approval_invalid"


def shows(visitor: Visitor, master: Person) -> bool:
    name = f"aster {device_of(master).hex()[:8]}"
    page = visitor.get("/page/changes").text
    return f"M{name} began this" in page and f"m{name}: 1 of 2" in page


@pytest.mark.parametrize("step", [-1, 1])
def test_nothing_is_approved_for_another_moment(second: Person, file: Path, step: int) -> None:
    """Somebody who began it for a later moment could keep the approval, and play it then."""
    found = Collected.read(file)
    change = found.change
    assert isinstance(change, OrderedChange)
    moved = SignedChange(change=replace(change, nonce=change.nonce + step), signatures=found.signed.signatures)
    replace(found, signed=moved).write(file, replace_it=True)
    assert second("device", "approve", file).reason == "bad_file"


def test_a_change_whose_hour_is_over_is_not_approved(second: Person, file: Path) -> None:
    found = Collected.read(file)
    change = found.change
    assert isinstance(change, OrderedChange)
    moved = SignedChange(change=replace(change, deadline=1), signatures=found.signed.signatures)
    replace(found, signed=moved).write(file, replace_it=True)
    assert second("device", "approve", file).reason == "bad_file"


def test_another_credential_is_none(second: Person, file: Path) -> None:
    """The signature is that key's, and the credential that is said to have made it is not the one on record."""
    found = Collected.read(file)
    entry = first_k11(found)
    with_k11(found, replace(entry, assertion=replace(entry.assertion, credential_id=b"another"))).write(
        file, replace_it=True
    )
    assert second("device", "approve", file).reason == "approval_invalid"


def test_who_stands_behind_it_is_told_before_anybody_approves(first: Person, second: Person, file: Path) -> None:
    done = second("device", "approve", file)
    assert done.code == 0
    name = f"master {device_of(first).hex()[:8]}"
    assert f"Begun by {name}, approved so far by {name}." in done.err
