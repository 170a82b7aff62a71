"""The SQL of what outlasts the change that asked for it: rotations that wait, and teardowns."""

import sqlite3
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from agentkeys_core.ids import device_key_hash
from agentkeys_core.registry import PendingRotation


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRotation:
    """A rotation whose time has come: whose it is, and the EIP-712 digest of the RotateKey that asked for it."""

    operator_omni: bytes
    device: bytes
    digest: bytes


def read_rotations(conn: sqlite3.Connection, operator_omni: bytes) -> dict[bytes, PendingRotation]:
    """The rotations of an operator that wait, by the key hash of the device that they replace."""
    found = conn.execute(
        "SELECT device_key_hash, new_address, due_at FROM registry_rotations WHERE operator_omni = ?", (operator_omni,)
    )
    return {row[0]: PendingRotation(device=row[0], new_address=row[1], due_at=row[2]) for row in found}


def read_next_due(conn: sqlite3.Connection) -> int | None:
    """When the next rotation of any operator is due; None where none waits."""
    found: tuple[int | None] = conn.execute("SELECT min(due_at) FROM registry_rotations").fetchone()
    return found[0]


def read_due(conn: sqlite3.Connection, *, now: int, operator_omni: bytes | None, limit: int) -> tuple[DueRotation, ...]:
    """The rotations that are due, the oldest first: of one operator, or of all (None)."""
    found = conn.execute(
        "SELECT operator_omni, device_key_hash, digest FROM registry_rotations"
        " WHERE due_at <= ?1 AND (?2 IS NULL OR operator_omni = ?2) ORDER BY due_at LIMIT ?3",
        (now, operator_omni, limit),
    )
    return tuple(DueRotation(operator_omni=row[0], device=row[1], digest=row[2]) for row in found)


def write_rotation(
    conn: sqlite3.Connection,
    operator_omni: bytes,
    rotation: PendingRotation | None,
    *,
    cancelled: AbstractSet[bytes],
    digest: bytes,
) -> None:
    """Forget the rotations of the devices `cancelled`, then remember `rotation`, which the change `digest` asks for."""
    conn.executemany(
        "DELETE FROM registry_rotations WHERE device_key_hash = ?", [(device,) for device in sorted(cancelled)]
    )
    if rotation is not None:
        conn.execute(
            "INSERT INTO registry_rotations (device_key_hash, operator_omni, new_key_hash, new_address, due_at, digest)"
            " VALUES (?,?,?,?,?,?)",
            (
                rotation.device,
                operator_omni,
                device_key_hash(rotation.new_address),
                rotation.new_address,
                rotation.due_at,
                digest,
            ),
        )


def read_torn_down(conn: sqlite3.Connection, operator_omni: bytes) -> dict[bytes, int]:
    """Class bits by owner, for every owner of this operator's tree whose keys are refused for ever."""
    query = "SELECT owner, classes FROM registry_teardowns WHERE operator_omni = ?"
    return dict(conn.execute(query, (operator_omni,)))


def write_torn_down(conn: sqlite3.Connection, operator_omni: bytes, torn_down: Mapping[bytes, int]) -> None:
    """Add class bits; none is ever taken away."""
    conn.executemany(
        "INSERT INTO registry_teardowns (owner, operator_omni, classes) VALUES (?1, ?2, ?3)"
        " ON CONFLICT (owner) DO UPDATE SET classes = classes | ?3",
        [(owner, operator_omni, bits) for owner, bits in torn_down.items()],
    )
