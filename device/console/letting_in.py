"""Letting a machine in, after its pairing hash was compared: jobs for what lies in the inbox."""

from collections.abc import Sequence

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import parse_generation
from device.agents import add_agent, checked_services
from device.collected import Collected
from device.console.actions import roles_of
from device.console.forms import Form
from device.console.inbox import Brought
from device.console.job import Job, Work
from device.console.mastering import approved_too, master_let_in, row_words
from device.errors import DeviceError, Trouble
from device.masters import pairing_hash_of
from device.pairing import Offer
from device.pairing_desk import Claimed, MasterSide, fingerprint
from device.session import Device


def approval_of(form: Form, brought: Brought, device: Device) -> Work:
    """Return the work that approves what the form names. Raises `usage`, also where nothing was compared."""
    found = brought.found
    needed = not isinstance(found, Collected) or pairing_hash_of(device, found) is not None
    if needed and form.one("compared") != "yes":
        raise DeviceError(Trouble.USAGE, "Compare the pairing hash with the machine's own screen first.")
    match found:
        case Collected():
            return approved_too(found)
        case Offer(k11=None) | Claimed():
            return _agent(form, found)
        case Offer():
            return master_let_in(found, roles_of(form))


def _agent(form: Form, found: Claimed | Offer) -> Work:
    label, services = form.one("label"), checked_services(form.words("services"))
    try:
        generation = parse_generation(form.one("generation") or "0")
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, "A generation is a number from 0.") from exc

    def work(job: Job, device: Device) -> Sequence[str]:
        offer = found if isinstance(found, Offer) else _agreed(job, device, found)
        receipt = add_agent(device, offer, label=label, generation=generation, services=services)
        return f"{label}/{generation} is let in.", row_words(receipt)

    return work


def _agreed(job: Job, device: Device, claimed: Claimed) -> Offer:
    """The machine's `Pair`, once its person agreed there."""
    operator = fingerprint(device.identity().operator_omni)
    job.wait_for("On that machine, check that it names this operator, and agree there:", operator)
    offer = MasterSide(device, pause=job.pause).offer(claimed)
    job.wait_for("")
    return offer
