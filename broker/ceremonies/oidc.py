"""Proof of an identity by an OpenID provider: authorisation code with PKCE, for a nonce that binds the device's keys.

The person is shown the device before they go to the provider, and once more before the binding counts: a link that
somebody else sent them must not bind their identity to that somebody's device unseen.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import KeyServiceError, Reason
from broker.ceremonies.steps import Steps, detail_of, fingerprint
from broker.ports import Ceremony, CeremonyKind, CeremonyState, Counters, OpenIdProvider
from broker.proofs import Claim, Proofs
from broker.rates import MINUTE_S, Rates

#: Ceremonies that one client may begin in a minute.
PER_CLIENT: Final = 30
_VERIFIER_BYTES: Final = 48  # RFC 7636: 43 to 128 characters
_NONCE_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcBegun:
    """A new ceremony and the page where a person goes on with it."""

    ceremony: Ceremony
    page: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcRequest:
    """What people read: the device, the provider, and the identity once the provider told it.

    `onward` is where the provider signs in, `secret` what the confirmation sends back.
    """

    device: str
    issuer: str
    name: str = ""
    onward: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)


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

    @property
    def clients(self) -> Mapping[str, str]:
        """Our client id at each provider that can be asked, by its issuer: a device's nonce names it."""
        return {issuer: provider.client_id for issuer, provider in self._providers.items()}

    def begin(self, claim: Claim, *, issuer: str, nonce: str) -> OidcBegun:
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
        begun = self._steps.begin(proof.device, CeremonyKind.OIDC, detail)
        return OidcBegun(ceremony=begun.ceremony, page=f"{self._origin}/identity/oidc/{begun.secret}")

    def shown(self, secret: str) -> OidcRequest:
        """What the page before the provider shows; nothing is changed.

        Raises:
            KeyServiceError: `ceremony_ended`, `provider_unreachable`.
        """
        found = self._steps.shown(secret, CeremonyKind.OIDC, CeremonyState.PENDING)
        detail = detail_of(found)
        onward = self._providers[detail["issuer"]].authorization_url(
            state=secret, nonce=detail["nonce"], verifier=detail["verifier"]
        )
        return OidcRequest(device=fingerprint(found.device), issuer=detail["issuer"], onward=onward)

    def returned(self, query: Mapping[str, str]) -> OidcRequest:
        """What the page after the provider shows: who it says this is. Nothing is bound yet.

        The secret changes here: whoever began the ceremony knows the old one, and must not confirm for the person.

        Raises:
            KeyServiceError: `ceremony_ended`, also for a code that comes again; `policy_refused` where the person or
                the provider declined; `provider_unreachable`, `invalid_evidence`.
        """
        found = self._steps.shown(query.get("state", ""), CeremonyKind.OIDC, CeremonyState.PENDING)
        detail = detail_of(found)
        if query.get("iss", detail["issuer"]) != detail["issuer"]:  # RFC 9207: another provider answers
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "another provider answered")
        code = query.get("code", "")
        if "error" in query or not code:
            raise KeyServiceError(Reason.POLICY_REFUSED, "the provider did not sign you in")
        provider = self._providers[detail["issuer"]]
        token = provider.redeem(code, nonce=detail["nonce"], verifier=detail["verifier"])
        name = token.name or token.subject
        secret = self._steps.move(found, CeremonyState.AUTHENTICATED, id_token=token.text, name=name, verifier="")
        return OidcRequest(device=fingerprint(found.device), issuer=detail["issuer"], name=name, secret=secret)

    def confirm(self, secret: str) -> OidcRequest:
        """The person agrees: the device may have the ID token. Raises `ceremony_ended`."""
        found = self._steps.shown(secret, CeremonyKind.OIDC, CeremonyState.AUTHENTICATED)
        self._steps.move(found, CeremonyState.CONFIRMED)
        detail = detail_of(found)
        return OidcRequest(device=fingerprint(found.device), issuer=detail["issuer"], name=detail["name"])
