"""The SQL of the embedded registry. Every function takes the connection: transactions are its caller's decision."""

import sqlite3
from types import MappingProxyType
from typing import Any, Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, K11Public, OperatorState, Role, Tier
from signer.adapters.registry_lasting import read_rotations, read_torn_down, write_rotation, write_torn_down
from signer.ports import RegistryStatus, WalletRef
from signer.registry_effects import Claims, Effects, Taken
from signer.registry_head import AppliedChange, StoredHead
from signer.registry_rules import SOFTWARE_ORIGIN_HASH

_DEVICE_COLUMNS: Final = (
    "device_key_hash, operator_omni, actor_omni, address, label, generation, tier, roles, revoked, registered_at,"
    " sign_count, counter_fell, evidence, assurance, credential_id_hash, k11_x, k11_y, rp_id_hash, origin_hash"
    " FROM registry_devices"
)


#: Looked up instead of constructed: an enum's constructor costs more than the rest of a record.
_TIERS: Final = {tier.value: tier for tier in Tier}
_EVIDENCE: Final = {evidence.value: evidence for evidence in Evidence}
_ASSURANCE: Final = {assurance.value: assurance for assurance in Assurance}
OWN_WALLET: Final = 0  # the wallet epoch of a user whose wallet is none of ours
_ROLES: Final = tuple(Role(bits) for bits in range(ALL_ROLES + 1))


def read_status(conn: sqlite3.Connection) -> RegistryStatus:
    """The registry's counters as `meta` has them."""
    meta = dict(conn.execute("SELECT key, value FROM meta"))
    return RegistryStatus(
        registry_id=meta["registry_id"],
        k3_epoch=meta["k3_epoch"],
        incarnation=meta["incarnation"],
        caps_after=meta.get("caps_after", 0),
    )


def read_sequence(conn: sqlite3.Connection) -> int:
    """Sequence of the newest change, 0 before the first."""
    found: tuple[int | None] = conn.execute("SELECT max(sequence) FROM registry_changes").fetchone()
    return found[0] or 0


def read_head(conn: sqlite3.Connection, *, at: int | None = None) -> StoredHead | None:
    """The newest head, or that of change number `at`; None where there is no such change."""
    columns = "SELECT sequence, head, mac, epoch, incarnation FROM registry_changes"
    query = f"{columns} ORDER BY sequence DESC LIMIT 1" if at is None else f"{columns} WHERE sequence = ?"
    found = conn.execute(query, () if at is None else (at,)).fetchone()
    if found is None:
        return None
    return StoredHead(sequence=found[0], hash=found[1], mac=found[2], epoch=found[3], incarnation=found[4])


def read_row(conn: sqlite3.Connection, digest: bytes) -> bytes | None:
    """The signed audit row of the change with this EIP-712 digest, if it was applied."""
    found: tuple[bytes] | None = conn.execute("SELECT row FROM registry_changes WHERE digest = ?", (digest,)).fetchone()
    return None if found is None else found[0]


def read_changes(conn: sqlite3.Connection, *, after: int, limit: int) -> tuple[AppliedChange, ...]:
    """The first `limit` changes beyond sequence `after`."""
    rows = conn.execute(
        "SELECT sequence, operator_omni, digest, type FROM registry_changes"
        " WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit),
    )
    return tuple(AppliedChange(sequence=row[0], operator_omni=row[1], digest=row[2], type=row[3]) for row in rows)


def count_changes(conn: sqlite3.Connection, operator_omni: bytes) -> int:
    """How many changes of this operator were applied."""
    query = "SELECT count(*) FROM registry_changes WHERE operator_omni = ?"
    found: tuple[int] = conn.execute(query, (operator_omni,)).fetchone()
    return found[0]


def read_operator_of(conn: sqlite3.Connection, device_key_hash: bytes) -> bytes | None:
    """The operator to which a device belongs, for ever."""
    found: tuple[bytes] | None = conn.execute(
        "SELECT operator_omni FROM registry_devices WHERE device_key_hash = ?", (device_key_hash,)
    ).fetchone()
    return None if found is None else found[0]


def read_k11_device(conn: sqlite3.Connection, credential_id_hash: bytes, *, software_k11: bool) -> DeviceRecord | None:
    """The unrevoked device that registered this credential first; None also where its K11 does not count."""
    found = conn.execute(
        f"SELECT {_DEVICE_COLUMNS} WHERE credential_id_hash = ? AND NOT revoked ORDER BY sequence LIMIT 1",
        (credential_id_hash,),
    ).fetchone()
    device = None if found is None else _device(found, software_k11=software_k11)
    return None if device is None or device.k11 is None else device


