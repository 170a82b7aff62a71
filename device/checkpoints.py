"""Checkpoints over all audit rows of the deployment: history only ever grows, and this actor's rows are in it.

A checkpoint shows what a chain alone cannot: rows cut off at its end, and a signer whose state was put back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.audit import AuditRow
from agentkeys_core.checkpoint import Checkpoint
from agentkeys_core.encoding import canonical_json, fields, hex_decode, hex_encode, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.merkle import MAX_PROOF, check_consistency, check_inclusion
from agentkeys_core.ops import WorkerClass
from agentkeys_core.shapes import integer, sequence
from agentkeys_core.shapes import text as text_of
from device.errors import DeviceError, Trouble
from device.home import Home
from device.problems import check_refusal
from device.session import Device

FILE: Final = "checkpoint.json"
#: Rows in one question to the audit worker.
PAGE: Final = 500
_LIMIT: Final = 1024
_BAD: Final = Reason.INVALID_ENCODING
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The last checkpoint that this device has verified. It never goes back."""

    size: int
    root: bytes

    def encode(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({"root": hex_encode(self.root), "size": self.size, "ver": _VERSION})

    @classmethod
    def load(cls, home: Home) -> "Seen | None":
        """Return what the folder holds. Raises `bad_file`."""
        data = home.read(FILE)
        if data is None:
            return None
        try:
            members = fields(
                parse_canonical(data, limit=_LIMIT, not_canonical=_BAD), required=("root", "size", "ver"), reason=_BAD
            )
            integer(members["ver"], "ver", low=_VERSION, high=_VERSION, reason=_BAD)
            size = integer(members["size"], "size", low=1, reason=_BAD)
            return cls(size=size, root=hex_decode(members["root"], length=32))
        except KeyServiceError as exc:
            raise DeviceError(Trouble.BAD_FILE, f"{home.path / FILE}: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """A verified checkpoint, and how many of the rows asked about it covers; the newest may be too new for it."""

    checkpoint: Checkpoint
    covered: int
    newer: int


def latest(device: Device) -> Checkpoint:
    """Return the newest checkpoint: signed by an audit key, and going on from the last one seen here.

    Raises:
        DeviceError: `export_not_trusted` for a history that was changed or went back; else as the transport.
        KeyServiceError: `not_found` where none was signed yet.
    """
    answer = check_refusal(device.channel(WorkerClass.AUDIT).get("/v1/audit/checkpoint"))
    try:
        note = text_of(
            fields(answer.json(), required=("checkpoint",), reason=_BAD)["checkpoint"], "checkpoint", reason=_BAD
        )
        checkpoint = device.keys.verify_checkpoint(note.encode(), device.profile.aud)
    except KeyServiceError as exc:
        raise _not_trusted(f"the checkpoint: {exc}") from exc
    with device.home.locked():
        seen = Seen.load(device.home)
        if seen is not None:
            _check_goes_on(device, seen, checkpoint)
        device.home.write(FILE, Seen(size=checkpoint.size, root=checkpoint.root).encode())
    return checkpoint


def _check_goes_on(device: Device, seen: Seen, checkpoint: Checkpoint) -> None:
    if checkpoint.size < seen.size:
        raise _not_trusted(f"the checkpoint covers {checkpoint.size} rows, one seen before covered {seen.size}")
    proof: list[bytes] = []
    if checkpoint.size > seen.size:
        path = f"/v1/audit/consistency/{seen.size}/{checkpoint.size}"
        proof = _proof(check_refusal(device.channel(WorkerClass.AUDIT).get(path)).json(), "proof")
    try:
        check_consistency(seen.size, checkpoint.size, seen.root, checkpoint.root, proof)
    except KeyServiceError as exc:
        raise _not_trusted("the checkpoint does not go on from the one seen before: history was changed") from exc


def cover(device: Device, rows: Sequence[AuditRow]) -> Coverage:
    """Return how far the newest checkpoint covers one actor's rows, given in the order of their chain.

    Raises:
        DeviceError: `export_not_trusted` where one is not in it but a later one is, or a proof does not hold.
    """
    checkpoint = latest(device)
    covered, last = 0, -1
    for start in range(0, len(rows), PAGE):
        page = rows[start : start + PAGE]
        places = _places(device, checkpoint, page)
        for row, place in zip(page, places, strict=True):
            if place is None:
                continue
            if covered != row.seq - rows[0].seq:
                raise _not_trusted(f"row {row.seq} is in the checkpoint, and one before it is not")
            index, proof = place
            try:
                check_inclusion(row.row_hash, index, checkpoint.size, proof, checkpoint.root)
            except KeyServiceError as exc:
                raise _not_trusted(f"row {row.seq} is not where the audit worker says") from exc
            if index <= last:
                raise _not_trusted(f"row {row.seq} was written before the one that it follows")
            covered, last = covered + 1, index
    return Coverage(checkpoint=checkpoint, covered=covered, newer=len(rows) - covered)


def _places(device: Device, checkpoint: Checkpoint, rows: Sequence[AuditRow]) -> list[tuple[int, list[bytes]] | None]:
    asked = canonical_json({"rows": [hex_encode(row.row_hash) for row in rows], "size": checkpoint.size})
    answer = check_refusal(device.channel(WorkerClass.AUDIT).post("/v1/audit/inclusion", asked))
    try:
        members = fields(answer.json(), required=("proofs",), reason=_BAD)
        found = sequence(members["proofs"], "proofs", reason=_BAD)
        places = [None if place is None else _place(place) for place in found]
    except KeyServiceError as exc:
        raise _not_trusted(f"the proofs: {exc}") from exc
    if len(places) != len(rows):
        raise _not_trusted("the proofs: not one a row")
    return places


def _place(value: object) -> tuple[int, list[bytes]]:
    index = fields(value, required=("index", "proof"), reason=_BAD)["index"]
    return integer(index, "index", reason=_BAD), _proof(value, "proof", also=("index",))


def _proof(value: object, name: str, *, also: Sequence[str] = ()) -> list[bytes]:
    try:
        parts = sequence(fields(value, required=(name, *also), reason=_BAD)[name], name, reason=_BAD)
        hashes = [hex_decode(part, length=32) for part in parts]
    except KeyServiceError as exc:
        raise _not_trusted(f"the proof: {exc}") from exc
    if len(hashes) > MAX_PROOF:
        raise _not_trusted("the proof: too long")
    return hashes


def _not_trusted(why: str) -> DeviceError:
    return DeviceError(Trouble.EXPORT_NOT_TRUSTED, why)
