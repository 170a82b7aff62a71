"""Proof of an identity by a passkey of the broker's domain: made, found again, or asked to sign a device's Enrol.

The passkey's public key is the identity. For a first bind it signs the Enrol digest itself, which names the device's
keys, so that the signer needs to believe nothing of what this broker says. The page tells the person which device asks.
"""

import secrets
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from agentkeys_core.changes import Domain, Enrol, parse_change
from agentkeys_core.encoding import b64u_decode, b64u_encode, fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_key_hash
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.shapes import text
from broker.ceremonies.steps import Detail, Invitation, Steps, detail_of, fingerprint
from broker.passkeys import (
    RelyingParty,
    asserted,
    assertion_of,
    creation_options,
    evidence_of,
    identity_of,
    registered,
    request_options,
)
from broker.ports import CeremonyKind, CeremonyState, Counters, Passkey, Passkeys
from broker.proofs import Claim, Proofs
from broker.rates import MINUTE_S, Rates

#: Ceremonies that one client may begin in a minute.
PER_CLIENT: Final = 60
_CHALLENGE_BYTES: Final = 32
_USER_BYTES: Final = 32
_BODY: Final = Reason.INVALID_BODY
_BAD: Final = Reason.INVALID_EVIDENCE


class PasskeyAction(StrEnum):
    """What the person is asked: to make a passkey, to show one made before, or to sign an Enrol with it."""

    REGISTER = "register"
    SIGN_IN = "sign-in"
    BIND = "bind"