def read_operator(
    conn: sqlite3.Connection, operator_omni: bytes, status: RegistryStatus, *, software_k11: bool
) -> OperatorState | None:
    """The whole state of one operator, None if it is not registered.

    Without `software_k11` the key of a software authenticator is left out of its device: nothing can rest on it.
    """
    found = conn.execute(
        "SELECT wallet, wallet_epoch, frozen, nonce, freeze_nonce, threshold FROM registry_operators"
        " WHERE operator_omni = ?",
        (operator_omni,),
    ).fetchone()
    if found is None:
        return None
    wallet, wallet_epoch, frozen, nonce, freeze_nonce, threshold = found
    devices = conn.execute(f"SELECT {_DEVICE_COLUMNS} WHERE operator_omni = ?", (operator_omni,))
    scopes: dict[bytes, set[str]] = {}
    query = "SELECT actor_omni, service FROM registry_scopes WHERE operator_omni = ?"
    for actor, service in conn.execute(query, (operator_omni,)):
        scopes.setdefault(actor, set()).add(service)
    return OperatorState(
        operator_omni=operator_omni,
        wallet=wallet,
        wallet_epoch=wallet_epoch,
        frozen=bool(frozen),
        nonce=nonce,
        freeze_nonce=freeze_nonce,
        threshold=threshold,
        devices=MappingProxyType({row[0]: _device(row, software_k11=software_k11) for row in devices}),
        scopes=MappingProxyType({actor: frozenset(services) for actor, services in scopes.items()}),
        incarnation=status.incarnation,
        k3_epoch=status.k3_epoch,
        rotations=MappingProxyType(read_rotations(conn, operator_omni)),
        torn_down=MappingProxyType(read_torn_down(conn, operator_omni)),
    )


def _device(row: tuple[Any, ...], *, software_k11: bool) -> DeviceRecord:
    key_hash, operator, actor, address, label, generation, tier, roles, revoked, registered_at = row[:10]
    sign_count, counter_fell, evidence, assurance = row[10:14]
    return DeviceRecord(
        device_key_hash=key_hash,
        operator_omni=operator,
        actor_omni=actor,
        address=address,
        tier=_TIERS[tier],
        roles=_ROLES[roles],
        revoked=bool(revoked),
        registered_at=registered_at,
        k11=_k11(*row[14:], software_k11=software_k11),
        label=label,
        generation=generation,
        sign_count=sign_count,
        counter_fell=bool(counter_fell),
        evidence=_EVIDENCE[evidence],
        assurance=_ASSURANCE[assurance],
    )


def _k11(
    credential: bytes | None, x: bytes, y: bytes, rp_id_hash: bytes, origin_hash: bytes, *, software_k11: bool
) -> K11Public | None:
    if credential is None or (origin_hash == SOFTWARE_ORIGIN_HASH and not software_k11):
        return None
    return K11Public(credential_id_hash=credential, x=x, y=y, rp_id_hash=rp_id_hash, origin_hash=origin_hash)


def read_wallet(conn: sqlite3.Connection, actor_omni: bytes) -> WalletRef | None:
    """What the actor's K4 is derived from; None where the actor has a wallet of its own.

    Raises:
        KeyServiceError: actor_binding_mismatch for an actor that was never registered.
    """
    found: tuple[bytes, int, bytes] | None = conn.execute(
        "SELECT a.operator_omni, a.wallet_epoch, o.identity_omni FROM registry_actors a"
        " JOIN registry_operators o USING (operator_omni) WHERE a.actor_omni = ?",
        (actor_omni,),
    ).fetchone()
    if found is None:
        raise KeyServiceError(Reason.ACTOR_BINDING_MISMATCH, "no such actor is registered")
    operator_omni, epoch, identity_omni = found
    if epoch == OWN_WALLET:
        return None
    return WalletRef(omni=identity_omni if actor_omni == operator_omni else actor_omni, epoch=epoch)


def read_taken(conn: sqlite3.Connection, operator_omni: bytes, claims: Claims) -> Taken:
    """Which of the names that a change of this operator wants are held already."""

    def one(query: str, key: bytes | None) -> Any:
        found: tuple[Any] | None = conn.execute(query, (key,)).fetchone()
        return None if found is None else found[0]

    operators = "SELECT 1 FROM registry_operators WHERE"
    return Taken(
        identity=one(f"{operators} identity_omni = ? AND NOT annulled", claims.identity) is not None,
        device=one("SELECT 1 FROM registry_devices WHERE device_key_hash = ?", claims.device) is not None,
        reserved_for=one("SELECT device_key_hash FROM registry_rotations WHERE new_key_hash = ?", claims.device),
        actor_owner=one("SELECT operator_omni FROM registry_actors WHERE actor_omni = ?", claims.actor),
        annulled=one(f"{operators} operator_omni = ? AND annulled", operator_omni) is not None,
    )


