"""Sessions of devices: they serve pages and ceremonies, and never a capability request, which K10 itself signs.

A token is bound to its device: each use brings a fresh `AgentKeys-Proof` by K10 over this very HTTP request, so that a
stolen token opens nothing. The registry is asked each time: a revoked device has no session, whatever its token says.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.proof import SessionProof
from agentkeys_core.registry import DeviceRecord, OperatorState
from agentkeys_runtime.web.endpoints import Known
from agentkeys_runtime.web.knowing import registered_device
from agentkeys_runtime.web.registry_source import RegistrySource
from broker import session_tokens
from broker.challenges import Challenge
from broker.keys import K1Keys
from broker.ports import Counters, Session, Sessions, SignInMethod
from broker.proofs import Claim, Proofs
from broker.rates import MINUTE_S, Rates
from broker.wallet_sign_in import SignedMessage, check_wallet

#: However often it is refreshed, a session ends: then the device signs in anew.
SESSION_S: Final = 12 * 3600
#: Sessions that one device has open: one more, and its oldest ends.
PER_DEVICE: Final = 8
#: Requests of one device in a minute that these sessions are for, sign-ins and refreshes included.
REQUESTS_PER_DEVICE: Final = 120
_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A session and a token of it; `token_expires_at` in Unix seconds."""

    session: Session
    token: str = field(repr=False)
    token_expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who stands behind a request: its session, and device and user as the registry has them now."""

    session: Session
    device: DeviceRecord
    operator: OperatorState

    @property
    def reach(self) -> bytes | None:
        """The one device whose sessions this visitor may see and end; None for a master, who has all of the user's."""
        return None if self.device.is_master else self.device.device_key_hash


