"""People whose identity is no wallet, an issuer that signs ID tokens for them, and passkeys; tests bend what they say."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agentkeys_core import ids
from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import canonical_json
from agentkeys_core.evidence import EmailEvidence, OidcEvidence, PasskeyEvidence
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import IdentityType
from agentkeys_core.pairing import oidc_nonce
from agentkeys_core.signed_change import SignedChange
from signer.adapters.issuer_keys import JwksFile
from signer.attesting import Attesting
from signer.evidence_check import EvidencePolicy, PasskeyPolicy, PinnedIssuer, verifier
from tests.fakes.registry_kit import DOMAIN, Opened, Person
from tests.unit.core.material import SoftwareK11

ISSUER = "https://login.example.com/tenant"
GOOGLE = "https://accounts.google.com"
CLIENT = "agentkeys-client"
RP_ID = "broker.example.org"
ORIGIN = "https://broker.example.org"
BLIND = bytes(range(32))


class Issuer:
    """Signs ID tokens, and publishes its keys in a file."""

    def __init__(self, path: Path, name: str = ISSUER) -> None:
        self.path = path
        self.name = name
        self.keys: dict[str, tuple[str, Any]] = {"k1": ("ES256", ec.generate_private_key(ec.SECP256R1()))}
        self.publish()

    def rotate(self, kid: str, algorithm: str = "ES256") -> None:
        made = {
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
        }
        self.keys[kid] = (algorithm, made[algorithm]())

    def publish(self) -> None:
        entries = []
        for kid, (algorithm, key) in self.keys.items():
            public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
            entries.append({**public, "kid": kid, "alg": algorithm, "use": "sig"})
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps({"keys": entries}))
        temporary.replace(self.path)

    def token(self, claims: dict[str, Any], *, kid: str = "k1", header: dict[str, Any] | None = None) -> str:
        algorithm, private = self.keys[kid]
        return jwt.encode(claims, private, algorithm=algorithm, headers={"kid": kid, **(header or {})})


@dataclass
class Member(Person):
    """A user known by an identity of another kind than a wallet."""

    kind: IdentityType = IdentityType.OIDC
    value: str = f"{ISSUER}|alice"
    epoch: int = 1
    address: bytes = b""
    passkey: SoftwareK11 = field(default_factory=lambda: SoftwareK11(b"passkey", origin=ORIGIN))

    @property
    def identity(self) -> bytes:
        return ids.identity_omni(self.kind, self.value)

    @property
    def operator(self) -> bytes:
        return ids.operator_omni(self.address)

    def settle_in(self, here: Opened) -> "Member":
        """Learn the initial wallet, as a device does through the broker."""
        self.address = here.keyring.address(self.identity, self.epoch)
        return self

    def second(self) -> "Member":
        return Member(kind=self.kind, value=self.value, epoch=self.epoch, address=self.address, now=self.now)

    def bind(self, **bent: Any) -> Enrol:
        members = {"identity_omni": self.identity, "wallet": self.address, "wallet_epoch": self.epoch}
        return self.enrol_change(**(members | bent))

    def claims(self, enrol: Enrol, **bent: Any) -> dict[str, Any]:
        nonce = oidc_nonce(
            device_address=enrol.device,
            k11_cred_id=enrol.k11.credential_id_hash,
            k11_x=enrol.k11.x,
            k11_y=enrol.k11.y,
            aud=CLIENT,
            blind=BLIND,
        )
        subject = self.value.rpartition("|")[2]
        members = {
            "iss": ISSUER,
            "aud": CLIENT,
            "sub": subject,
            "nonce": nonce,
            "iat": self.now,
            "exp": self.now + 3600,
        }
        return {name: value for name, value in (members | bent).items() if value is not None}

    def oidc(self, issuer: Issuer, enrol: Enrol, *, header: Any = None, kid: str = "k1", **bent: Any) -> bytes:
        token = issuer.token(self.claims(enrol, **bent), kid=kid, header=header)
        return OidcEvidence(id_token=token, blind=BLIND).encode()

    def by_passkey(self, enrol: Enrol, **bent: Any) -> bytes:
        answer = self.passkey.answer(enrol.digest(DOMAIN), **({"rp_id_hash": sha256(RP_ID.encode())} | bent))
        public = self.passkey.public
        return PasskeyEvidence(x=public.x, y=public.y, assertion=answer).encode()

    def by_email(self) -> bytes:
        return EmailEvidence(address=self.value).encode()

    def bound(self, enrol: Enrol, wallet_signature: bytes) -> SignedChange:
        return self.approved(enrol, wallet=wallet_signature)


def passkey_member(here: Opened, **changed: Any) -> Member:
    passkey = SoftwareK11(b"passkey", origin=ORIGIN)
    value = ids.passkey_value(passkey.public.x, passkey.public.y)
    return Member(kind=IdentityType.PASSKEY, value=value, passkey=passkey, **changed).settle_in(here)


def email_member(here: Opened, address: str = "alice@example.com") -> Member:
    return Member(kind=IdentityType.EMAIL, value=address).settle_in(here)


def change_json(enrol: Any) -> bytes:
    return canonical_json({"message": enrol.to_message(), "type": enrol.type})


def policy(issuer: Issuer, *, google: Issuer | None = None, email: bool = True, passkey: bool = True) -> EvidencePolicy:
    issuers = {
        ISSUER: PinnedIssuer(
            issuer=ISSUER, client_id=CLIENT, kind=IdentityType.OIDC, verify=JwksFile(issuer.path).verify
        )
    }
    if google is not None:
        verify = JwksFile(google.path).verify
        issuers[GOOGLE] = PinnedIssuer(issuer=GOOGLE, client_id=CLIENT, kind=IdentityType.OAUTH2_GOOGLE, verify=verify)
    pages = PasskeyPolicy(rp_id=RP_ID, origins=frozenset({ORIGIN})) if passkey else None
    return EvidencePolicy(issuers=issuers, passkey=pages, email=email)


def attesting(here: Opened, taken: EvidencePolicy) -> Attesting:
    return Attesting(
        keyring=here.keyring,
        registry=here.registry,
        clock=here.clock,
        verify=verifier(taken),
        domain=DOMAIN,
        allow_software_k11=False,
    )
