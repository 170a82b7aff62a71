"""What an ID token must say before anybody is shown whose it is (OpenID Connect Core 3.1.3.7). No I/O, no clock."""

from collections.abc import Mapping
from typing import Any, Final

import jwt

from agentkeys_core.encoding import b64u_decode, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import ID_TOKEN_ALGORITHMS, MAX_ID_TOKEN_BYTES
from agentkeys_core.mailbox import MAX_EMAIL_BYTES
from broker.ports import IdToken

MAX_AGE_S: Final = 600
SKEW_S: Final = 60
_REQUIRED: Final = ("aud", "exp", "iat", "iss", "sub")
_SEGMENTS: Final = 3
_MAX_SUBJECT: Final = 255  # OpenID Connect Core 2
_BAD: Final = Reason.INVALID_EVIDENCE


def key_id(token: str) -> str:
    """The key that a token names; nothing is verified. Raises `invalid_evidence` for what is no token of ours."""
    if len(token) > MAX_ID_TOKEN_BYTES:
        raise KeyServiceError(_BAD, f"an ID token has at most {MAX_ID_TOKEN_BYTES} bytes")
    header, *rest = token.split(".")
    if len(rest) != _SEGMENTS - 1:
        raise KeyServiceError(_BAD, "not a compact JWS")
    claims = _json(rest[0])  # what nests without end must not reach the library
    members = _json(header)
    if not isinstance(members, dict) or not isinstance(claims, dict):
        raise KeyServiceError(_BAD, "header or claims are no object")
    return str(members.get("kid", ""))


def _json(segment: str) -> object:
    return strict_json(b64u_decode(segment, reason=_BAD), limit=MAX_ID_TOKEN_BYTES, reason=_BAD)


def verified(token: str, key: jwt.PyJWK, *, issuer: str, client_id: str, nonce: str, now: float) -> IdToken:
    """The token, once it is by that key, of that issuer, for us alone, fresh, and has that nonce.

    Raises:
        KeyServiceError: `invalid_evidence`.
    """
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(ID_TOKEN_ALGORITHMS),
            options={  # what is left out here is compared below, and exactly
                "require": list(_REQUIRED),
                "verify_aud": False,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except Exception as error:  # hostile bytes make the parser raise almost anything: fail closed
        raise KeyServiceError(_BAD, type(error).__name__) from error
    if claims["iss"] != issuer:
        raise KeyServiceError(_BAD, "the ID token is another provider's")
    if claims["aud"] not in (client_id, [client_id]):
        raise KeyServiceError(_BAD, "the ID token is for another client, or for others as well")
    if claims.get("azp", client_id) != client_id:
        raise KeyServiceError(_BAD, "the ID token was asked for by another client")
    if claims.get("nonce") != nonce:
        raise KeyServiceError(_BAD, "the ID token has another nonce")
    issued_at, expires_at = (_seconds(claims, name) for name in ("iat", "exp"))
    if not issued_at - SKEW_S <= now < min(expires_at, issued_at + MAX_AGE_S) + SKEW_S:
        raise KeyServiceError(_BAD, "the ID token is of another time")
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or not subject.isprintable():
        raise KeyServiceError(_BAD, "the ID token's subject is none")
    return IdToken(text=token, subject=subject, name=_name(claims))


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims[name]
    if type(value) is not int:  # as the signer has it: what is not whole, or has no end, is no time
        raise KeyServiceError(_BAD, f"{name} is no whole number")
    return value


def _name(claims: Mapping[str, Any]) -> str:
    """An address for people to read; none where it is longer than one, or has signs that change how it reads."""
    email = claims.get("email")
    is_shown = isinstance(email, str) and len(email) <= MAX_EMAIL_BYTES and email.isprintable()
    return str(email) if is_shown else ""
