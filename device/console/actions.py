"""What the console can do: each is a job that ends in lines for people, the same use cases as the commands'."""

from collections.abc import Callable, Sequence

from agentkeys_core.encoding import hex_decode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import parse_generation
from device.agents import add_agent, checked_services, freeze, revoke_device, set_scope, unfreeze
from device.change_desk import Receipt
from device.console.forms import Form
from device.console.job import Job, Work
from device.errors import DeviceError, Trouble
from device.pairing_desk import Claimed, MasterSide, fingerprint
from device.session import Device


def action_of(form: Form) -> tuple[Work, bool]:
    """Return the work that a form asks for, and whether it needs K11. Raises `usage`."""
    match form.one("what"):
        case "freeze":
            return _change(freeze, "Everything of this operator is frozen."), False
        case "unfreeze":
            return _change(unfreeze, "The freeze has ended."), True
        case "revoke":
            key_hash = _hash(form.one("device"))
            return _change(lambda device: revoke_device(device, key_hash), "The device is revoked for ever."), True
        case "scope":
            actor = _hash(form.one("actor"))
            grant, revoke = checked_services(form.words("grant")), checked_services(form.many("revoke"))
            if not grant and not revoke:
                raise DeviceError(Trouble.USAGE, "Name a service to grant, or mark one to take away.")

            def scope(device: Device) -> Receipt:
                return set_scope(device, actor, grant=grant, revoke=revoke)

            return _change(scope, "The agent's services are changed."), True
        case _:
            raise DeviceError(Trouble.USAGE, "no such action")


def approval_of(form: Form, claimed: Claimed) -> Work:
    """Return the work that lets a claimed machine in, after its pairing hash was compared. Raises `usage`."""
    if form.one("compared") != "yes":
        raise DeviceError(Trouble.USAGE, "Compare the pairing hash with the machine's own screen first.")
    label, services = form.one("label"), checked_services(form.words("services"))
    try:
        generation = parse_generation(form.one("generation") or "0")
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, "A generation is a number from 0.") from exc

    def work(job: Job, device: Device) -> Sequence[str]:
        operator = fingerprint(device.identity().operator_omni)
        job.wait_for("On that machine, check that it names this operator, and agree there:", operator)
        offer = MasterSide(device, pause=job.pause).offer(claimed)
        job.wait_for("")
        receipt = add_agent(device, offer, label=label, generation=generation, services=services)
        return (f"{label}/{generation} is let in.", _row(receipt))

    return work


def _change(apply: Callable[[Device], Receipt], done: str) -> Work:
    def work(job: Job, device: Device) -> Sequence[str]:  # noqa: ARG001 - only a pairing says what it waits for
        return (done, _row(apply(device)))

    return work


def _row(receipt: Receipt) -> str:
    return f"Signed row {receipt.row.seq} of your audit trail says so."


def _hash(text: str) -> bytes:
    try:
        return hex_decode(text, length=32)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, "not 32 bytes in hex") from exc
