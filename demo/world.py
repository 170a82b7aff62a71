"""The demo's little world: a running deployment, two users and an agent. Tests build the same one."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agentkeys_core.ops import ObjectClass, Service, object_path
from demo import people
from demo.people import Person
from demo.process import StackError
from demo.proxy import Detour
from demo.screen import size
from demo.stack import Stack

#: The credential that the agent may use, and one that it may not.
GRANTED = "openrouter"
WITHHELD = "stripe"
#: Where the agent may sign in with its wallet; `signing.toml` allows it.
HOST = "app.example.com"


@dataclass(slots=True, kw_only=True)
class World:
    """A deployment in `root` and its people. `close` ends every process and connection of it.

    Alice's master device stores credentials, her agent may use one of them; Bob is another user. Between devices and
    broker, and between the credentials worker and the signer, stands a detour that a drill may hold up.
    """

    root: Path
    value: bytes = field(repr=False)
    stack: Stack = field(init=False)
    to_broker: Detour = field(init=False)
    to_signer: Detour = field(init=False)
    alice: Person = field(init=False)
    bob: Person = field(init=False)
    agent: Person = field(init=False)
    withheld: bytes = field(default_factory=lambda: secrets.token_bytes(48), repr=False)
    _count: int = 0

    def __post_init__(self) -> None:
        self.to_broker, self.to_signer = Detour(), Detour()
        detours = {"broker": self.to_broker.port, "credentials": self.to_signer.port}
        self.stack = Stack(root=self.root.absolute(), detours=detours, jobs=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process by its id, and the detours."""
        self.stack.stop()
        self.to_broker.close()
        self.to_signer.close()

    def object_file(self, name: str, owner: Person | None = None) -> Path:
        """Where the worker keeps a credential, by default one of Alice's."""
        operator = (owner or self.alice).who.operator
        relative = object_path(operator, Service.parse(f"cred:{name}", None), ObjectClass.CREDENTIALS)
        return self.root.absolute() / "objects" / relative

    def fresh_name(self, stem: str) -> str:
        """A name that no drill has used before."""
        self._count += 1
        return f"{stem}-{self._count}"

    def spare_agent(self, *services: str) -> Person:
        """One more agent of Alice's, for a drill that revokes it or steals its key."""
        return people.pair_quickly(self.stack, self.alice, self.fresh_name("spare"), services or (f"cred:{GRANTED}",))

    # The steps that build the world. Each returns what a person may want to know of it.

    def make_certificates(self) -> str:
        """Authority and leaves."""
        self.stack.make_certificates()
        self.to_broker.target = self.stack.ports["broker"]
        self.to_signer.target = self.stack.ports["signer"]
        return "root, intermediate, a leaf for each part (24 h, one SPIFFE name each)"

    def make_vault(self) -> str:
        """Vault, K1, profile."""
        self.stack.make_vault()
        return f"K3 of epoch 1 made in the signer, sealed with a passphrase; registry {self.stack.registry_id[:8]}…"

    def start_services(self) -> str:
        """All processes."""
        self.stack.start()
        pids = ", ".join(f"{name} {service.pid}" for name, service in self.stack.services.items())
        return f"pids: {pids}"

    def enrol_alice(self) -> str:
        """The first master."""
        self.alice = people.enrol(self.stack, "alice")
        return f"user {self.alice.who.operator.hex()[:8]}…; wallet key made for development, K11 is SOFTWARE"

    def enrol_bob(self) -> str:
        """Another user, with a credential of the same name."""
        self.bob = people.enrol(self.stack, "bob")
        self.bob.must("cred", "put", GRANTED, stdin=b"Bob's own credential")
        return f"user {self.bob.who.operator.hex()[:8]}…, whom no line below lets near Alice's data"

    def store_credentials(self) -> str:
        """Both of Alice's credentials."""
        self.alice.must("cred", "put", GRANTED, stdin=self.value)
        self.alice.must("cred", "put", WITHHELD, stdin=self.withheld)
        return f"{GRANTED} ({size(len(self.value))}) and {WITHHELD}, each with a signed audit row"

    def pair_agent(self) -> str:
        """The agent, with a scope of one credential and one host."""
        self.agent, shown = people.pair(self.stack, self.alice, "research", (f"cred:{GRANTED}", f"siwe:{HOST}"))
        scope = f"cred:{GRANTED}, siwe:{HOST}"
        return f"pairing hash {shown[:4]} {shown[4:8]} … the same on both machines; scope: {scope}"


Step = tuple[str, Callable[[World], str]]
DEPLOYMENT: tuple[Step, ...] = (
    ("certificates", World.make_certificates),
    ("vault", World.make_vault),
    ("services started", World.start_services),
    ("master device enrolled", World.enrol_alice),
)
PEOPLE: tuple[Step, ...] = (
    ("credential stored", World.store_credentials),
    ("agent paired", World.pair_agent),
    ("second user enrolled", World.enrol_bob),
)


def build_world(root: Path, *, value: bytes | None = None) -> World:
    """Return a world that runs in `root`, a folder that it makes; the caller closes it.

    Raises:
        StackError: a part did not start; nothing of it runs then.
    """
    if root.exists():
        raise StackError(f"{root} exists already")
    world = World(root=root, value=secrets.token_bytes(64) if value is None else value)
    try:
        for _, step in (*DEPLOYMENT, *PEOPLE):
            step(world)
    except BaseException:
        world.close()
        raise
    return world