class SessionDesk:
    """Signs devices in, and says of later requests whose they are. Safe for many threads."""

    def __init__(
        self,
        *,
        keys: K1Keys,
        origin: str,
        registry: RegistrySource,
        sessions: Sessions,
        proofs: Proofs,
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._origin = origin
        self._registry = registry
        self._sessions = sessions
        self._proofs = proofs
        self._rates = Rates(counters, clock)
        self._clock = clock

    def known(self, claim: Claim, purpose: str) -> Known | None:
        """Whose request it is, for `Endpoint.known`: nothing is used up, and whether the session ended not looked at.

        Raises:
            KeyServiceError: as `Proofs.check`, `Challenges.check`, `session_tokens.verify`; registry reasons.
        """
        proof = SessionProof.parse(claim.proof)

        def verify() -> None:
            self._proofs.check(claim, purpose)
            if purpose == "sign-in":
                self._proofs.check_challenge(proof)
            else:
                _same_device(proof, self._claims(claim, expired=purpose == "refresh"))

        if registered_device(self._registry, proof.device, verify) is None:
            return None
        device = proof.device.hex()
        return Known(who=f"device:{device}", act=f"proof:{device}:{sha256(proof.nonce.encode()).hex()}")

    def challenge(self) -> Challenge:
        """A nonce for one sign-in."""
        return self._proofs.challenge()

    def sign_in(self, claim: Claim, wallet: SignedMessage | None = None) -> Grant:
        """A new session of the registered device that signed `claim` over a nonce of ours.

        With `wallet` it rests on the user's own wallet besides.

        Raises:
            KeyServiceError: `proof_invalid`, `device_signature_invalid`, `device_unknown`, `device_revoked`; as
                `check_wallet`; registry reasons; `rate_limited`, `overloaded`.
        """
        proof = self._proofs.check(claim, "sign-in")
        device, operator = self._device(proof.device)
        now = int(self._clock())
        if wallet is not None:
            check_wallet(wallet, origin=self._origin, proof=proof, operator=operator, now=now)
        self._proofs.redeem(proof)
        self._charge(device)
        session = Session(
            id=secrets.token_bytes(_ID_BYTES),
            device=device.device_key_hash,
            operator=operator.operator_omni,
            actor=device.actor_omni,
            method=SignInMethod.DEVICE if wallet is None else SignInMethod.WALLET,
            created_at=now,
            expires_at=now + SESSION_S,
        )
        self._sessions.add(session, keep=PER_DEVICE)
        return self._grant(session, now)

    def refresh(self, claim: Claim) -> Grant:
        """A fresh token of a session that has not ended, for an old one and the signature of its device.

        Raises:
            KeyServiceError: as `visitor`.
        """
        visitor = self._visitor(claim, "refresh", expired=True)
        return self._grant(visitor.session, int(self._clock()))

    def visitor(self, claim: Claim) -> Visitor:
        """Who sent this request.

        Raises:
            KeyServiceError: `session_invalid` for a token that is not ours, has expired, ended or is another device's;
                `proof_invalid`, also for a proof that was seen before; `device_signature_invalid`; `device_unknown`,
                `device_revoked`; registry reasons; `rate_limited`, `overloaded`.
        """
        return self._visitor(claim, "request", expired=False)

    def check(self, session: Session) -> None:
        """Return while this session lasts, and its device is registered.

        Raises:
            KeyServiceError: `session_invalid`, `device_unknown`, `device_revoked`; registry reasons; `overloaded`.
        """
        self._lasting(session.id)
        self._device(session.device)

    def of_user(self, visitor: Visitor) -> Sequence[Session]:
        """Sessions that have not ended: for a master all of its user's, for an agent's device its own."""
        operator = visitor.operator.operator_omni
        return self._sessions.of_operator(operator, device=visitor.reach, now=int(self._clock()))

    def end(self, visitor: Visitor, session_id: bytes) -> bool:
        """End one of the sessions of `of_user` at once; false where there is none such."""
        operator = visitor.operator.operator_omni
        return self._sessions.revoke(session_id, operator=operator, device=visitor.reach, now=int(self._clock()))

    def _visitor(self, claim: Claim, purpose: str, *, expired: bool) -> Visitor:
        claims = self._claims(claim, expired=expired)
        proof = self._proofs.check(claim, purpose)
        _same_device(proof, claims)
        session = self._lasting(claims.session)
        device, operator = self._device(proof.device)
        # A token names both already; this holds although K1 signed something else, or a device changed its user.
        if (session.device, session.operator) != (device.device_key_hash, operator.operator_omni):
            raise KeyServiceError(Reason.SESSION_INVALID, "the session is another device's")
        self._proofs.use_up(proof)
        self._charge(device)  # once the proof is used up: whoever sends a copy of it takes nothing from the device
        return Visitor(session=session, device=device, operator=operator)

    def _claims(self, claim: Claim, *, expired: bool) -> session_tokens.SessionClaims:
        now = int(self._clock())
        return session_tokens.verify(claim.token, self._keys, origin=self._origin, now=now, expired=expired)

    def _charge(self, device: DeviceRecord) -> None:
        what = f"a device has {REQUESTS_PER_DEVICE} such requests a minute"
        self._rates.charge(b"visits:" + device.device_key_hash, limit=REQUESTS_PER_DEVICE, window_s=MINUTE_S, what=what)

    def _lasting(self, session_id: bytes) -> Session:
        session = self._sessions.find(session_id)
        if session is None or session.revoked_at is not None or int(self._clock()) >= session.expires_at:
            raise KeyServiceError(Reason.SESSION_INVALID, "the session has ended")
        return session

    def _device(self, device_key_hash: bytes) -> tuple[DeviceRecord, OperatorState]:
        operator = self._registry.lookup_device(device_key_hash)
        device = None if operator is None else operator.devices.get(device_key_hash)
        if operator is None or device is None:
            raise KeyServiceError(Reason.DEVICE_UNKNOWN)
        if device.revoked:
            raise KeyServiceError(Reason.DEVICE_REVOKED)
        return device, operator

    def _grant(self, session: Session, now: int) -> Grant:
        token, expires_at = session_tokens.mint(self._keys, session, origin=self._origin, now=now)
        return Grant(session=session, token=token, token_expires_at=expires_at)


def _same_device(proof: SessionProof, claims: session_tokens.SessionClaims) -> None:
    if proof.device != claims.device:
        raise KeyServiceError(Reason.SESSION_INVALID, "the token is another device's")
