"""`AttestEnrol`: the initial wallet of an identity that is no wallet signs a first bind, against evidence."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core import ids
from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.ids import IdentityType
from agentkeys_core.keys import eip191_digest, recover_address
from agentkeys_core.pairing import oidc_nonce
from tests.conformance import derived
from tests.conformance.cases import Case, Steps, add, case, equal
from tests.conformance.groups.objects import fetch, store
from tests.conformance.groups.registry import state
from tests.conformance.groups.signing import opened
from tests.conformance.groups.siwe import sign_in, signed_siwe, siwe_cap
from tests.conformance.people import Master, master, stranger
from tests.conformance.refusals import refusal_of
from tests.conformance.site import BROKER, Site

ATTEST = "AttestEnrol"
BLIND: Final = bytes(range(32))


class Member(Master):
    """A user whom an issuer knows by a subject, with a wallet that the target derives."""

    def __init__(self, site: Site, subject: str | None = None) -> None:
        super().__init__(site)
        facts = site.manifest.oidc
        assert facts is not None
        self.subject = subject or secrets.token_hex(8)
        self.identity = ids.identity_omni(IdentityType.OIDC, f"{facts.issuer}|{self.subject}")
        request = signer_pb2.DeriveAddressRequest(omni=self.identity, epoch=site.epoch)
        self.address: bytes = site.signer(BROKER).DeriveAddress(request).address
        self.operator = self.actor = ids.operator_omni(self.address)

    def bind(self, **bent: Any) -> Enrol:
        """The first bind that the initial wallet is to sign."""
        members = {"identity_omni": self.identity, "wallet": self.address, "wallet_epoch": self.site.epoch, **bent}
        change = self.enrolment(**members).change
        assert isinstance(change, Enrol)
        return change

    def claims(self, change: Enrol, **bent: Any) -> dict[str, Any]:
        """What an honest issuer says of this user, for the keys of this change."""
        facts, now = self.site.manifest.oidc, self.site.now
        assert facts is not None
        nonce = oidc_nonce(
            device_address=change.device,
            k11_cred_id=change.k11.credential_id_hash,
            k11_x=change.k11.x,
            k11_y=change.k11.y,
            aud=facts.client_id,
            blind=BLIND,
        )
        said = {
            "iss": facts.issuer,
            "aud": facts.client_id,
            "sub": self.subject,
            "nonce": nonce,
            "iat": now,
            "exp": now + 600,
            **bent,
        }
        return {name: value for name, value in said.items() if value is not None}

    def evidence(self, change: Enrol, **bent: Any) -> bytes:
        """An ID token of the pinned issuer."""
        facts = self.site.manifest.oidc
        assert facts is not None
        key = bent.pop("key", ...)
        if key is ...:
            key = (self.site.manifest.folder / facts.key).read_bytes()
        algorithm, kid = bent.pop("algorithm", "ES256"), bent.pop("kid", facts.kid)
        token = jwt.encode(self.claims(change, **bent), key, algorithm=algorithm, headers={"kid": kid})
        return canonical_json({"blind": b64u_encode(BLIND), "id_token": token, "type": "oidc"})


def change_json(change: Enrol) -> bytes:
    """The `change` of a signed change, as the call takes it."""
    return canonical_json({"message": change.to_message(), "type": change.type})


def attested(site: Site, change: bytes, evidence: bytes) -> Callable[[], Any]:
    """The call; returns the wallet's signature."""
    request = signer_pb2.AttestEnrolRequest(change=change, evidence=evidence)
    return lambda: site.signer(BROKER).AttestEnrol(request).signature


@case(ATTEST, "the initial wallet signs, and the user can begin", needs="oidc")
def first_bind(site: Site) -> None:
    user = Member(site)
    change = user.bind()
    signature = attested(site, change_json(change), user.evidence(change))()
    equal(recover_address(change.digest(site.domain), signature), user.address, "signer")
    equal(signature[64] in {27, 28}, True, "v")
    user.apply(user.signed(change, wallet=signature))
    user.nonce = 1
    found = state(site, user)
    equal((found.wallet, found.wallet_epoch), (user.address, site.epoch), "wallet and its epoch")
    equal([(device.evidence, device.assurance) for device in found.devices], [("oidc", "high")], "evidence")
    kept = store(site, user)
    equal(fetch(site, user, kept)().key, kept.released.key, "key")


