"""A passkey without a browser, made with another WebAuthn library than ours; every part of its answers can be bent."""

import hashlib
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2.cose import ES256
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData

from agentkeys_core.encoding import b64u_encode

UP, UV, AT = 0x01, 0x04, 0x40


class SoftPasskey:
    def __init__(self, *, rp_id: str, origin: str) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.credential_id = secrets.token_bytes(32)
        self.rp_id, self.origin = rp_id, origin
        self.count = 0

    @property
    def xy(self) -> tuple[bytes, bytes]:
        numbers = self.private.public_key().public_numbers()
        return numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")

    def created(self, over: bytes, *, rp_id: str = "", flags: int = UP | UV | AT, **changed: Any) -> str:
        client = self._client("webauthn.create", over, changed)
        key = ES256.from_cryptography_key(self.private.public_key())
        attested = AttestedCredentialData.create(Aaguid(bytes(16)), self.credential_id, key)
        data = AuthenticatorData.create(self._rp(rp_id), AuthenticatorData.FLAG(flags), self.count, attested)
        made = AttestationObject.create("none", data, {})
        response = {"attestationObject": b64u_encode(bytes(made)), "clientDataJSON": b64u_encode(client)}
        return self._answer(response)

    def asserted(
        self, over: bytes, *, rp_id: str = "", flags: int = UP | UV, signer: Any = None, **changed: Any
    ) -> str:
        client = self._client("webauthn.get", over, changed)
        data = self._rp(rp_id) + bytes([flags]) + self.count.to_bytes(4, "big")
        signed = data + hashlib.sha256(client).digest()
        signature = (signer or self.private).sign(signed, ec.ECDSA(hashes.SHA256()))
        response = {
            "authenticatorData": b64u_encode(data),
            "clientDataJSON": b64u_encode(client),
            "signature": b64u_encode(signature),
        }
        return self._answer(response)

    def _rp(self, rp_id: str) -> bytes:
        return hashlib.sha256((rp_id or self.rp_id).encode()).digest()

    def _client(self, kind: str, challenge: bytes, changed: dict[str, Any]) -> bytes:
        members = {"type": kind, "challenge": b64u_encode(challenge), "origin": self.origin, "crossOrigin": False}
        return json.dumps(members | changed).encode()

    def _answer(self, response: dict[str, str]) -> str:
        named = b64u_encode(self.credential_id)
        return json.dumps({"id": named, "rawId": named, "response": response, "type": "public-key"})
