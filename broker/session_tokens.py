"""Session tokens: ES256 JWTs by K1, short, worthless without the device key that they name (RFC 7800 `cnf`).

K1 also co-signs caps. Neither can pass for the other: what it signs there begins with `agentkeys.cosign.v2`, a JWT's
signing input with the base64url of a JSON object.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from agentkeys_core.errors import KeyServiceError, Reason
from broker.keys import K1Keys
from broker.ports import Session

TOKEN_TTL_S: Final = 600
MAX_TOKEN: Final = 2048  # characters
_TYPE: Final = "at+jwt"
_CLAIMS: Final = ("aud", "cnf", "exp", "iat", "iss", "sid", "sub")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClaims:
    """What a verified token says: the session (16 bytes) and the device (32 bytes) that it is worth something to."""

    session: bytes
    device: bytes


def mint(keys: K1Keys, session: Session, *, origin: str, now: int) -> tuple[str, int]:
    """A token of this session, and when it ends: 600 s from `now`, or with the session (Unix seconds)."""
    expires_at = min(now + TOKEN_TTL_S, session.expires_at)
    claims = {
        "iss": origin,
        "aud": origin,
        "sub": session.operator.hex(),
        "sid": session.id.hex(),
        "cnf": {"kid": session.device.hex()},
        "iat": now,
        "exp": expires_at,
    }
    return jwt.encode(claims, keys.active, algorithm="ES256", headers={"kid": keys.kid, "typ": _TYPE}), expires_at


def verify(token: str, keys: K1Keys, *, origin: str, now: int, expired: bool = False) -> SessionClaims:
    """What the token says, once its signature, issuer, audience and time are good; `expired` lets an old one pass.

    Raises:
        KeyServiceError: `session_invalid`.
    """
    if len(token) > MAX_TOKEN:
        raise _invalid("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
        public = keys.verifying[header["kid"]] if header.get("typ") == _TYPE else None
        if public is None:
            raise _invalid("not a session token")
        claims = jwt.decode(
            token,
            jwt.PyJWK(public.jwk(), algorithm="ES256"),
            algorithms=["ES256"],
            audience=origin,
            issuer=origin,
            options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False},
        )
        return _claims(claims, now=now, expired=expired)
    except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
        raise _invalid(type(error).__name__) from error


def _claims(claims: Mapping[str, Any], *, now: int, expired: bool) -> SessionClaims:
    """By this program's own clock, which the tests can move."""
    if not expired and now >= int(claims["exp"]):
        raise _invalid("the token has expired")
    session, device = bytes.fromhex(claims["sid"]), bytes.fromhex(claims["cnf"]["kid"])
    return SessionClaims(session=session, device=device)


def _invalid(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.SESSION_INVALID, detail)