def write_effects(
    conn: sqlite3.Connection, operator_omni: bytes, effects: Effects, *, sequence: int, digest: bytes, k3_epoch: int
) -> None:
    """Carry out what the rules decided, as part of change number `sequence` with that digest, under this epoch."""
    counters = (effects.frozen, effects.nonce, effects.freeze_nonce, effects.threshold, effects.annulled)
    if (enrolment := effects.enrolment) is not None:
        conn.execute(
            "INSERT INTO registry_operators (operator_omni, identity_omni, wallet, wallet_epoch, frozen, nonce,"
            " freeze_nonce, threshold, annulled) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9) ON CONFLICT (operator_omni)"
            " DO UPDATE SET frozen = ?5, nonce = ?6, freeze_nonce = ?7, threshold = ?8, annulled = ?9",
            (operator_omni, enrolment.identity_omni, enrolment.wallet, enrolment.wallet_epoch, *counters),
        )
    else:
        conn.execute(
            "UPDATE registry_operators SET frozen = ?, nonce = ?, freeze_nonce = ?, threshold = ?, annulled = ?"
            " WHERE operator_omni = ?",
            (*counters, operator_omni),
        )
    if (device := effects.added) is not None:
        enrolment = effects.enrolment
        _insert_actor(conn, device, wallet_epoch=k3_epoch if enrolment is None else enrolment.wallet_epoch)
        _insert_device(conn, device, sequence)
    conn.executemany(
        "UPDATE registry_devices SET revoked = 1 WHERE device_key_hash = ?", [(gone,) for gone in effects.revoked]
    )
    conn.executemany(
        "UPDATE registry_devices SET roles = ? WHERE device_key_hash = ?",
        [(int(roles), key_hash) for key_hash, roles in effects.roles.items()],
    )
    conn.executemany(
        "INSERT OR IGNORE INTO registry_scopes (operator_omni, actor_omni, service) VALUES (?, ?, ?)",
        [(operator_omni, effects.actor, service) for service in effects.granted],
    )
    conn.executemany(
        "DELETE FROM registry_scopes WHERE operator_omni = ? AND actor_omni = ? AND service = ?",
        [(operator_omni, effects.actor, service) for service in effects.withdrawn],
    )
    conn.executemany(
        "UPDATE registry_devices SET counter_fell = max(counter_fell, ?1 < sign_count),"
        " sign_count = max(sign_count, ?1) WHERE device_key_hash = ?2",
        [(count, key_hash) for key_hash, count in effects.sign_counts.items()],
    )
    write_rotation(conn, operator_omni, effects.rotation, cancelled=effects.cancelled, digest=digest)
    write_torn_down(conn, operator_omni, effects.torn_down)
    if effects.annulled:
        conn.execute("DELETE FROM registry_scopes WHERE operator_omni = ?", (operator_omni,))


def _insert_actor(conn: sqlite3.Connection, device: DeviceRecord, *, wallet_epoch: int) -> None:
    """Register the device's actor; one that is known, with other devices or from long ago, keeps its wallet epoch."""
    conn.execute(
        "INSERT OR IGNORE INTO registry_actors (actor_omni, operator_omni, wallet_epoch) VALUES (?, ?, ?)",
        (device.actor_omni, device.operator_omni, wallet_epoch),
    )


def _insert_device(conn: sqlite3.Connection, device: DeviceRecord, sequence: int) -> None:
    k11 = device.k11
    conn.execute(
        "INSERT INTO registry_devices (device_key_hash, operator_omni, actor_omni, address, label, generation, tier,"
        " roles, registered_at, sequence, sign_count, counter_fell, evidence, assurance, credential_id_hash, k11_x,"
        " k11_y, rp_id_hash, origin_hash) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            device.device_key_hash,
            device.operator_omni,
            device.actor_omni,
            device.address,
            device.label,
            device.generation,
            int(device.tier),
            int(device.roles),
            device.registered_at,
            sequence,
            device.sign_count,
            device.counter_fell,
            device.evidence.value,
            device.assurance.value,
            *((None,) * 5 if k11 is None else (k11.credential_id_hash, k11.x, k11.y, k11.rp_id_hash, k11.origin_hash)),
        ),
    )


def append_change(
    conn: sqlite3.Connection, change: AppliedChange, head: StoredHead, *, body: bytes, row: bytes, now: int
) -> None:
    """Record an applied change as it was signed, its audit row and the head after it."""
    conn.execute(
        "INSERT INTO registry_changes (sequence, operator_omni, digest, type, body, row, head, mac, epoch, incarnation,"
        " applied_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
        (
            change.sequence,
            change.operator_omni,
            change.digest,
            change.type,
            body,
            row,
            head.hash,
            head.mac,
            head.epoch,
            head.incarnation,
            now,
        ),
    )