@case(ATTEST, "the initial wallet is the user's managed wallet, and signs in", needs="siwe_and_oidc")
def managed_wallet(site: Site) -> None:
    user = Member(site)
    change = user.bind()
    user.apply(user.signed(change, wallet=attested(site, change_json(change), user.evidence(change))()))
    request = signer_pb2.DeriveAddressRequest(omni=user.operator, wallet=True)
    found = site.signer(BROKER).DeriveAddress(request)
    equal((found.address, found.epoch), (user.address, site.epoch), "address and epoch")
    message = sign_in(site, user.address)
    cap = siwe_cap(site, user, message)
    answer = opened(cap, signed_siwe(site, cap, message)().sealed)
    equal(recover_address(eip191_digest(message.encode()), b64u_decode(answer["signature"])), user.address, "signer")


@case(ATTEST, "the wallet is K4 of the identity", needs="oidc_and_k3")
def wallet_of_identity(site: Site) -> None:
    user = Member(site)
    equal(user.address, derived.wallet(site.manifest.k3[site.epoch], user.identity).address, "address")


@case(ATTEST, "the same evidence for the same bind is answered again", needs="oidc")
def again(site: Site) -> None:
    user = Member(site)
    change = user.bind()
    evidence = user.evidence(change)
    first, second = (attested(site, change_json(change), evidence)() for _ in range(2))
    equal(first, second, "signature")


@case(ATTEST, "the same evidence for another bind", gives=Reason.INVALID_EVIDENCE, needs="oidc")
def used_twice(site: Site) -> Callable[[], Any]:
    user = Member(site)
    change = user.bind()
    evidence = user.evidence(change)
    attested(site, change_json(change), evidence)()
    other = user.bind(deadline=site.now + 900)
    return attested(site, change_json(other), evidence)


@case(ATTEST, "a first bind that nobody attested", gives=Reason.INVALID_EVIDENCE, needs="oidc")
def unattested(site: Site) -> Callable[[], Any]:
    user = Member(site)
    change = user.bind()
    other = Member(site)
    forged = other.bind()
    signature = attested(site, change_json(forged), other.evidence(forged))()
    found = refusal_of(lambda: user.apply(user.signed(change, wallet=signature)))
    equal(found and found.reason, Reason.CHANGE_NOT_AUTHORISED.value, "another bind's signature")
    wallet = stranger(site)  # which says that it is somebody else's identity
    signed = wallet.enrolment(identity_omni=user.identity, wallet_epoch=site.epoch)
    return lambda: wallet.apply(signed)


@case(ATTEST, "an identity that is bound", gives=Reason.ALREADY_BOUND, needs="oidc")
def bound(site: Site) -> Callable[[], Any]:
    user = Member(site)
    change = user.bind()
    user.apply(user.signed(change, wallet=attested(site, change_json(change), user.evidence(change))()))
    again = Member(site, user.subject)
    change = again.bind()
    return attested(site, change_json(change), again.evidence(change))


def _wrong(**bent: Any) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        user = Member(site)
        change = user.bind()
        moved = {name: value(site.now) if callable(value) else value for name, value in bent.items()}
        return attested(site, change_json(change), user.evidence(change, **moved))

    return steps


WRONG_TOKENS: Final[Mapping[str, Steps]] = {
    "a token of another issuer": _wrong(iss="https://elsewhere.example.org"),
    "a token for another client": _wrong(aud="another-client"),
    "a token for other clients as well": _wrong(aud=["conformance-client", "another-client"]),
    "a token of another subject": _wrong(sub="somebody-else"),
    "a token that binds other keys": _wrong(nonce="A" * 43),
    "a token without a nonce": _wrong(nonce=None),
    "a token of eleven minutes ago": _wrong(iat=lambda now: now - 700, exp=lambda now: now + 600),
    "a token of the future": _wrong(iat=lambda now: now + 300, exp=lambda now: now + 900),
    "a token that has expired": _wrong(iat=lambda now: now - 300, exp=lambda now: now - 120),
    "a token that is not yet valid": _wrong(nbf=lambda now: now + 300),
    "a token without a time": _wrong(iat=None),
    "a token of a key that is not published": _wrong(kid="another-key"),
    "a token that a client secret signs": _wrong(key=b"0" * 64, algorithm="HS256"),
    "a token that nobody signs": _wrong(key=None, algorithm="none"),
}
for _title, _steps in WRONG_TOKENS.items():
    add(Case(group=ATTEST, title=_title, steps=_steps, gives=Reason.INVALID_EVIDENCE, needs="oidc"))


