"""K1 as the broker uses it: the key that signs now, those whose signatures still count, what is derived from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentkeys_core.keys import ES256PublicKey

_CHALLENGE_INFO: Final = b"agentkeys.broker.challenge.v1"
_SCALAR_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class K1Keys:
    """`active` signs; `verifying` holds the public halves, by `kid`, of it and of the one that it replaced."""

    active: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str
    verifying: Mapping[str, ES256PublicKey]

    @classmethod
    def of(cls, active: ec.EllipticCurvePrivateKey, *previous: ec.EllipticCurvePrivateKey) -> Self:
        """The key that signs now, and those that signed before it."""
        public = [ES256PublicKey.of(key.public_key()) for key in (active, *previous)]
        return cls(active=active, kid=public[0].kid, verifying=MappingProxyType({key.kid: key for key in public}))

    def challenge_key(self) -> bytes:
        """32 bytes that only this broker knows, the same in each of its processes."""
        scalar = self.active.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big")
        return HKDF(SHA256(), 32, None, _CHALLENGE_INFO).derive(scalar)
