"""What takes several masters, or replaces a master's own key: as jobs, which may end in a file for the others."""

from collections.abc import Sequence
from typing import Final

from agentkeys_core.changes import AddMaster
from device.change_desk import Receipt, apply_change, views_of
from device.collected import Collected
from device.console.job import Job, Work
from device.intent import moment
from device.masters import Build, add_master, approve, begin, is_enough, send_collected
from device.pairing import Offer
from device.rotating import Rotation, ask_without_old_key, rotate
from device.session import Device

_FILE: Final = "agentkeys-approval.json"
_NEXT: Final = "agentkeys device approve FILE"


def row_words(receipt: Receipt) -> str:
    """Where the proof of a change is."""
    return f"Signed row {receipt.row.seq} of your audit trail says so."


def carry_out(build: Build, done: str, *, notes: Sequence[str] = ()) -> Work:
    """Work that sends a change where one master is enough, and else hands it over for the others to approve."""

    def work(job: Job, device: Device) -> Sequence[str]:
        for note in notes:
            device.show.warn(note)
        views = views_of(device, device.identity().operator_omni)
        if min(view.state.threshold for view in views) > 1:
            return _handed_over(job, device, begin(device, build))
        receipt = apply_change(device, build, k11=True, everywhere=True)
        return done, row_words(receipt)

    return work


def approved_too(collected: Collected) -> Work:
    """Work that adds this master's K11 to what another master began, and sends it once enough have approved."""

    def work(job: Job, device: Device) -> Sequence[str]:
        more = approve(device, collected)
        if isinstance(more.change, AddMaster) or not is_enough(device, more):
            return _handed_over(job, device, more)
        receipt = send_collected(device, more)
        return "Enough masters have approved; it is done.", row_words(receipt)

    return work


def master_let_in(offer: Offer, roles: int) -> Work:
    """Work that approves a further master, whose machine takes the approval back."""

    def work(job: Job, device: Device) -> Sequence[str]:
        return _handed_over(job, device, add_master(device, offer, roles=roles))

    return work


def rotated(job: Job, device: Device) -> Sequence[str]:  # noqa: ARG001 - the job waits for nobody
    """Give this master a new K10."""
    return _rotation_words(rotate(device))


def rotation_asked_for(old: bytes) -> Work:
    """Work that asks for this folder's K10 in the place of a lost one."""

    def work(job: Job, device: Device) -> Sequence[str]:  # noqa: ARG001 - the job waits for nobody
        return _rotation_words(ask_without_old_key(device, old))

    return work


def _rotation_words(rotation: Rotation) -> Sequence[str]:
    done = "This machine has a new device key, and the old one is revoked."
    if rotation.due_at is not None:
        done = f"The new key is asked for. It holds in 72 hours ({moment(rotation.due_at)}), unless a master freezes."
    return done, row_words(rotation.receipt)


def _handed_over(job: Job, device: Device, collected: Collected) -> Sequence[str]:
    job.hand_over(_FILE, collected.encode() + b"\n")
    approved = f"Approved by {len(collected.devices)} so far."
    if not is_enough(device, collected):
        return (
            approved,
            "Within the hour, another master approves this file: on its console's page Masters, or",
            _NEXT,
        )
    if isinstance(collected.change, AddMaster):
        return approved, "Within the hour, take this file to the new machine, and run there:", "agentkeys join FILE"
    return approved, "That is enough; another master's approval sends it."
