"""What the device remembers of itself: whose it is, which actor it serves, and what signed rows have proven so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from agentkeys_core.audit import AuditRow, ChainHead
from agentkeys_core.encoding import (
    address_decode,
    address_encode,
    canonical_json,
    fields,
    hex_decode,
    hex_encode,
    parse_canonical,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import MAX_EPOCH, boolean, integer, text
from device.errors import DeviceError, Trouble
from device.home import Home

IDENTITY_FILE: Final = "identity.json"
MEMORY_FILE: Final = "memory.json"
_BAD: Final = Reason.INVALID_ENCODING
_LIMIT: Final = 256 * 1024
_VERSION: Final = 1


class Part(StrEnum):
    """Which kind of device this is."""

    MASTER = "master"
    AGENT = "agent"


def _bad_file(home: Home, name: str, exc: KeyServiceError) -> DeviceError:
    return DeviceError(Trouble.BAD_FILE, f"{home.path / name}: {exc}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose device this is. Omnis and hashes have 32 bytes, the wallet 20.

    `actor_omni` is None on an agent that has not learnt its actor yet. `registered` says that a signed row (master) or
    the registry (agent) has confirmed the device once; it informs people and decides nothing.
    """

    part: Part
    operator_omni: bytes
    profile_hash: bytes
    actor_omni: bytes | None = None
    wallet: bytes | None = None
    label: str | None = None
    generation: int | None = None
    registered: bool = False

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {
                "actor_omni": None if self.actor_omni is None else hex_encode(self.actor_omni),
                "generation": self.generation,
                "label": self.label,
                "operator_omni": hex_encode(self.operator_omni),
                "part": self.part.value,
                "profile_hash": hex_encode(self.profile_hash),
                "registered": self.registered,
                "ver": _VERSION,
                "wallet": None if self.wallet is None else address_encode(self.wallet),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `encode`'s bytes. Raises `unknown_fields` or `invalid_encoding`."""
        names = (
            "actor_omni",
            "generation",
            "label",
            "operator_omni",
            "part",
            "profile_hash",
            "registered",
            "ver",
            "wallet",
        )
        members = fields(parse_canonical(data, limit=_LIMIT, not_canonical=_BAD), required=names, reason=_BAD)
        integer(members["ver"], "ver", low=_VERSION, high=_VERSION, reason=_BAD)
        if members["part"] not in tuple(Part):
            raise KeyServiceError(_BAD, "part")
        actor, label, generation, wallet = (members[name] for name in ("actor_omni", "label", "generation", "wallet"))
        return cls(
            part=Part(str(members["part"])),
            operator_omni=hex_decode(members["operator_omni"], length=32),
            profile_hash=hex_decode(members["profile_hash"], length=32),
            actor_omni=None if actor is None else hex_decode(actor, length=32),
            wallet=None if wallet is None else address_decode(wallet),
            label=None if label is None else text(label, "label", reason=_BAD),
            generation=None if generation is None else integer(generation, "generation", reason=_BAD),
            registered=boolean(members["registered"], "registered", reason=_BAD),
        )

    @classmethod
    def load(cls, home: Home) -> Self | None:
        """Return what the folder holds, None where there is nothing. Raises `bad_file` or `unsafe_file`."""
        data = home.read(IDENTITY_FILE)
        try:
            return None if data is None else cls.parse(data)
        except KeyServiceError as exc:
            raise _bad_file(home, IDENTITY_FILE, exc) from exc

    def save(self, home: Home) -> None:
        """Keep it."""
        home.write(IDENTITY_FILE, self.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What verified rows have proven: the highest epoch in use, and per actor the last row seen.

    Neither ever goes back.

    Nothing that a broker or worker merely says gets in here, so that no lie outlives its answer.
    """

    epoch: int = 0
    heads: Mapping[bytes, ChainHead] = field(default_factory=lambda: MappingProxyType({}))

    def with_row(self, row: AuditRow, *, epoch: int = 0) -> Self:
        """Return the memory after a verified row of a request that was made for `epoch`."""
        known = self.heads.get(row.actor)
        heads = dict(self.heads)
        if known is None or row.seq > known.seq:
            heads[row.actor] = ChainHead(seq=row.seq, row_hash=row.row_hash)
        return replace(self, epoch=max(self.epoch, epoch), heads=MappingProxyType(heads))

    def encode(self) -> bytes:
        """Canonical JSON."""
        heads = {
            hex_encode(actor): {"row_hash": hex_encode(head.row_hash), "seq": head.seq}
            for actor, head in self.heads.items()
        }
        return canonical_json({"epoch": self.epoch, "heads": heads, "ver": _VERSION})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `encode`'s bytes. Raises `unknown_fields` or `invalid_encoding`."""
        members = fields(
            parse_canonical(data, limit=_LIMIT, not_canonical=_BAD), required=("epoch", "heads", "ver"), reason=_BAD
        )
        integer(members["ver"], "ver", low=_VERSION, high=_VERSION, reason=_BAD)
        stored = members["heads"]
        if not isinstance(stored, dict):
            raise KeyServiceError(_BAD, "heads")
        heads = {}
        for actor, value in stored.items():
            head = fields(value, required=("row_hash", "seq"), reason=_BAD)
            heads[hex_decode(actor, length=32)] = ChainHead(
                seq=integer(head["seq"], "seq", reason=_BAD), row_hash=hex_decode(head["row_hash"], length=32)
            )
        epoch = integer(members["epoch"], "epoch", high=MAX_EPOCH, reason=_BAD)
        return cls(epoch=epoch, heads=MappingProxyType(heads))

    @classmethod
    def load(cls, home: Home) -> Self:
        """Return what the folder holds, an empty memory where there is none. Raises `bad_file` or `unsafe_file`."""
        data = home.read(MEMORY_FILE)
        try:
            return cls() if data is None else cls.parse(data)
        except KeyServiceError as exc:
            raise _bad_file(home, MEMORY_FILE, exc) from exc


def remember(home: Home, row: AuditRow, *, epoch: int = 0) -> None:
    """Add a verified row to the folder's memory; safe beside other processes."""
    with home.locked():
        old = Memory.load(home)
        new = old.with_row(row, epoch=epoch)
        if new != old:
            home.write(MEMORY_FILE, new.encode())
