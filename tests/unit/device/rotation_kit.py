"""Rotations under parts that lie, swallow or hang up, and what a folder holds of them afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentkeys_core.errors import Reason
from device.home import Home
from device.keys import K10
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.https import Reply
from tests.unit.device.masters_kit import state_of
from tests.unit.device.persons import Person
from tests.unit.device.real_registry import RealRegistry

CHANGES = "/v1/registry/changes"
PARTS = ("broker", "credentials", "audit")
WORKERS = PARTS[1:]
DAYS_3_S = 72 * 3600
Hook = Callable[[bytes], Reply | None]


@contextmanager
def hooked(deployment: Deployment, hook: Hook, *parts: str, path: str = CHANGES) -> Iterator[None]:
    """These parts (all by default) answer otherwise meanwhile."""
    names = [(part, path) for part in parts or PARTS]
    deployment.hooks |= dict.fromkeys(names, hook)
    yield
    for name in names:
        del deployment.hooks[name]


def hang_up(_: bytes) -> Reply:
    raise ConnectionError


def refuse(_: bytes) -> Reply:
    return problem(Reason.CHANGE_NOT_AUTHORISED)


def applied_unheard(registry: RealRegistry) -> Hook:
    """The registry applies what is sent, and nobody hears of it."""

    def swallow(body: bytes) -> Reply:
        registry.change(body)
        raise ConnectionError

    return swallow


def key_in(person: Person, name: str) -> bytes | None:
    """The hash of the key that a file holds."""
    with Home.open(person.home) as home:
        found = K10.load(home, name)
    return None if found is None else found.key_hash


def in_force(registry: RealRegistry, operator: bytes) -> set[bytes]:
    state = registry.here.registry.operator(operator)
    assert state is not None
    return {master.device_key_hash for master in state.masters()}


def leftovers(person: Person) -> set[str]:
    return {path.name for path in person.home.glob("*")} & {"k10-next.json", "k10-old.json", "pending-rotation.json"}


def read_path(registry: RealRegistry, person: Person) -> str:
    return f"/v1/registry/operators/{state_of(registry, person).operator_omni.hex()}"
