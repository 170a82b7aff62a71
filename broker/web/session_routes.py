"""The routes of sessions: signing in, refreshing, listing and ending. Every one needs the device's own signature."""

from collections.abc import Callable, Mapping
from typing import Final

from agentkeys_core.encoding import fields, hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.proof import PROOF_HEADER
from agentkeys_runtime.web.endpoints import Call, Endpoint, Known, always
from agentkeys_runtime.web.schemas import B64U, HEX16, HEX32, SECONDS, closed
from broker.ports import Session
from broker.proofs import Claim
from broker.sessions import Grant, SessionDesk
from broker.wallet_sign_in import BODY_LIMIT, SignedMessage

_BODY_LIMIT: Final = 4096
_SCHEME: Final = "bearer "
_ID_BYTES: Final = 16
_SESSION: Final = closed(
    {
        "created_at": SECONDS,
        "device": HEX32,
        "expires_at": SECONDS,
        "id": HEX16,
        "method": {"type": "string", "enum": ["device", "wallet"]},
        "operator_omni": HEX32,
    }
)
_GRANT: Final = closed({"session": _SESSION, "token": {"type": "string"}, "token_expires_at": SECONDS})
_EMPTY: Final = closed({})
_SIGN_IN: Final = closed({"siwe": closed({"message": {"type": "string"}, "signature": B64U})}, optional=("siwe",))


def claim_of(call: Call) -> Claim:
    """What a request claims about its sender.

    Raises:
        KeyServiceError: `proof_invalid` without a proof, `session_invalid` for another kind of authorization.
    """
    proof = call.headers.get(PROOF_HEADER.lower(), "")
    if not proof:
        raise KeyServiceError(Reason.PROOF_INVALID, f"the header {PROOF_HEADER} is missing")
    authorization = call.headers.get("authorization", "")
    if authorization and not authorization.lower().startswith(_SCHEME):
        raise KeyServiceError(Reason.SESSION_INVALID, "the authorization is no bearer token")
    token = authorization[len(_SCHEME) :].strip()
    return Claim(method=call.method, path=call.target, body=call.body, proof=proof, token=token, client=call.client)


def known_by_proof(desk: SessionDesk, purpose: str) -> Callable[[Call], Known | None]:
    """What an endpoint tells a request's device by, whose proof has this purpose; `Endpoint.known`."""
    return lambda call: desk.known(claim_of(call), purpose)


def session_endpoints(desk: SessionDesk) -> tuple[Endpoint, ...]:
    """Return the routes of sessions."""

    def challenge(_: Call) -> Mapping[str, object]:
        found = desk.challenge()
        return {"expires_at": found.expires_at, "nonce": found.nonce}

    def sign_in(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=(), optional=("siwe",), reason=Reason.INVALID_BODY)
        wallet = SignedMessage.from_json(members["siwe"]) if "siwe" in members else None
        return _grant(desk.sign_in(claim_of(call), wallet))

    def refresh(call: Call) -> Mapping[str, object]:
        _no_members(call)
        return _grant(desk.refresh(claim_of(call)))

    def sessions(call: Call) -> Mapping[str, object]:
        return {"sessions": [_session(found) for found in desk.of_user(desk.visitor(claim_of(call)))]}

    def end(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("id",), reason=Reason.INVALID_BODY)
        session_id = hex_decode(members["id"], length=_ID_BYTES, reason=Reason.INVALID_BODY)
        return {"ended": desk.end(desk.visitor(claim_of(call)), session_id)}

    return (
        Endpoint(
            method="GET",
            path="/v1/session/challenge",
            summary="A nonce for one sign-in, good for 5 minutes.",
            handler=challenge,
            response=closed({"expires_at": SECONDS, "nonce": {"type": "string", "pattern": "^[0-9a-f]{112}$"}}),
        ),
        Endpoint(
            method="POST",
            path="/v1/session",
            summary=f"Signs a registered device in: its {PROOF_HEADER} with purpose sign-in over that nonce; `siwe`: "
            "with the user's own wallet besides.",
            handler=sign_in,
            proof="sign-in",
            given_back=always,
            known=known_by_proof(desk, "sign-in"),
            body_limit=BODY_LIMIT,
            request=_SIGN_IN,
            response=_GRANT,
        ),
        Endpoint(
            method="POST",
            path="/v1/session/refresh",
            summary=f"A fresh token for an old one and a {PROOF_HEADER} with purpose refresh.",
            handler=refresh,
            proof="refresh",
            session=True,
            given_back=always,
            known=known_by_proof(desk, "refresh"),
            body_limit=_BODY_LIMIT,
            request=_EMPTY,
            response=_GRANT,
        ),
        Endpoint(
            method="GET",
            path="/v1/sessions",
            summary="Sessions that have not ended: to a master the user's, to an agent's device its own.",
            handler=sessions,
            proof="request",
            session=True,
            given_back=always,
            known=known_by_proof(desk, "request"),
            response=closed({"sessions": {"type": "array", "items": _SESSION}}),
        ),
        Endpoint(
            method="POST",
            path="/v1/session/end",
            summary="Ends one of these sessions at once.",
            handler=end,
            proof="request",
            session=True,
            given_back=always,
            known=known_by_proof(desk, "request"),
            body_limit=_BODY_LIMIT,
            request=closed({"id": HEX16}),
            response=closed({"ended": {"type": "boolean"}}),
        ),
    )


def _no_members(call: Call) -> None:
    fields(call.json(), required=(), reason=Reason.INVALID_BODY)


def _session(session: Session) -> dict[str, object]:
    return {
        "created_at": session.created_at,
        "device": session.device.hex(),
        "expires_at": session.expires_at,
        "id": session.id.hex(),
        "method": session.method.value,
        "operator_omni": session.operator.hex(),
    }


def _grant(grant: Grant) -> dict[str, object]:
    return {"session": _session(grant.session), "token": grant.token, "token_expires_at": grant.token_expires_at}
