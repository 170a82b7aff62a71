"""Proof of an identity by an OpenID provider: authorisation code with PKCE, for a nonce that binds the device's keys.

The person is shown the device before they go to the provider, and once more before the binding counts: a link that
somebody else sent them must not bind their identity to that somebody's device unseen.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from broker.ceremonies.steps import Invitation, Steps, detail_of, fingerprint
from broker.ports import Ceremony, CeremonyKind, CeremonyState, Counters, OpenIdProvider
from broker.proofs import Claim, Proofs
from broker.rates import MINUTE_S, Rates

#: Ceremonies that one client may begin in a minute.
PER_CLIENT: Final = 30
#: Codes that are redeemed for one ceremony, and how often its provider is asked: it may be out of reach for a moment.
CODES: Final = 3
ASKED: Final = 9
#: After so long a redemption that told nothing was cut short: its three exchanges end before.
REDEEM_S: Final = 45
_PAGE_TAG: Final = b"agentkeys.oidc-page.v1\x00"
#: Where providers send people back to; behind it, which of them does (RFC 9700, 4.4.2.2).
CALLBACK: Final = "/identity/oidc/callback/"
#: What may be over in a moment.
_PASSING: Final = frozenset({Reason.PROVIDER_UNREACHABLE, Reason.OVERLOADED})
_WAY_DIGITS: Final = 32
_VERIFIER_BYTES: Final = 48  # RFC 7636: 43 to 128 characters
_NONCE_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcRequest:
    """What people read: the device, the provider, and the identity once the provider told it.

    `onward` is where the provider signs in.
    """

    device: str
    issuer: str
    name: str = ""
    onward: str = field(default="", repr=False)


class StillAskingError(KeyServiceError):
    """The provider is being asked about this sign-in right now: the same address leads on in a moment."""

    def __init__(self) -> None:
        super().__init__(Reason.OVERLOADED, "the provider is being asked")


class OidcDesk:
    """Runs the flow for the configured providers, by their issuer."""

    def __init__(
        self,
        *,
        origin: str,
        proofs: Proofs,
        steps: Steps,
        counters: Counters,
        providers: Mapping[str, OpenIdProvider],
        clock: Callable[[], float],
    ) -> None:
        self._origin = origin
        self._proofs = proofs
        self._steps = steps
        self._rates = Rates(counters, clock)
        self._providers = providers
        self._clock = clock

    @property
    def clients(self) -> Mapping[str, str]:
        """Our client id at each provider that can be asked, by its issuer: a device's nonce names it."""
        return {issuer: provider.client_id for issuer, provider in self._providers.items()}

    def begin(self, claim: Claim, *, issuer: str, nonce: str) -> Invitation:
        """Begin for the device that signed `claim` over a challenge of ours; `nonce` is what the ID token shall carry.

        Raises:
            KeyServiceError: `invalid_body` for an unknown issuer or a nonce that is no base64url of 32 bytes; as
                `Proofs.check`; `rate_limited`.
        """
        proof = self._proofs.check(claim, "sign-in")
        if issuer not in self._providers:
            raise KeyServiceError(Reason.INVALID_BODY, "no provider that this broker knows")
        b64u_decode(nonce, length=_NONCE_BYTES, reason=Reason.INVALID_BODY)
        self._proofs.redeem(proof)
        name = b"oidc-client:" + claim.client.encode()
        self._rates.charge(name, limit=PER_CLIENT, window_s=MINUTE_S, what="too many sign-ins begun")
        detail = {"issuer": issuer, "nonce": nonce, "verifier": secrets.token_urlsafe(_VERIFIER_BYTES)}
        begun, code = self._steps.invite(proof.device, CeremonyKind.OIDC, detail)
        return Invitation(ceremony=begun.ceremony, page=f"{self._origin}/identity/oidc/{begun.secret}", code=code)

    def shown(self, secret: str) -> OidcRequest:
        """What the page before the provider shows; nothing is changed.

        Raises:
            KeyServiceError: `ceremony_ended`, `provider_unreachable`.
        """
        found = self._steps.shown(secret, CeremonyKind.OIDC, CeremonyState.PENDING)
        detail = detail_of(found)
        provider = self._provider(detail)
        onward = provider.authorization_url(state=secret, nonce=detail["nonce"], verifier=detail["verifier"])
        return OidcRequest(device=fingerprint(found.device), issuer=detail["issuer"], onward=onward)

    def returned(self, way: str, query: Mapping[str, str]) -> str:
        """Take the answer of the provider whose way back is `way`; nothing is bound yet. The secret of the next page.

        It is a new one, which needs the code: whoever began the ceremony knows the old one, and must not confirm for
        the person. The same code again leads to the same page until somebody agreed there, and is redeemed once.

        Raises:
            KeyServiceError: `StillAskingError`; `ceremony_ended`, also for the third code that was worth nothing;
                `policy_refused` where the person or the provider declined; `provider_unreachable`, `invalid_evidence`.
        """
        state, code = query.get("state", ""), query.get("code", "")
        onward = _onward(state, code)
        try:
            found = self._steps.shown(state, CeremonyKind.OIDC, CeremonyState.PENDING)
        except KeyServiceError:
            self._steps.shown_raw(onward, CeremonyKind.OIDC, CeremonyState.AUTHENTICATED)
            return b64u_encode(onward)
        detail = detail_of(found)
        issuer, provider = detail["issuer"], self._provider(detail)
        # RFC 9700, 4.4: a code must never reach another provider than the one that issued it.
        if way != way_back(issuer) or query.get("iss", issuer) != issuer:
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "another provider answered")
        if "error" in query or not code:
            raise KeyServiceError(Reason.POLICY_REFUSED, "the provider did not sign you in")
        with self._redeeming(found, code) as tried:
            if "iss" not in query and provider.names_itself():
                raise KeyServiceError(Reason.INVALID_EVIDENCE, "the provider always says who it is, and did not")
            token = provider.redeem(code, nonce=detail["nonce"], verifier=detail["verifier"])
            name = token.name or token.subject
            more = {"id_token": token.text, "name": name, "verifier": ""}
            return self._steps.move(tried, CeremonyState.AUTHENTICATED, onward, **more)

    def asked(self, secret: str) -> OidcRequest:
        """What the page after the provider shows: who it says this is. Raises `ceremony_ended`."""
        found = self._steps.shown(secret, CeremonyKind.OIDC, CeremonyState.AUTHENTICATED)
        return self._request(found)

    def confirm(self, secret: str, typed: str) -> OidcRequest:
        """The person agrees, who typed the code that the device shows: the device may have the ID token.

        Raises:
            KeyServiceError: `ceremony_ended`; as `Steps.recognised`.
        """
        found = self._steps.shown(secret, CeremonyKind.OIDC, CeremonyState.AUTHENTICATED)
        with self._steps.recognised(found, typed) as known:
            self._steps.move(known, CeremonyState.CONFIRMED)
        return self._request(found)

    @contextmanager
    def _redeeming(self, found: Ceremony, code: str) -> Iterator[Ceremony]:
        """For one redemption of this ceremony at a time; yields the ceremony as it is then, what is moved on.

        A page that is loaded again is no further code: one that was worth nothing is not redeemed again, and one whose
        provider was out of reach may be. The last one ends the ceremony.

        Raises:
            KeyServiceError: `StillAskingError`; `invalid_evidence` for a code that was worth nothing before.
        """
        detail, now, name = detail_of(found), int(self._clock()), sha256(code.encode()).hex()
        if now < int(detail.get("redeeming", "0")):
            raise StillAskingError
        codes, asked = detail.get("codes", "").split(), int(detail.get("asked", "0")) + 1
        if name in codes:
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "that code was worth nothing before")
        tried = self._steps.note(found, asked=str(asked), redeeming=str(now + REDEEM_S))
        if tried is None:  # the same page, loaded in the same moment
            raise StillAskingError
        try:
            yield tried
        except KeyServiceError as error:
            if error.reason not in _PASSING:
                codes.append(name)
            if len(codes) == CODES or asked == ASKED:
                self._steps.end(tried)
            else:
                self._steps.note(tried, codes=" ".join(codes), redeeming="0")
            raise

    def _request(self, found: Ceremony) -> OidcRequest:
        detail = detail_of(found)
        return OidcRequest(device=fingerprint(found.device), issuer=detail["issuer"], name=detail["name"])

    def _provider(self, detail: Mapping[str, str]) -> OpenIdProvider:
        """Raises `ceremony_ended` where the host no longer has it."""
        provider = self._providers.get(detail["issuer"])
        if provider is None:
            raise KeyServiceError(Reason.CEREMONY_ENDED, "its provider is no longer configured")
        return provider


def _onward(state: str, code: str) -> bytes:
    """The secret (32 bytes) of the page after the provider, for whoever has the first secret and a code of it."""
    return sha256(_PAGE_TAG + sha256(state.encode()) + sha256(code.encode()))


def way_back(issuer: str) -> str:
    """What stands behind `CALLBACK` in the address that only this issuer sends people back to: 32 hex digits."""
    return sha256(issuer.encode()).hex()[:_WAY_DIGITS]
