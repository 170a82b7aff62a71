"""Users, devices and stored objects by the hundred thousand, written straight into the signer's own tables.

A few of them are active: their devices have keys, and sign requests.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentkeys_core.hashes import keccak256
from agentkeys_core.ids import child_omni, operator_omni
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import ObjectClass
from agentkeys_core.registry import ALL_ROLES, Role, Tier
from tests.unit.core.material import SoftwareK11

AGENTS: Final = 4
DEVICES: Final = AGENTS + 1
OBJECTS: Final = 50
GRANTED: Final = 10
MEMORIES: Final = 40
EPOCH: Final = 1
NEXT_NONCE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent's device, and what its scope grants."""

    key: DeviceKey = field(repr=False)
    actor: bytes
    credentials: tuple[str, ...]
    memories: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One active user: a master with its keys, agents, and the salt of each stored credential by its service."""

    operator: bytes
    master: DeviceKey = field(repr=False)
    k11: SoftwareK11 = field(repr=False)
    agents: tuple[Agent, ...]
    salts: dict[str, bytes]


def service_name(number: int) -> str:
    """Service of a user's stored credential."""
    return f"cred:service-{number:02}"


class _Writer:
    """Rows of one user at a time, kept until there are enough for one statement a table."""

    STATEMENTS: Final = (
        "INSERT INTO registry_operators(operator_omni, identity_omni, wallet, wallet_epoch, nonce) VALUES (?,?,?,0,1)",
        "INSERT INTO registry_actors(actor_omni, operator_omni, wallet_epoch) VALUES (?,?,?)",
        (
            "INSERT INTO registry_devices(device_key_hash, operator_omni, actor_omni, address, label, generation, tier,"
            " roles, registered_at, sequence, credential_id_hash, k11_x, k11_y, rp_id_hash, origin_hash, evidence, assurance)"
            " VALUES (?,?,?,?,?,?,?,?,?,1,?,?,?,?,?,'wallet','high')"
        ),
        "INSERT INTO registry_scopes(operator_omni, actor_omni, service) VALUES (?,?,?)",
        "INSERT INTO objects(id, owner, class, service, issued, current, store) VALUES (?,?,?,?,1,1,?)",
        "INSERT INTO salts(object_id, salt, number, epoch, store) VALUES (?,?,1,?,?)",
    )

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._rows: tuple[list[tuple[object, ...]], ...] = tuple([] for _ in self.STATEMENTS)
        self._objects = 0
        self._now = int(time.time())

    def add(self, wallet: bytes, *, active: bool, k11: SoftwareK11) -> Tenant | None:
        """One user; its keys are real only where it is active."""
        operators, actors, devices, scopes, objects, salts = self._rows
        operator = operator_omni(wallet)
        operators.append((operator, operator, wallet))
        actors.append((operator, operator, 0))
        master = DeviceKey.generate() if active else None
        address = os.urandom(20) if master is None else master.address
        public = k11.public
        credential = public.credential_id_hash if active else os.urandom(32)
        of_k11 = (credential, public.x, public.y, public.rp_id_hash, public.origin_hash)
        standing: tuple[object, ...] = (None, None, int(Tier.MASTER), int(ALL_ROLES), self._now)
        devices.append((keccak256(address), operator, operator, address, *standing, *of_k11))
        agents = []
        for number in range(AGENTS):
            label = f"agent-{number}"
            actor = child_omni(operator, label, 0)
            key = DeviceKey.generate() if active else None
            address = os.urandom(20) if key is None else key.address
            actors.append((actor, operator, 1))
            standing = (label, 0, int(Tier.AGENT), int(Role.CAP_MINT), self._now)
            devices.append((keccak256(address), operator, actor, address, *standing, *(None,) * len(of_k11)))
            granted = tuple(service_name(entry) for entry in range(number * GRANTED, (number + 1) * GRANTED))
            memories = tuple(f"memory:note-{entry:02}" for entry in range(MEMORIES)) if active else ()
            scopes.extend((operator, actor, service) for service in granted + memories)
            if key is not None:
                agents.append(Agent(key=key, actor=actor, credentials=granted, memories=memories))
        stored = {}
        for number in range(OBJECTS):
            self._objects += 1
            service, salt, store = service_name(number), os.urandom(32), os.urandom(32)
            objects.append((self._objects, operator, int(ObjectClass.CREDENTIALS), service, store))
            salts.append((self._objects, salt, EPOCH, store))
            stored[service] = salt
        if len(objects) >= 50_000:
            self.flush()
        if master is None:
            return None
        return Tenant(operator=operator, master=master, k11=k11, agents=tuple(agents), salts=stored)

    def flush(self) -> None:
        """Write what waits."""
        for statement, rows in zip(self.STATEMENTS, self._rows, strict=True):
            self._conn.executemany(statement, rows)
            rows.clear()


def fill(database: Path, *, operators: int, active: int) -> tuple[Tenant, ...]:
    """Register so many users and their objects in an otherwise fresh state file; the active ones stand spread among them."""
    k11 = SoftwareK11(b"bench")
    wallets = sorted((os.urandom(20) for _ in range(operators)), key=operator_omni)  # the order of most primary keys
    chosen = set(_spread(operators, active))
    with closing(sqlite3.connect(database, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("PRAGMA cache_size = -200000")
        conn.execute("BEGIN IMMEDIATE")
        writer = _Writer(conn)
        found = [writer.add(wallet, active=number in chosen, k11=k11) for number, wallet in enumerate(wallets)]
        writer.flush()
        conn.execute("COMMIT")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _sync(database)
    return tuple(tenant for tenant in found if tenant is not None)


def _spread(total: int, some: int) -> Iterator[int]:
    return (number * total // some for number in range(some))


def _sync(path: Path) -> None:
    """Have the disk done with what was written, so that it does not disturb what is measured next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def by_turns(tenants: Sequence[Tenant]) -> Iterator[tuple[Tenant, Agent, int]]:
    """(user, agent, number) for ever: every agent of every user in turn, with a number that grows after each round."""
    number = 0
    while True:
        for index in range(AGENTS):
            for tenant in tenants:
                yield tenant, tenant.agents[index], number
        number += 1
