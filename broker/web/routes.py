"""The broker's routes: shapes in, one call, JSON out."""

from collections.abc import Callable, Mapping
from typing import Final

from agentkeys_core.bodies import MAX_BODY_BYTES
from agentkeys_core.captoken import MAX_CAP_BYTES, UncosignedCap
from agentkeys_core.encoding import (
    address_encode,
    b64u_decode,
    b64u_encode,
    canonical_json,
    fields,
    hex_decode,
    strict_json,
)
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import MAX_EPOCH, boolean, integer
from agentkeys_runtime.web.endpoints import ANY_METHOD, Call, Endpoint, Known, always, refusing
from agentkeys_runtime.web.registry_routes import registry_endpoints
from agentkeys_runtime.web.registry_source import PinnedRegistry
from agentkeys_runtime.web.schemas import ADDRESS, B64U, EPOCH, HEX32, ROW, UNCOSIGNED_CAP, closed
from broker.cosign import Cosigner
from broker.ports import AddressSource
from broker.signing import Relayed, SigningRelay

#: A cap of the largest size, written with any spacing.
CAP_BODY_LIMIT: Final = 4 * MAX_CAP_BYTES
#: Such a cap and the largest body, base64url.
SIGN_BODY_LIMIT: Final = CAP_BODY_LIMIT + 4 * (MAX_BODY_BYTES // 3 + 1)
ADDRESS_BODY_LIMIT: Final = 1024
_SEE: Final = "docs/spec/signer-protocol.md, docs/arch.md section 14.2"


def broker_endpoints(
    *, cosigner: Cosigner, registry: PinnedRegistry, addresses: AddressSource, signing: SigningRelay
) -> tuple[Endpoint, ...]:
    """Return every route of the broker."""

    def caps(call: Call) -> Mapping[str, object]:
        made = cosigner.cosign(_cap(call.json()))
        return {"cosign": b64u_encode(made.cosign), "kid": made.kid}

    def derive_address(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("omni",), optional=("epoch", "wallet"), reason=Reason.INVALID_BODY)
        omni = hex_decode(members["omni"], length=32, reason=Reason.INVALID_OMNI)
        if boolean(members.get("wallet", False), "wallet", reason=Reason.INVALID_BODY):
            if "epoch" in members:
                raise KeyServiceError(Reason.INVALID_BODY, "the epoch of a wallet is the registry's to say")
            address, epoch = addresses.wallet_address(omni)
            return {"address": address_encode(address), "epoch": epoch}
        asked = members["epoch"] if "epoch" in members else registry.status().k3_epoch
        epoch = integer(asked, "epoch", low=1, high=MAX_EPOCH, reason=Reason.INVALID_BODY)
        return {"address": address_encode(addresses.derive_address(omni, epoch=epoch)), "epoch": epoch}

    return (
        Endpoint(
            method="POST",
            path="/v1/caps",
            summary="Co-signs a device's request after checking device, scope, epoch and quota.",
            handler=caps,
            given_back=always,
            known=lambda call: cosigner.known(_cap(call.json())),
            body_limit=CAP_BODY_LIMIT,
            request=UNCOSIGNED_CAP,
            response=closed({"cosign": B64U, "kid": {"type": "string"}}),
        ),
        Endpoint(
            method="POST",
            path="/v1/derive-address",
            summary="The address of K4(omni) at an epoch, by default the current one; or an actor's wallet.",
            handler=derive_address,
            body_limit=ADDRESS_BODY_LIMIT,
            request=closed(
                {"omni": HEX32, "epoch": EPOCH, "wallet": {"type": "boolean"}}, optional=("epoch", "wallet")
            ),
            response=closed({"address": ADDRESS, "epoch": EPOCH}),
        ),
        *_signing_endpoints(signing, cosigner),
        _gone("/dev/derive-address", "POST /v1/derive-address"),
        _gone("/dev/sign-message", "POST /v1/sign/siwe with a cap of op siwe-sign, which the device signs itself"),
        *registry_endpoints(registry),
    )


def _cap(value: object) -> UncosignedCap:
    """Signer and workers get the canonical form, and so does the limit on its size. Raises as `UncosignedCap.parse`."""
    return UncosignedCap.parse(canonical_json(value))


def _signing_endpoints(signing: SigningRelay, cosigner: Cosigner) -> tuple[Endpoint, ...]:
    def known(call: Call) -> Known | None:
        return cosigner.known(_cap(fields(call.json(), required=("body", "cap"), reason=Reason.INVALID_BODY)["cap"]))

    def endpoint(path: str, summary: str, ask: Callable[[UncosignedCap, bytes], Relayed]) -> Endpoint:
        def handler(call: Call) -> Mapping[str, object]:
            members = fields(call.json(), required=("body", "cap"), reason=Reason.INVALID_BODY)
            body = b64u_decode(members["body"], reason=Reason.INVALID_BODY)
            relayed = ask(_cap(members["cap"]), body)
            row = strict_json(relayed.row, limit=len(relayed.row), reason=Reason.INTERNAL)
            return {"cap_digest": relayed.cap_digest.hex(), "row": row, "sealed": b64u_encode(relayed.sealed)}

        return Endpoint(
            method="POST",
            path=path,
            summary=summary,
            handler=handler,
            given_back=always,
            known=known,
            body_limit=SIGN_BODY_LIMIT,
            request=closed({"body": B64U, "cap": UNCOSIGNED_CAP}),
            response=closed({"cap_digest": HEX32, "row": ROW, "sealed": B64U}),
        )

    return (
        endpoint("/v1/sign/siwe", "A sign-in message, signed by the actor's wallet for its device.", signing.siwe),
        endpoint("/v1/sign/typed-data", "Typed data, signed by the actor's wallet for its device.", signing.typed_data),
    )


def _gone(path: str, instead: str) -> Endpoint:
    error = KeyServiceError(
        Reason.GONE,
        f"the daemon edge was removed: a broker-issued token alone proves nothing. Instead: {instead}",
        metadata={"instead": instead, "see": _SEE},
    )
    summary = f"Removed. Instead: {instead}."
    return Endpoint(method=ANY_METHOD, path=path, summary=summary, handler=refusing(error), price=0)
