"""Checkpoints and proofs for whoever asks: hashes alone, so no cap is needed."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.encoding import fields, hex_decode, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import integer, sequence
from agentkeys_runtime.web.endpoints import Call, Endpoint
from agentkeys_runtime.web.schemas import HEX32, closed
from worker.checkpoints import Notary

#: Rows in one question.
MAX_ROWS: Final = 500
_QUESTION_BYTES: Final = 64 * 1024
_BAD: Final = Reason.INVALID_BODY
_DIGITS: Final = 16
_PROOF: Final = {"type": "array", "items": HEX32}
_PLACE: Final = closed({"index": {"type": "integer"}, "proof": _PROOF})


def checkpoint_endpoints(notary: Notary) -> tuple[Endpoint, ...]:
    """Return the routes of one audit worker."""

    def latest(_: Call) -> Mapping[str, object]:
        return {"checkpoint": notary.latest().decode()}

    def consistency(call: Call) -> Mapping[str, object]:
        proof = notary.consistency(_size(call.path["old"]), _size(call.path["new"]))
        return {"proof": [hex_encode(part) for part in proof]}

    def inclusion(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("rows", "size"), reason=_BAD)
        size = integer(members["size"], "size", low=1, reason=_BAD)
        asked = sequence(members["rows"], "rows", reason=_BAD)
        if len(asked) > MAX_ROWS:
            raise KeyServiceError(_BAD, f"at most {MAX_ROWS} rows")
        rows = [hex_decode(row, length=32, reason=_BAD) for row in asked]
        return {"proofs": [_place(notary.inclusion(row, size)) for row in rows]}

    return (
        Endpoint(
            method="GET",
            path="/v1/audit/checkpoint",
            summary="The last signed checkpoint over all audit rows, a signed note.",
            handler=latest,
            response=closed({"checkpoint": {"type": "string"}}),
        ),
        Endpoint(
            method="GET",
            path="/v1/audit/consistency/{old}/{new}",
            summary="RFC 9162 proof that the checkpoint of one size goes on from that of an earlier one.",
            handler=consistency,
            response=closed({"proof": _PROOF}),
        ),
        Endpoint(
            method="POST",
            path="/v1/audit/inclusion",
            summary="RFC 9162 proofs that rows, by their hash, are in the checkpoint of a size; null for others.",
            handler=inclusion,
            body_limit=_QUESTION_BYTES,
            request=closed({"rows": {"type": "array", "items": HEX32}, "size": {"type": "integer"}}),
            response=closed({"proofs": {"type": "array", "items": {"oneOf": [_PLACE, {"type": "null"}]}}}),
        ),
    )


def _size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise KeyServiceError(_BAD, "not a size")
    return int(text)


def _place(found: tuple[int, list[bytes]] | None) -> Mapping[str, object] | None:
    if found is None:
        return None
    index, proof = found
    return {"index": index, "proof": [hex_encode(part) for part in proof]}
