"""The routes of pairing: what the machine asks, and what the master asks."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.encoding import b64u_encode, fields, hex_decode
from agentkeys_core.errors import Reason
from agentkeys_core.shapes import text
from agentkeys_runtime.web.endpoints import Call, Endpoint, always
from agentkeys_runtime.web.schemas import B64U, B64U32, HEX16, HEX32, SECONDS, closed
from agentkeys_runtime.web.vouching import vouching
from broker.ceremonies.codes import code_shown
from broker.ceremonies.pairing import MAX_SERVICES, Pairing, PairingDesk, PairingRequest
from broker.ports import CeremonyState
from broker.sessions import SessionDesk
from broker.web.ceremony_shapes import POLL_PRICE
from broker.web.session_routes import claim_of, known_by_proof

_BODY_LIMIT: Final = 16 * 1024
_ID_BYTES: Final = 16
#: As people write it: case, the hyphen and letters that look like digits do not matter.
_CODE: Final = {"type": "string", "pattern": "^[0-9A-TV-Za-tv-z]{4}-?[0-9A-TV-Za-tv-z]{4}$"}
_SERVICE: Final = {
    "type": "string",
    "pattern": "^((cred|memory|siwe|sign):[a-z0-9][a-z0-9._-]{0,63}|audit:own|audit:tree)$",
}
_PAIR: Final = closed({"message": {"type": "object"}, "signature": B64U})
_PAIRING: Final = closed(
    {
        "code": {"type": "string", "description": "once, to the machine that began"},
        "device": HEX32,
        "expires_at": SECONDS,
        "id": HEX16,
        "label": {"type": ["string", "null"]},
        "operator_omni": {"oneOf": [HEX32, {"type": "null"}], "description": "who claimed it"},
        "pair": {"oneOf": [_PAIR, {"type": "null"}]},
        "profile_hash": B64U,
        "public_key": B64U,
        "services": {"type": "array", "items": {"type": "string"}},
        "state": {"type": "string", "enum": [state.value for state in CeremonyState]},
    },
    optional=("code",),
)


def pairing_endpoints(desk: PairingDesk, sessions: SessionDesk) -> tuple[Endpoint, ...]:
    """Return the routes of pairing."""

    def begin(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("label", "profile_hash", "services"), reason=Reason.INVALID_BODY)
        begun = desk.begin(claim_of(call), PairingRequest.of(**members))
        return {**_told(begun.pairing), "code": code_shown(begun.code)}

    def of_machine(call: Call) -> Mapping[str, object]:
        return _told(desk.of_machine(claim_of(call), _id(call)))

    def sign(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("pair",), reason=Reason.INVALID_BODY)
        return _told(desk.sign(claim_of(call), _id(call), members["pair"]))

    def claim(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("code",), reason=Reason.INVALID_BODY)
        code = text(members["code"], "code", reason=Reason.INVALID_BODY)
        visitor = sessions.visitor(claim_of(call))
        with vouching():
            return _told(desk.claim(visitor, code))

    def of_master(call: Call) -> Mapping[str, object]:
        pairing_id, visitor = _id(call), sessions.visitor(claim_of(call))
        with vouching():
            return _told(desk.of_master(visitor, pairing_id))

    return (
        Endpoint(
            method="POST",
            path="/v1/pairings",
            summary="Begins a pairing for the machine whose proof (purpose sign-in) this is. Inert until claimed.",
            handler=begin,
            proof="sign-in",
            body_limit=_BODY_LIMIT,
            request=closed(
                {
                    "label": {"type": ["string", "null"], "pattern": "^[a-z0-9-]{1,32}$"},
                    "profile_hash": B64U32,
                    "services": {"type": "array", "items": _SERVICE, "maxItems": MAX_SERVICES},
                }
            ),
            response=_PAIRING,
        ),
        Endpoint(
            method="POST",
            path="/v1/pairings/claim",
            summary="A master's session takes the pairing with this code, once.",
            handler=claim,
            proof="request",
            session=True,
            given_back=always,
            known=known_by_proof(sessions, "request"),
            body_limit=_BODY_LIMIT,
            request=closed({"code": _CODE}),
            response=_PAIRING,
        ),
        Endpoint(
            method="GET",
            path="/v1/pairings/claimed/{id}",
            summary="A pairing, for a session of the user who claimed it.",
            handler=of_master,
            proof="request",
            session=True,
            given_back=always,
            known=known_by_proof(sessions, "request"),
            response=_PAIRING,
            variable=HEX16,
        ),
        Endpoint(
            method="GET",
            path="/v1/pairings/{id}",
            summary="A pairing, for the machine that began it: who claimed it.",
            handler=of_machine,
            proof="request",
            price=POLL_PRICE,
            response=_PAIRING,
            variable=HEX16,
        ),
        Endpoint(
            method="POST",
            path="/v1/pairings/{id}",
            summary="The machine agrees: its signed Pair, which names the operator that claimed it.",
            handler=sign,
            proof="request",
            body_limit=_BODY_LIMIT,
            request=closed({"pair": _PAIR}),
            response=_PAIRING,
            variable=HEX16,
        ),
    )


def _id(call: Call) -> bytes:
    return hex_decode(call.path["id"], length=_ID_BYTES, reason=Reason.NOT_FOUND)


def _told(pairing: Pairing) -> dict[str, object]:
    return {
        "device": pairing.ceremony.device.hex(),
        "expires_at": pairing.ceremony.expires_at,
        "id": pairing.ceremony.id.hex(),
        "label": pairing.request.label,
        "operator_omni": pairing.operator.hex() or None,
        "pair": pairing.pair,
        "profile_hash": b64u_encode(pairing.request.profile_hash),
        "public_key": b64u_encode(pairing.public_key),
        "services": list(pairing.request.services),
        "state": pairing.ceremony.state.value,
    }
