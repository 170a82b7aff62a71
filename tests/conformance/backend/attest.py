"""`AttestEnrol` of the backend: ID tokens of pinned issuers."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.changes import Enrol, parse_change
from agentkeys_core.encoding import b64u_decode, fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import IdentityType, identity_omni
from agentkeys_core.pairing import oidc_nonce
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.refused import refuse

MAX_CHANGE: Final = 64 * 1024
MAX_EVIDENCE: Final = 32 * 1024
MAX_AGE_S: Final = 600
SKEW_S: Final = 60
_BAD: Final = Reason.INVALID_EVIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A pinned issuer: our client id there, and its public keys by kid."""

    client_id: str
    keys: Mapping[str, Any]


class Attester:
    """Signs first binds for identities that evidence proves."""

    def __init__(self, keys: Keys, operators: Operators, issuers: Mapping[str, Issuer], broken: Broken) -> None:
        self._keys = keys
        self._operators = operators
        self._issuers = issuers
        self._broken = broken

    def attest(self, asked: pb.AttestEnrolRequest, _peer: Peer) -> pb.AttestEnrolResponse:
        """The initial wallet's signature."""
        change = _enrol(asked.change)
        self._operators.rules.check_enrol(change)
        digest = change.digest(self._operators.domain)
        identity, marks = self._identity(asked.evidence, change)
        if identity != change.identity_omni:
            refuse(_BAD)
        current = self._keys.current
        if change.wallet_epoch != current:
            reason = Reason.STALE_EPOCH if change.wallet_epoch < current else Reason.FUTURE_EPOCH
            refuse(reason, current_epoch=current, server_time=int(time.time()))
        if self._keys.address(current, identity) != change.wallet:
            refuse(Reason.INVALID_CHANGE)
        self._operators.rules.check_free(change)
        used = self._operators.tables.evidence_used
        for mark in marks:
            if used.setdefault(mark, digest) != digest and "evidence-reused" not in self._broken:
                refuse(_BAD)
        self._operators.tables.attested[digest] = ("oidc", "high")
        return pb.AttestEnrolResponse(signature=self._keys.wallet_sign(current, identity, digest))

    def _identity(self, data: bytes, change: Enrol) -> tuple[bytes, list[bytes]]:
        """The identity omni that the evidence proves, and what must not serve another bind."""
        document = strict_json(data, limit=MAX_EVIDENCE, reason=_BAD)
        if not isinstance(document, dict) or document.get("type") != "oidc":
            refuse(_BAD)
        members = fields(document, required=("blind", "id_token", "type"), reason=_BAD)
        blind = b64u_decode(members["blind"], length=32, reason=_BAD)
        issuer, claims = self._claims(members["id_token"])
        facts = self._issuers[issuer]
        nonce = oidc_nonce(
            device_address=change.device,
            k11_cred_id=change.k11.credential_id_hash,
            k11_x=change.k11.x,
            k11_y=change.k11.y,
            aud=facts.client_id,
            blind=blind,
        )
        if claims.get("nonce") != nonce and "nonce-ignored" not in self._broken:
            refuse(_BAD)
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            refuse(_BAD)
        marks = [f"{issuer}|{name}|{claims[name]}".encode() for name in ("nonce", "jti") if name in claims]
        return identity_omni(IdentityType.OIDC, f"{issuer}|{subject}"), marks

    def _claims(self, token: object) -> tuple[str, Mapping[str, Any]]:
        if not isinstance(token, str):
            refuse(_BAD)
        try:
            told = json.loads(b64u_decode(token.split(".")[1]))
            facts = self._issuers[told["iss"]]
            key = facts.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token,
                key,
                algorithms=["ES256"],
                audience=facts.client_id,
                issuer=told["iss"],
                leeway=SKEW_S,
                options={"require": ["iss", "aud", "sub", "iat", "exp", "nonce"]},
            )
        except (jwt.PyJWTError, KeyServiceError, ValueError, KeyError, IndexError, TypeError):
            refuse(_BAD)
        now = time.time()
        alone = claims["aud"] in (facts.client_id, [facts.client_id])
        if not alone or not now - MAX_AGE_S <= claims["iat"] <= now + SKEW_S:
            refuse(_BAD)
        return told["iss"], claims


def _enrol(data: bytes) -> Enrol:
    bad = Reason.INVALID_CHANGE
    members = fields(strict_json(data, limit=MAX_CHANGE, reason=bad), required=("message", "type"), reason=bad)
    change = parse_change(members["type"], members["message"])
    if not isinstance(change, Enrol):
        refuse(bad)
    if change.is_evm:
        refuse(_BAD)
    return change
