"""Protobuf messages as such: unknown fields, bytes that are no message, and sizes."""

from collections.abc import Callable
from typing import Any, Final

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.errors import Reason
from tests.conformance.cases import Case, Steps, add, case
from tests.conformance.groups import methods
from tests.conformance.groups.callers import CALLERS, raw_call
from tests.conformance.site import CREDENTIALS, Site

#: Field 1000 with the text "x".
UNKNOWN: Final = b"\xc2\x3e\x01x"
SIGNER: Final = "/agentkeys.signer.v1.Signer"
REGISTRY: Final = "/agentkeys.signer.v1.Registry"


def _carrying(path: str, name: str, data: bytes, *, streams: bool) -> Steps:
    client = min(CALLERS[name])
    return lambda site: raw_call(site, client, path, data, streams=streams)


for _path, _method in methods():
    add(
        Case(
            group=_method.name,
            title="refuses an unknown field",
            steps=_carrying(_path, _method.name, UNKNOWN, streams=_method.server_streaming),
            gives=Reason.UNKNOWN_FIELDS,
        )
    )

_BATCHES: Final[tuple[tuple[str, Any, Any], ...]] = (
    ("DeriveCredKekBatch", signer_pb2.DeriveCredKekBatchRequest, signer_pb2.DeriveCredKekRequest),
    ("SignAuditRowBatch", signer_pb2.SignAuditRowBatchRequest, signer_pb2.SignAuditRowRequest),
    ("VerifyK10SigBatch", signer_pb2.VerifyK10SigBatchRequest, signer_pb2.VerifyK10SigRequest),
)
for _name, _kind, _item in _BATCHES:
    _batch = _kind()
    _batch.items.append(_item.FromString(UNKNOWN))
    add(
        Case(
            group=_name,
            title="refuses an unknown field of an item",
            steps=_carrying(f"{SIGNER}/{_name}", _name, _batch.SerializeToString(), streams=False),
            gives=Reason.UNKNOWN_FIELDS,
        )
    )


@case("WatchChanges", "refuses an unknown field of the known head", gives=Reason.UNKNOWN_FIELDS)
def nested_unknown(site: Site) -> Callable[[], Any]:
    known = registry_pb2.RegistryHead.FromString(UNKNOWN)
    data = registry_pb2.WatchChangesRequest(known=known).SerializeToString()
    return raw_call(site, CREDENTIALS, f"{REGISTRY}/WatchChanges", data, streams=True)


@case("Messages", "more than a body of 1 MiB and what surrounds it", gives=Reason.TOO_LARGE)
def too_large(site: Site) -> Callable[[], Any]:
    data = signer_pb2.DeriveCredKekRequest(cap=bytes(1024 * 1024 + 128 * 1024)).SerializeToString()
    return raw_call(site, CREDENTIALS, f"{SIGNER}/DeriveCredKek", data)
