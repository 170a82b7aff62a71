"""K11 assertions as data: what a WebAuthn authenticator is asked and answers. `webauthn_check` verifies them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256, sha256
from agentkeys_core.shapes import text

#: K11's relying party is the device's own page on this machine, never a page of the broker (design §6).
RP_ID: Final = "localhost"
RP_ID_HASH: Final = sha256(RP_ID.encode())
#: The one documented port of that page.
K11_PORT: Final = 8722
K11_ORIGIN: Final = f"http://{RP_ID}:{K11_PORT}"
#: The origin that a software authenticator records; registries refuse it unless the host allows such keys.
SOFTWARE_ORIGIN: Final = f"software://{RP_ID}"

_CAP_TAG: Final = b"agentkeys.k11.cap.v1"
#: WebAuthn bounds credential ids; the other two are far above what authenticators send (37 and about 150 bytes).
_LIMITS: Final[Mapping[str, int]] = {
    "authenticator_data": 4096,
    "client_data_json": 4096,
    "credential_id": 1023,
    "signature": 256,
}


def origin_hash(origin: str) -> bytes:
    """The 32 bytes under which a registry records the origin of a K11 key."""
    return keccak256(origin.encode())


def credential_id_hash(credential_id: bytes) -> bytes:
    """The 32 bytes that name a credential in the registry (`k11CredId`)."""
    return keccak256(credential_id)


def cap_challenge(cap_digest: bytes) -> bytes:
    """The 32-byte challenge that approves the cap with this digest; for changes it is the EIP-712 digest itself."""
    return sha256(_CAP_TAG + cap_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class K11Assertion:
    """One answer of an authenticator, as bytes: nothing in it has been verified."""

    authenticator_data: bytes
    client_data_json: bytes
    credential_id: bytes
    signature: bytes

    @classmethod
    def parse(
        cls,
        obj: object,
        *,
        malformed: Reason = Reason.INVALID_CAP,
        encoding: Reason = Reason.INVALID_ENCODING,
    ) -> Self:
        """Read the JSON object of wire.md.

        Raises:
            KeyServiceError: `unknown_fields`; `malformed` for another shape; `encoding` for loose base64url or a member
                out of bounds.
        """
        members = fields(obj, required=_LIMITS.keys(), reason=malformed)
        decoded = {}
        for name, limit in _LIMITS.items():
            value = b64u_decode(text(members[name], name, reason=malformed), reason=encoding)
            if len(value) > limit:
                raise KeyServiceError(encoding, f"{name} has more than {limit} bytes")
            decoded[name] = value
        return cls(**decoded)

    def encode(self) -> dict[str, str]:
        """The JSON object of wire.md."""
        return {name: b64u_encode(getattr(self, name)) for name in _LIMITS}

    def canonical(self) -> bytes:
        """The canonical JSON whose SHA-256 the broker's co-signature covers."""
        return canonical_json(self.encode())
