"""A master's new K10 over the real registry: no lie, no crash and no lost answer parts a folder from the key in force."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from agentkeys_core.changes import RotateKey, SignedChange
from agentkeys_core.encoding import hex_encode
from agentkeys_core.errors import Reason
from device.home import Home
from device.keys import K10
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.https import Reply
from tests.unit.device.masters_kit import device_of, state_of
from tests.unit.device.real_registry import RealRegistry
from tests.unit.device.rotation_kit import (
    CHANGES,
    DAYS_3_S,
    PARTS,
    WORKERS,
    Hook,
    applied_unheard,
    hang_up,
    hooked,
    in_force,
    key_in,
    leftovers,
    read_path,
    refuse,
)

pytestmark = pytest.mark.usefixtures("quick")


# --- by the old key


def test_rotates_the_device_key(registry: RealRegistry, first: Person) -> None:
    old = device_of(first)
    rotated = first("device", "rotate")
    assert rotated.code == 0, rotated.err
    new = device_of(first)
    assert rotated.data["device"] == hex_encode(new) != hex_encode(old)
    assert (rotated.data["done"], rotated.data["due_at"], rotated.data["old_key_kept"]) == (True, None, False)
    devices = state_of(registry, first).devices
    assert (devices[old].revoked, devices[new].revoked) == (True, False)
    assert first("freeze").code == 0
    assert not leftovers(first)


def test_a_rotation_whose_answer_was_lost_is_sent_again_as_it_was(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    sent: list[bytes] = []

    def swallow(body: bytes) -> Reply:
        sent.append(body)
        registry.change(body)
        return problem(Reason.OVERLOADED, 429)

    with hooked(deployment, swallow):
        assert first("device", "rotate").reason == "overloaded"
    kept = (first.home / "pending-rotation.json").read_bytes()
    key = key_in(first, "k10-next.json")

    def listen(body: bytes) -> None:
        sent.append(body)

    with hooked(deployment, listen):
        again = first("device", "rotate")
    assert again.code == 0, again.err
    assert {bytes(body) for body in sent} == {kept}
    assert bytes.fromhex(again.data["device"]) == key == device_of(first)
    assert in_force(registry, state_of(registry, first).operator_omni) == {key}
    assert not leftovers(first)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_that_dies_at_any_step_loses_no_key(
    registry: RealRegistry, first: Person, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    operator = state_of(registry, first).operator_omni
    for step in count():
        before = device_of(first)
        with monkeypatch.context() as patched:
            died = dying(patched, step, after=after)
            ended = first("device", "rotate")
        (counts,) = in_force(registry, operator)
        assert counts in {key_in(first, name) for name in ("k10.json", "k10-next.json")}
        if ended.code:
            assert died == [step]
            finished = first("device", "rotate")
            assert finished.code == 0, finished.err
        assert {device_of(first)} == in_force(registry, operator) != {before}
        assert not leftovers(first)
        if not died:
            assert step > 6
            return


def dying(patched: pytest.MonkeyPatch, step: int, *, after: bool) -> list[int]:
    """The process dies at a step of its work on the folder, just before or just after it took effect."""
    steps, died = count(), list[int]()

    def wrap(work: Callable[..., Any]) -> Callable[..., Any]:
        def dies(*words: Any) -> Any:
            now = next(steps)
            if now == step and not after:
                died.append(now)
                raise KeyboardInterrupt
            done = work(*words)
            if now == step:
                died.append(now)
                raise KeyboardInterrupt
            return done

        return dies

    for name in ("write", "create", "remove"):
        patched.setattr(Home, name, wrap(getattr(Home, name)))
    return died


def test_two_rotations_at_once_keep_one_change(registry: RealRegistry, deployment: Deployment, first: Person) -> None:
    """The other process signed meanwhile: what it keeps is not written over."""

    def meanwhile(_: bytes) -> None:
        file = first.home / "pending-rotation.json"
        file.touch(mode=0o600)
        file.write_bytes(b"{}")

    with hooked(deployment, meanwhile, path=read_path(registry, first)):
        assert first("device", "rotate").reason == "file_exists"
    assert (first.home / "pending-rotation.json").read_bytes() == b"{}"


# --- lies


def test_a_brokers_word_alone_takes_no_key_away(registry: RealRegistry, deployment: Deployment, first: Person) -> None:
    """It never passed the change on, tells that the new key is registered, and the workers are cut off."""
    old = device_of(first)
    path = read_path(registry, first)
    with hooked(deployment, hang_up):
        assert first("device", "rotate").reason == "unreachable"
    coming = key_in(first, "k10-next.json")
    assert coming is not None
    state = state_of(registry, first)
    record = replace(state.devices[old], device_key_hash=coming, address=address_of_next(first))
    told = replace(state, devices={coming: record, old: replace(state.devices[old], revoked=True)}).to_json()
    with (
        hooked(deployment, lambda _: (200, told), "broker", path=path),
        hooked(deployment, hang_up, *WORKERS, path=path),
        hooked(deployment, lambda _: (200, {"row": {}}), "broker"),
        hooked(deployment, hang_up, *WORKERS),
    ):
        assert first("device", "rotate").reason == "row_not_trusted"
    assert device_of(first) == old
    assert first("freeze").code == 0  # which only a registered key does


def address_of_next(person: Person) -> bytes:
    with Home.open(person.home) as home:
        found = K10.load(home, "k10-next.json")
    assert found is not None
    return found.address


def without_old_signature(registry: RealRegistry) -> Hook:
    """Whoever relays it makes of a rotation by the old key one without it: the digest is the same."""

    def strip(body: bytes) -> Reply:
        signed = SignedChange.parse(body)
        if not isinstance(signed.change, RotateKey):
            return registry.change(body)
        assert signed.signatures.new_device is not None
        signatures = replace(signed.signatures, k10=signed.signatures.new_device)
        return registry.change(SignedChange(change=signed.change, signatures=signatures).encode())

    return strip


def test_a_signed_row_for_a_key_that_has_yet_to_wait_ends_no_key(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    old = device_of(first)
    with hooked(deployment, without_old_signature(registry)):
        waits = first("device", "rotate")
        assert (waits.code, waits.reason) == (6, "rotation_not_in_force")
    assert first("device", "rotate").reason == "rotation_not_in_force"
    assert device_of(first) == old
    coming = key_in(first, "k10-next.json")
    assert first("freeze").code == 0
    assert first("unfreeze").code == 0
    done = first("device", "rotate")
    assert done.code == 0, done.err
    assert device_of(first) == coming
    assert in_force(registry, state_of(registry, first).operator_omni) == {coming}


def test_a_key_that_had_to_wait_is_taken_once_it_counts(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    with hooked(deployment, without_old_signature(registry)):
        assert first("device", "rotate").reason == "rotation_not_in_force"
    registry.here.clock.at = time.time() + DAYS_3_S
    registry.here.registry.settle()
    assert first("device", "rotate").code == 0
    assert in_force(registry, state_of(registry, first).operator_omni) == {device_of(first)}


@pytest.mark.parametrize("liar", PARTS)
def test_one_part_that_denies_the_new_key_stops_nothing_and_the_old_one_is_kept(
    registry: RealRegistry, deployment: Deployment, first: Person, liar: str
) -> None:
    old = device_of(first)
    told = state_of(registry, first).to_json()
    path = read_path(registry, first)
    lie = after_the_change(deployment, (200, told))
    with hooked(deployment, lie, liar, path=path):
        rotated = first("device", "rotate")
        assert (rotated.code, rotated.data["old_key_kept"]) == (0, True), rotated.err
    assert "k10-old.json" in rotated.err
    assert key_in(first, "k10-old.json") == old
    assert in_force(registry, state_of(registry, first).operator_omni) == {device_of(first)}
    assert first("device", "rotate").code == 0
    assert not leftovers(first)


def after_the_change(deployment: Deployment, told: Reply) -> Hook:
    """Tells the truth until a change was sent."""
    sent = len(deployment.seen)

    def lie(_: bytes) -> Reply | None:
        return told if ("broker", CHANGES) in deployment.seen[sent:] else None

    return lie


def test_no_key_is_taken_while_no_two_parts_agree(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    old, path, told = device_of(first), read_path(registry, first), state_of(registry, first).to_json()
    with (
        hooked(deployment, after_the_change(deployment, (200, told)), "broker", path=path),
        hooked(deployment, hang_up, "audit", path=path),
    ):
        refused = first("device", "rotate")
    assert (refused.code, refused.reason) == (6, "registry_views_differ")
    assert key_in(first, "k10.json") == old
    assert leftovers(first) == {"k10-next.json", "pending-rotation.json"}
    assert first("device", "rotate").code == 0
    assert in_force(registry, state_of(registry, first).operator_omni) == {device_of(first)}


def test_a_new_key_that_was_revoked_since_takes_no_place(
    registry: RealRegistry, deployment: Deployment, first: Person, second: Person
) -> None:
    old = device_of(first)
    with hooked(deployment, applied_unheard(registry)):
        assert first("device", "rotate").reason == "unreachable"
    coming = key_in(first, "k10-next.json")
    assert coming is not None
    assert second("device", "revoke", hex_encode(coming)).code == 0
    refused = first("device", "rotate")
    assert (refused.code, refused.reason) == (6, "rotation_not_in_force")
    assert key_in(first, "k10.json") == old
    assert key_in(first, "k10-next.json") == coming


def test_a_new_key_that_is_gone_takes_no_place(registry: RealRegistry, deployment: Deployment, first: Person) -> None:
    old = device_of(first)
    with hooked(deployment, applied_unheard(registry)):
        assert first("device", "rotate").reason == "unreachable"
    (first.home / "k10-next.json").unlink()
    refused = first("device", "rotate")
    assert (refused.code, refused.reason) == (2, "bad_file")
    assert "k10-next.json" in refused.err
    assert key_in(first, "k10.json") == old


# --- what is kept is given up only for good


def test_a_change_whose_nonce_is_gone_is_made_anew_for_the_same_key(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    with hooked(deployment, hang_up):
        assert first("device", "rotate").reason == "unreachable"
    coming = key_in(first, "k10-next.json")
    assert first("device", "threshold", 1).code == 0  # which uses its nonce
    assert first("device", "rotate").code == 0
    assert device_of(first) == coming
    assert not leftovers(first)


def test_a_change_that_is_over_is_made_anew_for_the_same_key(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    with hooked(deployment, hang_up):
        assert first("device", "rotate").reason == "unreachable"
    coming = key_in(first, "k10-next.json")
    registry.here.clock.at = time.time() + 400
    assert first("device", "rotate").reason == "change_not_authorised"
    assert leftovers(first) == {"k10-next.json"}
    registry.here.clock.at = time.time()
    assert first("device", "rotate").code == 0
    assert device_of(first) == coming


def test_one_parts_refusal_gives_up_nothing(registry: RealRegistry, deployment: Deployment, first: Person) -> None:
    """The registry has the change; a broker says no, and the workers are cut off."""
    with hooked(deployment, applied_unheard(registry)):
        assert first("device", "rotate").reason == "unreachable"
    kept = (first.home / "pending-rotation.json").read_bytes()
    with hooked(deployment, refuse, "broker"), hooked(deployment, hang_up, *WORKERS):
        assert first("device", "rotate").reason == "unreachable"
    assert (first.home / "pending-rotation.json").read_bytes() == kept
    assert first("device", "rotate").code == 0
    assert in_force(registry, state_of(registry, first).operator_omni) == {device_of(first)}


@pytest.mark.parametrize(
    "reason", [Reason.OVERLOADED, Reason.REGISTRY_UNREACHABLE, Reason.INTERNAL, Reason.SEALED, Reason.NOT_FOUND]
)
def test_what_says_nothing_of_the_change_gives_up_nothing(
    registry: RealRegistry, deployment: Deployment, first: Person, reason: Reason
) -> None:
    with hooked(deployment, applied_unheard(registry)):
        assert first("device", "rotate").reason == "unreachable"
    with hooked(deployment, lambda _: problem(reason, 503)):
        assert first("device", "rotate").reason == str(reason)
    assert first("device", "rotate").code == 0
    assert in_force(registry, state_of(registry, first).operator_omni) == {device_of(first)}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"change":{"message":{},"type":"RotateKey"},"signatures":{}}'])
def test_a_kept_change_that_is_none_is_told_by_name(registry: RealRegistry, first: Person, content: bytes) -> None:
    file = first.home / "pending-rotation.json"
    file.touch(mode=0o600)
    file.write_bytes(content)
    refused = first("device", "rotate")
    assert (refused.code, refused.reason) == (2, "bad_file")
    assert file.name in refused.err


def test_nothing_but_a_rotation_is_sent_from_there(
    registry: RealRegistry, deployment: Deployment, first: Person
) -> None:
    bodies: list[bytes] = []

    def keep(body: bytes) -> None:
        bodies.append(body)

    with hooked(deployment, keep):
        assert first("freeze").code == 0
    (first.home / "pending-rotation.json").touch(mode=0o600)
    (first.home / "pending-rotation.json").write_bytes(bodies[0])
    deployment.seen.clear()
    assert first("device", "rotate").reason == "bad_file"
    assert all(path != CHANGES for _, path in deployment.seen)


def test_what_was_done_is_said_on_a_terminal_too(registry: RealRegistry, first: Person) -> None:
    said = first("device", "rotate", as_json=False)
    assert hex_encode(device_of(first)) in said.out