@dataclass(frozen=True, slots=True, kw_only=True)
class PasskeyAsked:
    """What a device asks for; `credential_id` and `enrol` where it is a bind."""

    action: PasskeyAction
    credential_id: bytes = b""
    enrol: Enrol | None = None

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read a body. Raises `invalid_body`, `unknown_fields`; for a bind `invalid_change`."""
        if not isinstance(obj, dict) or obj.get("action") != PasskeyAction.BIND.value:
            members = fields(obj, required=("action",), reason=_BODY)
            action = text(members["action"], "action", reason=_BODY)
            if action not in {PasskeyAction.REGISTER.value, PasskeyAction.SIGN_IN.value}:
                raise KeyServiceError(_BODY, "no such action")
            return cls(action=PasskeyAction(action))
        members = fields(obj, required=("action", "change", "credential_id"), reason=_BODY)
        change = fields(members["change"], required=("message", "type"), reason=Reason.INVALID_CHANGE)
        enrol = parse_change(change["type"], change["message"])
        if not isinstance(enrol, Enrol):
            raise KeyServiceError(Reason.INVALID_CHANGE, "not an Enrol")
        credential_id = b64u_decode(members["credential_id"], reason=_BODY)
        return cls(action=PasskeyAction.BIND, credential_id=credential_id, enrol=enrol)


@dataclass(frozen=True, slots=True, kw_only=True)
class PasskeyRequest:
    """What the page shows, and the options (JSON) that its script hands to the browser.

    `digest` is that of the Enrol, in hex, where one is to be signed.
    """

    device: str
    action: PasskeyAction
    options: str = field(default="", repr=False)
    digest: str = ""


class PasskeyDesk:
    """Takes a person through it. `domain` is that of the registry, under which an Enrol has its digest."""

    def __init__(
        self,
        *,
        party: RelyingParty,
        domain: Domain,
        proofs: Proofs,
        steps: Steps,
        counters: Counters,
        passkeys: Passkeys,
        clock: Callable[[], float],
    ) -> None:
        self._party = party
        self._domain = domain
        self._proofs = proofs
        self._steps = steps
        self._rates = Rates(counters, clock)
        self._passkeys = passkeys
        self._clock = clock

    def begin(self, claim: Claim, asked: PasskeyAsked) -> Invitation:
        """Begin for the device that signed `claim` over a challenge of ours (purpose sign-in).

        Raises:
            KeyServiceError: as `Proofs.check`; `rate_limited`; for a bind `invalid_body` where that passkey is not
                known here, `invalid_change` where the Enrol is another device's or identity's.
        """
        proof = self._proofs.check(claim, "sign-in")
        detail = self._detail(asked, proof.device)
        self._proofs.redeem(proof)
        name = b"passkey-client:" + claim.client.encode()
        self._rates.charge(name, limit=PER_CLIENT, window_s=MINUTE_S, what="too many sign-ins begun")
        kind, code = CeremonyKind.PASSKEY, ""
        if asked.action is PasskeyAction.BIND:
            begun, code = self._steps.invite(proof.device, kind, detail)
        else:  # it binds nothing yet
            begun = self._steps.begin(proof.device, kind, detail)
        page = f"{self._party.origin}/identity/passkey/{begun.secret}"
        return Invitation(ceremony=begun.ceremony, page=page, code=code)

    def shown(self, secret: str) -> PasskeyRequest:
        """What the page shows and asks; nothing is changed. Raises `ceremony_ended`."""
        found = self._steps.shown(secret, CeremonyKind.PASSKEY, CeremonyState.PENDING)
        detail = detail_of(found)
        action, challenge = PasskeyAction(detail["action"]), b64u_decode(detail["challenge"])
        if action is PasskeyAction.REGISTER:
            options = creation_options(self._party, challenge=challenge, user=b64u_decode(detail["user"]))
        else:
            named = b64u_decode(detail["credential_id"]) if action is PasskeyAction.BIND else None
            options = request_options(self._party, challenge=challenge, credential_id=named)
        digest = challenge.hex() if action is PasskeyAction.BIND else ""
        return PasskeyRequest(device=fingerprint(found.device), action=action, options=options, digest=digest)

    def answered(self, secret: str, answer: str, typed: str = "") -> PasskeyRequest:
        """Take the browser's answer, once: the device may have the passkey's public half, and for a bind its evidence.

        For a bind somebody `typed` the code that the device shows.

        Raises:
            KeyServiceError: `ceremony_ended`; as `Steps.recognised`; `invalid_evidence` for an answer that does not
                hold, of a passkey that is not known here, or whose counter did not grow: then the person may try again.
        """
        found = self._steps.shown(secret, CeremonyKind.PASSKEY, CeremonyState.PENDING)
        action = PasskeyAction(detail_of(found)["action"])
        with self._steps.recognised(found, typed) if action is PasskeyAction.BIND else nullcontext(found) as known:
            self._steps.move(known, CeremonyState.CONFIRMED, **self._proved(detail_of(found), answer))
        return PasskeyRequest(device=fingerprint(found.device), action=action)

    def _proved(self, detail: Detail, answer: str) -> Detail:
        """What the device may know of the passkey that answered."""
        action, challenge = PasskeyAction(detail["action"]), b64u_decode(detail["challenge"])
        more: Detail = {}
        if action is PasskeyAction.REGISTER:
            passkey = registered(self._party, answer, challenge=challenge, now=int(self._clock()))
            if not self._passkeys.add(passkey):
                raise KeyServiceError(_BAD, "that passkey is known already")
        else:
            assertion = assertion_of(answer)
            named = b64u_decode(detail["credential_id"]) if action is PasskeyAction.BIND else assertion.credential_id
            passkey = self._asserted(assertion, named, challenge)
            if action is PasskeyAction.BIND:
                more = {"evidence": evidence_of(passkey, assertion).decode()}
        public = {"credential_id": passkey.credential_id, "x": passkey.x, "y": passkey.y}
        return more | {f"passkey_{name}": b64u_encode(value) for name, value in public.items()}

    def _asserted(self, assertion: K11Assertion, credential_id: bytes, challenge: bytes) -> Passkey:
        passkey = self._passkeys.find(credential_id)
        if passkey is None:
            raise KeyServiceError(_BAD, "no passkey that this broker knows")
        count = asserted(self._party, assertion, passkey, challenge=challenge)
        if not self._passkeys.used(credential_id, sign_count=count, now=int(self._clock())):
            raise KeyServiceError(_BAD, "the counter did not grow: there may be a copy of this passkey")
        return passkey

    def _detail(self, asked: PasskeyAsked, device: bytes) -> Detail:
        detail: Detail = {"action": asked.action.value}
        if asked.enrol is None:
            detail["challenge"] = b64u_encode(secrets.token_bytes(_CHALLENGE_BYTES))
            detail["user"] = b64u_encode(secrets.token_bytes(_USER_BYTES))
            return detail
        if device_key_hash(asked.enrol.device) != device:
            raise KeyServiceError(Reason.INVALID_CHANGE, "the Enrol is another device's")
        passkey = self._passkeys.find(asked.credential_id)
        if passkey is None:
            raise KeyServiceError(_BODY, "no passkey that this broker knows")
        if asked.enrol.identity_omni != identity_of(passkey):
            raise KeyServiceError(Reason.INVALID_CHANGE, "the Enrol is of another identity")
        digest = asked.enrol.digest(self._domain)
        return {**detail, "challenge": b64u_encode(digest), "credential_id": b64u_encode(asked.credential_id)}
