"""Makes the folder that an outside tester is given: certificates good and bad, the broker's key, and the manifest."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.keys import ES256PublicKey
from tests.conformance import derived
from tests.unit.runtime.certificates import (
    ANY,
    BROKER,
    CLIENT,
    SERVER,
    TRUST_DOMAIN,
    Files,
    Issuer,
    key_bytes,
    key_usage,
    pem,
    uri,
)

SERVER_NAME: Final = f"signer.{TRUST_DOMAIN}"
BUCKET: Final = "conformance"
ROLE_ARN: Final = "arn:aws:iam::000000000000:role/credentials"
REFUSED_ROLE_ARN: Final = "arn:aws:iam::000000000000:role/unknown-to-the-endpoint"
#: Small enough to be emptied by a case, large enough for any other.
DEVICE_BURST: Final = 60
DEVICE_PER_S: Final = 20
STREAMS_PER_CALLER: Final = 16

OIDC_ISSUER: Final = "https://login.example.org"
OIDC_CLIENT: Final = "conformance-client"
SIWE_DOMAIN: Final = "app.example.org"
SIWE_LIFETIME_S: Final = 600
CHAIN_ID: Final = 8453
POLICY: Final = "permit"
MOST: Final = 1_000_000
AHEAD_S: Final = 3600
TOKEN, SPENDER = "0x" + "33" * 20, "0x" + "22" * 20
PERMIT_TYPE: Final = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
PERMIT: Final[Mapping[str, Any]] = {
    "types": {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Permit": [
            {"name": "owner", "type": "address"},
            {"name": "spender", "type": "address"},
            {"name": "value", "type": "uint256"},
            {"name": "nonce", "type": "uint256"},
            {"name": "deadline", "type": "uint256"},
        ],
    },
    "primaryType": "Permit",
    "domain": {"name": "Conformance Coin", "version": "1", "chainId": CHAIN_ID, "verifyingContract": TOKEN},
    "message": {"owner": "0x" + "11" * 20, "spender": SPENDER, "value": 1, "nonce": 0, "deadline": 0},
}

CLIENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "broker": {"names": BROKER},
    "credentials": {"names": (uri("worker/credentials/main"),)},
    "memory": {"names": (uri("worker/memory/main"),)},
    "audit": {"names": (uri("worker/audit/main"),)},
    "streams": {"names": (uri("worker/memory/streams"),)},
    "daemon": {"names": (uri("daemon/laptop"),)},
    "revoked": {"names": (uri("broker/revoked"),)},
    "no-eku": {"names": BROKER, "usages": ()},
    "any-eku": {"names": BROKER, "usages": (ANY, CLIENT)},
    "two-names": {"names": (*BROKER, uri("broker/other"))},
    "no-name": {"names": ()},
    "foreign-domain": {"names": (x509.UniformResourceIdentifier("spiffe://elsewhere.example/broker/main"),)},
    "upper-case-role": {"names": (uri("Broker/main"),)},
    "unknown-class": {"names": (uri("worker/everything/main"),)},
    "server-name": {"names": (*BROKER, x509.DNSName(SERVER_NAME))},
    "ca-as-leaf": {"names": BROKER, "ca": True, "usage": key_usage(digital_signature=True, key_cert_sign=True)},
}


@dataclass
class Deployment:
    """One folder. `facts` are the members of the manifest beside the fixed ones."""

    folder: Path
    issuer: Issuer = field(default_factory=Issuer)
    k1: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    k3: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    facts: dict[str, Any] = field(default_factory=dict)
    certificates: dict[str, x509.Certificate] = field(default_factory=dict)
    issuer_keys: list[dict[str, Any]] = field(default_factory=list)

    def make(self) -> None:
        """Write everything but the server's own certificate, which `server` makes."""
        self.folder.mkdir(exist_ok=True)
        for name, leaf in CLIENTS.items():
            self.certificates[name] = Files(self.folder / name).write(self.issuer, **leaf)
        Files(self.folder / "foreign").write(Issuer(), names=BROKER)
        (self.folder / "ca.pem").write_bytes(pem(self.issuer.root()))
        (self.folder / "k1.pem").write_bytes(key_bytes(self.k1))
        self._issuer_of_members()
        jwks = {"keys": [derived.es256_key(self.k3, "audit").jwk()]}
        (self.folder / "audit-jwks.json").write_text(json.dumps(jwks))
        members = {
            "ver": 1,
            "server_name": SERVER_NAME,
            "trust_domain": TRUST_DOMAIN,
            "k3": {"1": self.k3.hex()},
            "device_burst": DEVICE_BURST,
            "streams_per_caller": STREAMS_PER_CALLER,
            "may_seal": True,
            "sts": {"role_arn": ROLE_ARN, "refused_role_arn": REFUSED_ROLE_ARN},
            "oidc": {"issuer": OIDC_ISSUER, "client_id": OIDC_CLIENT, "kid": "k1", "key": "oidc-issuer.pem"},
            "siwe": {"domain": SIWE_DOMAIN, "chain_id": CHAIN_ID, "max_lifetime_s": SIWE_LIFETIME_S},
            "typed_data": {"policy": POLICY, "document": PERMIT, "amount": "value", "most": MOST, "ends": "deadline"},
            **self.facts,
        }
        (self.folder / "manifest.json").write_text(json.dumps(members, indent=1))

    def _issuer_of_members(self) -> None:
        """An issuer of ID tokens: its private key for the tester, its public ones for whoever pins it."""
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "oidc-issuer.pem").write_bytes(key_bytes(key))
        public = jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key(), as_dict=True)
        self.issuer_keys = [{**public, "kid": "k1", "alg": "ES256", "use": "sig"}]
        (self.folder / "oidc-issuer-jwks.json").write_text(json.dumps({"keys": self.issuer_keys}))

    def server(self, folder: Path) -> Files:
        """The server's certificate and key."""
        files = Files(folder)
        files.write(self.issuer, names=(x509.DNSName(SERVER_NAME), uri("signer/main")), usages=(SERVER,))
        return files

    @property
    def oidc_public(self) -> ES256PublicKey:
        """The public key under which tokens for the cloud are signed."""
        return derived.es256_key(self.k3, "oidc")

    @property
    def k1_public(self) -> ES256PublicKey:
        """The broker's public key."""
        return ES256PublicKey.of(self.k1.public_key())
