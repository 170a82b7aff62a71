"""A browser with an authenticator, made of a second WebAuthn library's parts."""

import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2.cose import ES256, CoseKey
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.k11 import K11_ORIGIN

UP_UV = 0x05
CHALLENGE = bytes(range(32))
_COSE: Any = ES256.from_cryptography_key  # the library's own types end here


class Key:
    """A browser with an authenticator, made of fido2's parts."""

    def __init__(self, *, rp: str = "localhost", origin: str = K11_ORIGIN) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.id = bytes(range(16))
        self.rp, self.origin = hashlib.sha256(rp.encode()).digest(), origin

    def client_data(self, kind: str, challenge: bytes, **more: object) -> bytes:
        members = {"type": kind, "challenge": b64u_encode(challenge), "origin": self.origin, "crossOrigin": False}
        return json.dumps(members | more).encode()

    def create(
        self, challenge: bytes, *, flags: int = UP_UV, key: CoseKey | None = None, kind: str = "webauthn.create"
    ) -> dict[str, str]:
        cose = key if key is not None else _COSE(self.private.public_key())
        credential = AttestedCredentialData.create(Aaguid(bytes(16)), self.id, cose)
        data = AuthenticatorData.create(self.rp, AuthenticatorData.FLAG(flags | 0x40), 1, credential)
        return {
            "attestation_object": b64u_encode(bytes(AttestationObject.create("none", data, {}))),
            "client_data_json": b64u_encode(self.client_data(kind, challenge)),
            "credential_id": b64u_encode(self.id),
        }

    def get(
        self, challenge: bytes, *, flags: int = UP_UV, kind: str = "webauthn.get", **more: object
    ) -> dict[str, str]:
        data = bytes(AuthenticatorData.create(self.rp, AuthenticatorData.FLAG(flags), 2))
        client_data = self.client_data(kind, challenge, **more)
        signature = self.private.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(hashes.SHA256()))
        return {
            "authenticator_data": b64u_encode(data),
            "client_data_json": b64u_encode(client_data),
            "credential_id": b64u_encode(self.id),
            "signature": b64u_encode(signature),
        }
