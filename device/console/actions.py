"""What the console can do: each is a job that ends in lines for people, the same use cases as the commands'."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agentkeys_core.encoding import hex_decode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.registry import OperatorState
from device.agents import checked_services, device_name, freeze, revoke_device, set_scope, unfreeze
from device.approval import ApprovalRequest, approve, encode_approval
from device.change_desk import Receipt
from device.console.forms import Form
from device.console.job import Job, Work
from device.console.mastering import carry_out, rotated, rotation_asked_for, row_words
from device.console.pages import owner_name
from device.deciding import classes_to_destroy, words_for_the_rest
from device.errors import DeviceError, Trouble
from device.masters import revoke_master, set_roles, set_threshold, teardown
from device.session import Device

#: Reads the registry; for what only the state can tell.
State = Callable[[], OperatorState]
#: A freeze stops everything: K10 alone does it, and it waits for nothing else.
_URGENT: Final = frozenset({"freeze"})


def change(apply: Callable[[Device], Receipt], done: str) -> Work:
    """Work that applies one change."""

    def work(job: Job, device: Device) -> Sequence[str]:  # noqa: ARG001 - nothing to wait for or to hand over
        return done, row_words(apply(device))

    return work


def key_hash_of(text: str) -> bytes:
    """A hash that a form carries. Raises `usage`."""
    try:
        return hex_decode(text, length=32)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, "not 32 bytes in hex") from exc


def roles_of(form: Form) -> int:
    """The roles that were ticked. Raises `usage` for none."""
    known = {"1": 1, "2": 2, "4": 4}
    ticked = set(form.many("roles"))
    if not ticked or not ticked <= known.keys():
        raise DeviceError(Trouble.USAGE, "A master may do at least one thing: tick one.")
    return sum(known[role] for role in ticked)


def _revoke(key_hash: bytes, state: OperatorState) -> Work:
    target = state.devices.get(key_hash)
    if target is None:
        raise DeviceError(Trouble.NO_SUCH_DEVICE, "The registry tells of no such device.")
    done = "The device is revoked for ever."
    if not target.is_master:
        return change(lambda device: revoke_device(device, key_hash), done)
    notes = (f"The registry calls this device: {device_name(target)}", words_for_the_rest(state, key_hash))
    return carry_out(revoke_master(key_hash), done, notes=[note for note in notes if note])


def _scope(form: Form) -> Work:
    actor = key_hash_of(form.one("actor"))
    grant, revoke = checked_services(form.words("grant")), checked_services(form.many("revoke"))
    if not grant and not revoke:
        raise DeviceError(Trouble.USAGE, "Name a service to grant, or mark one to take away.")

    def scope(device: Device) -> Receipt:
        return set_scope(device, actor, grant=grant, revoke=revoke)

    return change(scope, "The agent's services are changed.")


def _teardown(form: Form, state: OperatorState) -> Work:
    actor = key_hash_of(form.one("actor"))
    ticked = set(form.many("classes"))
    if not ticked <= {"credentials", "memory"}:
        raise DeviceError(Trouble.USAGE, "There is no such data.")
    classes = classes_to_destroy(
        credentials="credentials" in ticked, memory="memory" in ticked, own=actor == state.operator_omni
    )
    name = owner_name(state, actor)
    if name is None or form.one("name") != name:
        raise DeviceError(Trouble.USAGE, "The name that you typed is another one; nothing was destroyed.")
    return change(lambda device: teardown(device, actor, classes), "That data is destroyed: no key of it is released.")


def _request(form: Form) -> Work:
    asked = ApprovalRequest.parse(form.one("request"))

    def work(job: Job, device: Device) -> Sequence[str]:
        job.hand_over("agentkeys-approval.txt", encode_approval(approve(device, asked)))
        return ("Give this line back to the agent: its command waits for it.",)

    return work


def _roles(form: Form) -> Work:
    return carry_out(set_roles(key_hash_of(form.one("device")), roles_of(form)), "The master's roles are changed.")


def _threshold(form: Form) -> Work:
    needed = form.number("threshold", low=1, high=255)
    return carry_out(set_threshold(needed), f"From now on it takes {needed}.")


_ACTIONS: Final[Mapping[str, Callable[[Form, State], Work]]] = {
    "freeze": lambda _form, _state: change(freeze, "Everything of this operator is frozen."),
    "lost": lambda form, _state: rotation_asked_for(key_hash_of(form.one("device"))),
    "request": lambda form, _state: _request(form),
    "revoke": lambda form, state: _revoke(key_hash_of(form.one("device")), state()),
    "roles": lambda form, _state: _roles(form),
    "rotate": lambda _form, _state: rotated,
    "scope": lambda form, _state: _scope(form),
    "teardown": lambda form, state: _teardown(form, state()),
    "threshold": lambda form, _state: _threshold(form),
    "unfreeze": lambda _form, _state: change(unfreeze, "The freeze has ended."),
}


def action_of(form: Form, state: State) -> tuple[Work, bool]:
    """Return the work that a form asks for, and whether it is urgent. Raises `usage`, `bad_file`, `no_such_device`."""
    what = form.one("what")
    if what not in _ACTIONS:
        raise DeviceError(Trouble.USAGE, "no such action")
    return _ACTIONS[what](form, state), what in _URGENT
