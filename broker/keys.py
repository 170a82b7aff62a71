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
    """`active` signs; `verifying` holds the public halves, by `kid`, of it, of the one before and of the prepared next.

    `challenge_keys` has 32 bytes for each of them, which only this deployment's brokers know, that of `active` first.
    """

    active: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str
    verifying: Mapping[str, ES256PublicKey]
    challenge_keys: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def of(cls, active: ec.EllipticCurvePrivateKey, *others: ec.EllipticCurvePrivateKey) -> Self:
        """The key that signs now, and those with which another broker of this deployment may sign."""
        every = (active, *others)
        public = [ES256PublicKey.of(key.public_key()) for key in every]
        return cls(
            active=active,
            kid=public[0].kid,
            verifying=MappingProxyType({key.kid: key for key in public}),
            challenge_keys=tuple(_challenge_key(key) for key in every),
        )


def _challenge_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    scalar = key.private_numbers().private_value.to_bytes(_SCALAR_BYTES, "big")
    return HKDF(SHA256(), 32, None, _CHALLENGE_INFO).derive(scalar)
