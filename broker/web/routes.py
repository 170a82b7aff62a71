"""The broker's routes: shapes in, one call, JSON out."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.captoken import MAX_CAP_BYTES, UncosignedCap
from agentkeys_core.encoding import address_encode, b64u_encode, canonical_json, fields, hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import MAX_EPOCH, integer
from agentkeys_runtime.web.endpoints import ANY_METHOD, Call, Endpoint, refusing
from agentkeys_runtime.web.registry_routes import registry_endpoints
from agentkeys_runtime.web.registry_source import RegistrySource
from agentkeys_runtime.web.schemas import ADDRESS, B64U, EPOCH, HEX32, UNCOSIGNED_CAP, closed
from broker.cosign import Cosigner
from broker.ports import AddressSource

#: A cap of the largest size, written with any spacing.
CAP_BODY_LIMIT: Final = 4 * MAX_CAP_BYTES
ADDRESS_BODY_LIMIT: Final = 1024
_SEE: Final = "docs/spec/signer-protocol.md, docs/arch.md section 14.2"


def broker_endpoints(*, cosigner: Cosigner, registry: RegistrySource, addresses: AddressSource) -> tuple[Endpoint, ...]:
    """Return every route of the broker."""

    def caps(call: Call) -> Mapping[str, object]:
        # Signer and workers get the canonical form, and so does the limit on its size.
        cap = UncosignedCap.parse(canonical_json(call.json()))
        made = cosigner.cosign(cap)
        return {"cosign": b64u_encode(made.cosign), "kid": made.kid}

    def derive_address(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("omni",), optional=("epoch",), reason=Reason.INVALID_BODY)
        omni = hex_decode(members["omni"], length=32, reason=Reason.INVALID_OMNI)
        epoch = members.get("epoch", None)
        if epoch is None:
            epoch = registry.status().k3_epoch
        epoch = integer(epoch, "epoch", low=1, high=MAX_EPOCH, reason=Reason.INVALID_BODY)
        return {"address": address_encode(addresses.derive_address(omni, epoch=epoch)), "epoch": epoch}

    return (
        Endpoint(
            method="POST",
            path="/v1/caps",
            summary="Co-signs a device's request after checking device, scope, epoch and quota.",
            handler=caps,
            body_limit=CAP_BODY_LIMIT,
            request=UNCOSIGNED_CAP,
            response=closed({"cosign": B64U, "kid": {"type": "string"}}),
        ),
        Endpoint(
            method="POST",
            path="/v1/derive-address",
            summary="The wallet address of an omni at an epoch, by default the current one. Releases no secret.",
            handler=derive_address,
            body_limit=ADDRESS_BODY_LIMIT,
            request=closed({"omni": HEX32, "epoch": EPOCH}, optional=("epoch",)),
            response=closed({"address": ADDRESS, "epoch": EPOCH}),
        ),
        _gone("/dev/derive-address", "POST /v1/derive-address"),
        _gone("/dev/sign-message", "a cap of op siwe-sign, which the device signs itself (SignSiwe)"),
        *registry_endpoints(registry),
    )


def _gone(path: str, instead: str) -> Endpoint:
    error = KeyServiceError(
        Reason.GONE,
        f"the daemon edge was removed: a broker-issued token alone proves nothing. Instead: {instead}",
        metadata={"instead": instead, "see": _SEE},
    )
    return Endpoint(method=ANY_METHOD, path=path, summary=f"Removed. Instead: {instead}.", handler=refusing(error))