def _evidence(reason: Reason, data: bytes) -> tuple[Reason, Steps]:
    def steps(site: Site) -> Callable[[], Any]:
        return attested(site, change_json(Member(site).bind()), data)

    return reason, steps


MALFORMED: Final[Mapping[str, tuple[Reason, Steps]]] = {
    "no evidence": _evidence(Reason.INVALID_EVIDENCE, b""),
    "evidence that is no JSON": _evidence(Reason.INVALID_EVIDENCE, b"{"),
    "evidence of an unknown type": _evidence(Reason.INVALID_EVIDENCE, b'{"type":"oath"}'),
    "evidence without its blind": _evidence(Reason.INVALID_EVIDENCE, b'{"id_token":"a.b.c","type":"oidc"}'),
    "evidence with another name": _evidence(
        Reason.UNKNOWN_FIELDS,
        canonical_json({"also": 1, "blind": b64u_encode(BLIND), "id_token": "a.b.c", "type": "oidc"}),
    ),
    "a token that is none": _evidence(
        Reason.INVALID_EVIDENCE, canonical_json({"blind": b64u_encode(BLIND), "id_token": "a.b", "type": "oidc"})
    ),
    "evidence over 32 KiB": _evidence(Reason.TOO_LARGE, b" " * (32 * 1024 + 1)),
}
for _title, (_reason, _steps) in MALFORMED.items():
    add(Case(group=ATTEST, title=_title, steps=_steps, gives=_reason, needs="oidc"))


def _bent(reason: Reason, **bent: Any) -> tuple[Reason, Steps]:
    def steps(site: Site) -> Callable[[], Any]:
        user = Member(site)
        moved = {name: value(site) if callable(value) else value for name, value in bent.items()}
        change = user.bind(**moved)
        return attested(site, change_json(change), user.evidence(change))

    return reason, steps


BENT: Final[Mapping[str, tuple[Reason, Steps]]] = {
    "another wallet than the identity's": _bent(
        Reason.INVALID_CHANGE,
        wallet=bytes(range(20)),
        operator_omni=ids.operator_omni(bytes(range(20))),
    ),
    "an incarnation of another time": _bent(
        Reason.CHANGE_NOT_AUTHORISED, incarnation=lambda site: site.status.incarnation + 1
    ),
    "a deadline that has passed": _bent(Reason.CHANGE_NOT_AUTHORISED, deadline=lambda site: site.now - 5),
    "fewer roles than a first master has": _bent(Reason.CHANGE_NOT_AUTHORISED, roles=1),
    "the wallet of an epoch that has not begun": _bent(Reason.FUTURE_EPOCH, wallet_epoch=lambda site: site.epoch + 1),
}
for _title, (_reason, _steps) in BENT.items():
    add(Case(group=ATTEST, title=_title, steps=_steps, gives=_reason, needs="oidc"))


@case(ATTEST, "a user with a wallet of their own", gives=Reason.INVALID_EVIDENCE)
def own_wallet(site: Site) -> Callable[[], Any]:
    change = stranger(site).enrolment().change
    assert isinstance(change, Enrol)
    return attested(site, change_json(change), b'{"address":"a@example.org","type":"email"}')


@case(ATTEST, "a change that is no first bind", gives=Reason.INVALID_CHANGE)
def no_enrol(site: Site) -> Callable[[], Any]:
    change = master(site).unfreezing()
    data = canonical_json({"message": change.to_message(), "type": change.type})
    return attested(site, data, b'{"address":"a@example.org","type":"email"}')


@case(ATTEST, "a change that is no JSON", gives=Reason.INVALID_CHANGE)
def no_json(site: Site) -> Callable[[], Any]:
    return attested(site, b"{", b"{}")


@case(ATTEST, "what was attested is not yet bound", needs="oidc")
def not_yet(site: Site) -> None:
    user = Member(site)
    change = user.bind()
    attested(site, change_json(change), user.evidence(change))()
    request = registry_pb2.GetOperatorRequest(operator_omni=user.operator)
    equal(site.registry().GetOperator(request).found, False, "found")
