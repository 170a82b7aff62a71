"""Masters of one user over the real registry, for every way to work with them: commands, and the console."""

from collections.abc import Callable
from pathlib import Path

from agentkeys_core.registry import OperatorState
from tests.unit.device.persons import Outcome, Person
from tests.unit.device.real_registry import RealRegistry

Named = Callable[[str], Person]


def state_of(registry: RealRegistry, master: Person) -> OperatorState:
    operator = bytes.fromhex(master("whoami", "--offline").data["operator_omni"])
    state = registry.here.registry.operator(operator)
    assert state is not None
    return state


def device_of(machine: Person) -> bytes:
    return bytes.fromhex(machine("whoami", "--offline").data["device"])


def offer(machine: Person, master: Person, file: Path, *words: object) -> Outcome:
    operator = master("whoami", "--offline").data["operator_omni"]
    head = ["pair", "--master", "--k11", "software", "--operator", operator, "--out", file]
    return machine(*head, *machine.profile_words(), *words)


def bring_in(machine: Person, master: Person, folder: Path, *words: object, others: tuple[Person, ...] = ()) -> Outcome:
    """Two files and one hash: the whole way of a further master."""
    there, back = folder / f"{machine.home.name}.offer", folder / f"{machine.home.name}.approval"
    shown = offer(machine, master, there)
    assert shown.code == 0, shown.err
    told = shown.data["pairing_hash"]
    added = master("device", "add", there, "--out", back, "--pairing-hash", told, *words)
    assert added.code == 0, added.err
    for other in others:
        more = other("device", "approve", back, "--pairing-hash", told)
        assert more.code == 0, more.err
    return machine("join", back)
