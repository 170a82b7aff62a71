"""Registry reads and relayed changes, at broker and workers alike: neither can swallow a revocation."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from agentkeys_core.audit import AuditRow
from agentkeys_core.encoding import hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from agentkeys_core.signed_change import MAX_CHANGE_BYTES, SignedChange
from agentkeys_runtime.web.endpoints import Call, Endpoint
from agentkeys_runtime.web.knowing import known_by_change, known_by_name
from agentkeys_runtime.web.registry_source import PinnedRegistry, RegistrySource
from agentkeys_runtime.web.schemas import OPERATOR_STATE, ROW, SIGNED_CHANGE, closed

#: The signer checks signatures and may write; anybody can make the keys for a first bind of their own.
CHANGE_PRICE: Final = 5


def registry_endpoints(registry: PinnedRegistry, clock: Callable[[], float] = time.time) -> tuple[Endpoint, ...]:
    """Return the routes below /v1/registry, and /healthz. None of them needs a session."""

    def operator(call: Call) -> Mapping[str, object]:
        omni = hex_decode(call.path["omni"], length=32, reason=Reason.INVALID_OMNI)
        return _state(registry, registry.operator(omni))

    def device(call: Call) -> Mapping[str, object]:
        return _state(registry, registry.lookup_device(hex_decode(call.path["key_hash"], length=32)))

    def change(call: Call) -> Mapping[str, object]:
        SignedChange.parse(call.body)  # what is malformed does not travel on
        return {"row": _row(registry.apply(call.body))}

    def health(call: Call) -> Mapping[str, object]:  # noqa: ARG001
        try:
            registry.status()
        except KeyServiceError as error:
            return {"status": "ok", "registry": str(error.reason)}
        return {"status": "ok", "registry": "fresh"}

    return (
        Endpoint(
            method="GET",
            path="/v1/registry/operators/{omni}",
            summary="State of one operator; `devices` is empty where none is registered.",
            handler=operator,
            given_back=_is_known,
            known=lambda call: known_by_name(registry.seen_operator, call.path["omni"]),
            response=OPERATOR_STATE,
        ),
        Endpoint(
            method="GET",
            path="/v1/registry/devices/{key_hash}",
            summary="State of the operator to which a device belongs; `devices` is empty where it belongs to none.",
            handler=device,
            given_back=_is_known,
            known=lambda call: known_by_name(registry.seen_device, call.path["key_hash"]),
            response=OPERATOR_STATE,
        ),
        Endpoint(
            method="POST",
            path="/v1/registry/changes",
            summary="Relays a signed change; answers with its signed audit row. Asking again gets the same row.",
            handler=change,
            price=CHANGE_PRICE,
            known=lambda call: known_by_change(call.body, registry, now=clock()),
            body_limit=MAX_CHANGE_BYTES,
            request=SIGNED_CHANGE,
            response=closed({"row": ROW}),
        ),
        Endpoint(
            method="GET",
            path="/healthz",
            summary="Says that the process serves, and whether its registry is fresh.",
            handler=health,
            response=closed({"status": {"const": "ok"}, "registry": {"type": "string"}}),
            quiet=True,
            price=0,
        ),
    )


def _state(registry: RegistrySource, state: OperatorState | None) -> Mapping[str, object]:
    if state is not None:
        return state.to_json()
    status = registry.status()
    return {
        "devices": [],
        "epoch": status.k3_epoch,
        "freeze_nonce": 0,
        "frozen": False,
        "incarnation": status.incarnation,
        "nonce": 0,
        "scopes": {},
    }


def _is_known(answer: object) -> bool:
    """Whether a read was of something registered, which is cached: others are asked of the signer each time."""
    return isinstance(answer, Mapping) and bool(answer["devices"])


def _row(data: bytes) -> Mapping[str, object]:
    try:
        return AuditRow.parse(data).to_json()
    except KeyServiceError as error:
        raise KeyServiceError(Reason.INTERNAL, "the registry's row is malformed") from error
