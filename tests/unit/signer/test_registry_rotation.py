"""A master's new K10: at once by the old key, after 72 hours without it; frozen away, revoked away, replaced."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpKind
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import PendingRotation
from agentkeys_core.signed_change import SignedChange
from signer.journal import verify_journal
from tests.fakes.registry_kit import (
    DOMAIN,
    NOW,
    UNAUTHORISED,
    Opened,
    Person,
    SetClock,
    kind_of,
    opened,
    with_signatures,
)
from tests.unit.core.material import SoftwareK11
from tests.unit.core.refusal import refused

DELAY = 72 * 3600


def later(here: Opened, *people: Person, seconds: int = DELAY) -> None:
    here.clock.at += seconds
    for person in people:
        person.now = int(here.clock.at)


def lost(person: Person, nonce: int, new: DeviceKey) -> SignedChange:
    """Asked for without the old key."""
    return person.rotate(nonce, new, k10=new)


def test_the_old_key_brings_the_new_one_in_at_once(here: Opened, first: Person) -> None:
    new = DeviceKey.generate()
    row = here.registry.apply(first.rotate(1, new))
    state = here.state(first)
    old, came = state.devices[first.device], state.devices[new.key_hash]
    assert kind_of(row) == OpKind.K10_ROTATE
    assert (old.revoked, came.revoked, came.roles, came.k11) == (True, False, old.roles, first.k11.public)
    assert (came.address, came.evidence, came.actor_omni) == (new.address, old.evidence, first.operator)
    assert state.nonce == 2
    with refused(UNAUTHORISED):
        here.registry.apply(first.freeze())
    here.registry.apply(first.freeze(k10=new))
    found = here.registry.k11_by_credential(first.k11.public.credential_id_hash)
    assert found == came


def test_without_the_old_key_it_takes_72_hours(here: Opened, first: Person) -> None:
    new = DeviceKey.generate()
    row = here.registry.apply(lost(first, 1, new))
    assert kind_of(row) == OpKind.K10_ROTATE
    pending = PendingRotation(device=first.device, new_address=new.address, due_at=NOW + DELAY)
    assert here.state(first).rotations == {first.device: pending}
    later(here, first, seconds=DELAY - 1)
    here.registry.settle()
    assert new.key_hash not in here.state(first).devices
    later(here, first, seconds=1)
    here.registry.settle()
    state = here.state(first)
    assert state.rotations == {}
    assert (state.devices[first.device].revoked, state.devices[new.key_hash].revoked) == (True, False)
    assert state.nonce == 2


def test_a_rotation_that_is_due_leaves_its_own_row_line_and_change(here: Opened, first: Person) -> None:
    asked = AuditRow.parse(here.registry.apply(lost(first, 1, DeviceKey.generate())))
    later(here)
    here.registry.settle()
    here.registry.settle()
    changes = here.registry.changes_after(0)
    assert [change.type for change in changes] == ["Enrol", "RotateKey", "RotationDue"]
    assert here.registry.head().sequence == 3
    conn = here.database.reader()
    rows = [AuditRow.parse(data) for (data,) in conn.execute("SELECT row FROM rows ORDER BY id")]
    bodies = [AuditEnvelope.parse(row.envelope).op_body for row in rows]
    assert bodies[2] == AuditEnvelope.parse(asked.envelope).op_body
    assert verify_journal(conn, here.keyring).rows == 3


def test_a_change_by_the_new_key_brings_about_what_is_due(here: Opened, first: Person) -> None:
    new = DeviceKey.generate()
    here.registry.apply(lost(first, 1, new))
    later(here, first)
    change = first.unfreeze(2)
    with refused(UNAUTHORISED):  # not frozen; and what was due is undone with the refused change
        here.registry.apply(
            first.approved(change, k10=new, k11=[first.touch(change.digest(DOMAIN), device=new.key_hash)])
        )
    here.registry.apply(first.freeze(k10=new))
    assert here.state(first).frozen
    assert here.state(first).devices[first.device].revoked


def test_the_old_key_is_worth_nothing_from_that_moment(here: Opened, first: Person) -> None:
    here.registry.apply(lost(first, 1, DeviceKey.generate()))
    later(here, first)
    with refused(UNAUTHORISED):
        here.registry.apply(first.freeze())


@pytest.mark.parametrize("who", ["the old key", "another master"])
def test_any_freeze_cancels_what_waits(here: Opened, first: Person, second: Person, who: str) -> None:
    new = DeviceKey.generate()
    here.registry.apply(lost(first, 2, new))
    here.registry.apply((first if who == "the old key" else second).freeze())
    assert here.state(first).rotations == {}
    later(here, first, second)
    here.registry.settle()
    assert not here.state(first).devices[first.device].revoked
    here.registry.apply(second.approved(second.unfreeze(3)))
    here.registry.apply(first.rotate(4, new))  # the key itself was never registered


def test_none_is_taken_while_frozen_since_no_freeze_could_cancel_it(here: Opened, first: Person) -> None:
    here.registry.apply(first.freeze())
    for signed in (lost(first, 1, DeviceKey.generate()), first.rotate(1, DeviceKey.generate())):
        with refused("operator_frozen"):
            here.registry.apply(signed)


def test_revoking_the_device_ends_what_waits_for_it(here: Opened, first: Person, second: Person) -> None:
    new = DeviceKey.generate()
    here.registry.apply(lost(first, 2, new))
    here.registry.apply(second.touched(second.revoke(3, first.device), second))
    later(here)
    here.registry.settle()
    assert new.key_hash not in here.state(first).devices


def test_roles_of_the_moment_go_over_to_the_new_key(here: Opened, first: Person, second: Person) -> None:
    new = DeviceKey.generate()
    here.registry.apply(lost(first, 2, new))
    here.registry.apply(second.touched(second.set_roles(3, first.device, 1), second))
    later(here)
    here.registry.settle()
    assert here.state(first).devices[new.key_hash].roles == 1


def test_a_later_request_takes_the_place_of_an_earlier_and_waits_as_long(here: Opened, first: Person) -> None:
    one, other = DeviceKey.generate(), DeviceKey.generate()
    here.registry.apply(lost(first, 1, one))
    later(here, first, seconds=3600)
    here.registry.apply(lost(first, 2, other))
    assert here.state(first).rotations[first.device].due_at == NOW + 3600 + DELAY
    later(here, seconds=DELAY - 3600)
    here.registry.settle()
    assert not here.state(first).devices[first.device].revoked
    later(here, seconds=3600)
    here.registry.settle()
    devices = here.state(first).devices
    assert (one.key_hash in devices, devices[other.key_hash].revoked) == (False, False)


def test_the_old_key_found_again_ends_the_wait(here: Opened, first: Person) -> None:
    new = DeviceKey.generate()
    here.registry.apply(lost(first, 1, new))
    here.registry.apply(first.rotate(2, new))
    state = here.state(first)
    assert (state.rotations, state.devices[new.key_hash].revoked) == ({}, False)


def _without_the_new_key(first: Person, new: DeviceKey) -> SignedChange:
    return with_signatures(first.rotate(1, new), new_device=None)


def _new_key_signed_by_another(first: Person, new: DeviceKey) -> SignedChange:
    signed = first.rotate(1, new)
    return with_signatures(signed, new_device=first.k10.sign_recoverable(signed.digest(DOMAIN)))


def _without_k11(first: Person, new: DeviceKey) -> SignedChange:
    return with_signatures(first.rotate(1, new), k11=())


def _lost_without_k11(first: Person, new: DeviceKey) -> SignedChange:
    return with_signatures(lost(first, 1, new), k11=())


def _k10_of_a_stranger(first: Person, new: DeviceKey) -> SignedChange:
    return first.rotate(1, new, k10=DeviceKey.generate())


def _another_nonce(first: Person, new: DeviceKey) -> SignedChange:
    return lost(first, 2, new)


@pytest.mark.parametrize(
    "bent",
    [
        _without_the_new_key,
        _new_key_signed_by_another,
        _without_k11,
        _lost_without_k11,
        _k10_of_a_stranger,
        _another_nonce,
    ],
)
def test_refuses_a_rotation_that_is_not_fully_signed(
    here: Opened, first: Person, bent: Callable[[Person, DeviceKey], SignedChange]
) -> None:
    with refused(UNAUTHORISED):
        here.registry.apply(bent(first, DeviceKey.generate()))
    assert here.state(first).rotations == {}


def test_another_masters_keys_rotate_nothing(here: Opened, first: Person, second: Person) -> None:
    new = DeviceKey.generate()
    change = first.rotate_change(2, new)
    signature = new.sign_recoverable(change.digest(DOMAIN))
    for signed in (
        second.touched(change, second, new_device=signature),
        first.touched(change, second, new_device=signature),
        second.touched(change, first, new_device=signature),
    ):
        with refused(UNAUTHORISED):
            here.registry.apply(signed)


def test_a_new_key_must_be_new(here: Opened, first: Person, second: Person) -> None:
    agent, other = DeviceKey.generate(), Person()
    here.registry.apply(first.add_agent(agent, 2))
    here.registry.apply(other.enrol())
    waiting = DeviceKey.generate()
    here.registry.apply(second.rotate(3, waiting, k10=waiting))
    for taken in (agent, second.k10, other.k10, first.k10, waiting):
        with refused("already_bound"):
            here.registry.apply(first.rotate(4, taken))
    with refused("already_bound"):  # nor may anybody else have what waits
        here.registry.apply(other.add_agent(waiting, 1))
    with refused("already_bound"):
        here.registry.apply(Person(k10=waiting).enrol())


def test_a_key_that_was_rotated_away_never_comes_back(here: Opened, first: Person) -> None:
    old, new = first.k10, DeviceKey.generate()
    here.registry.apply(first.rotate(1, new))
    change = first.rotate_change(2, old, old=new.key_hash)
    touch = [first.touch(change.digest(DOMAIN), device=new.key_hash)]
    with refused("already_bound"):
        here.registry.apply(
            first.approved(change, k10=new, k11=touch, new_device=old.sign_recoverable(change.digest(DOMAIN)))
        )


def test_only_masters_rotate(here: Opened, first: Person, second: Person) -> None:
    agent, new = DeviceKey.generate(), DeviceKey.generate()
    here.registry.apply(first.add_agent(agent, 2))
    here.registry.apply(first.touched(first.revoke(3, second.device), first))
    for old, reason in (
        (agent.key_hash, UNAUTHORISED),
        (sha256(b""), "device_unknown"),
        (second.device, "device_revoked"),
    ):
        change = first.rotate_change(4, new, old=old)
        with refused(reason):
            here.registry.apply(first.approved(change, new_device=new.sign_recoverable(change.digest(DOMAIN))))


# --- restarts, several processes


def test_what_is_due_while_nobody_serves_is_done_at_the_next_start(tmp_path: Path) -> None:
    first, new = Person(), DeviceKey.generate()
    with opened(tmp_path) as here:
        here.registry.apply(first.enrol())
        here.registry.apply(lost(first, 1, new))
    with opened(tmp_path, clock=SetClock(NOW + DELAY)) as here:
        here.registry.settle()
        assert here.state(first).devices[first.device].revoked


def test_of_several_processes_one_carries_it_out_and_all_see_it(tmp_path: Path) -> None:
    first, new, clock = Person(), DeviceKey.generate(), SetClock()
    with opened(tmp_path, clock=clock) as one, opened(tmp_path, clock=clock) as other:
        one.registry.apply(first.enrol())
        one.registry.apply(lost(first, 1, new))
        assert other.state(first).rotations
        clock.at += DELAY
        one.registry.settle()
        other.registry.settle()
        assert other.state(first) == one.state(first)
        assert other.registry.sequence() == 3
        assert other.registry.lookup_device(new.key_hash) is not None


def test_a_rotation_that_cannot_be_written_is_tried_again(
    here: Opened, first: Person, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here.registry.apply(lost(first, 1, DeviceKey.generate()))
    later(here)

    def full(*_: object) -> bytes:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(type(here.keyring), "journal_mac", full)
        here.registry.settle()
    assert not here.state(first).devices[first.device].revoked
    assert "wait on" in caplog.text
    here.registry._settle_from = 0.0  # as if a second had passed
    here.registry.settle()
    assert here.state(first).devices[first.device].revoked


def test_a_software_key_outlasts_a_rotation_that_is_due_while_it_counts_for_nothing(tmp_path: Path) -> None:
    first, new = Person(k11=SoftwareK11(b"software", origin="software://localhost")), DeviceKey.generate()
    with opened(tmp_path, software=True) as here:
        here.registry.apply(first.enrol())
        here.registry.apply(lost(first, 1, new))
    with opened(tmp_path, clock=SetClock(NOW + DELAY)) as here:
        here.registry.settle()
    with opened(tmp_path, clock=SetClock(NOW + DELAY), software=True) as here:
        assert here.state(first).devices[new.key_hash].k11 == first.k11.public
