"""K10, the device's own key: made once, kept in a private file, and the only source of what K11 is asked to approve."""

import hmac
from dataclasses import dataclass
from typing import Final, Self

from agentkeys_core.caprequest import CapRequest
from agentkeys_core.changes import Change
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import DeviceKey, verify_recoverable, verify_secp256k1
from agentkeys_core.proof import SessionProof, k10_digest
from device.errors import DeviceError, Trouble
from device.home import Home

K10_FILE: Final = "k10.json"
_KIND: Final = "agentkeys-k10"
_VERSION: Final = 1
_LIMIT: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDigest:
    """Something that this device's K10 has signed, and that K11 may therefore be asked to approve.

    `digest` are the 32 bytes that were signed, `signature` has 64 bytes (requests) or 65 (changes), `challenge` are the
    32 bytes for K11 and `name` the 32 bytes that people and rows know it by: the cap digest or the EIP-712 digest.
    """

    public_key: bytes
    digest: bytes
    signature: bytes
    challenge: bytes
    name: bytes

    def check(self) -> None:
        """Raise `internal` unless K10 really signed: no K11 page is ever opened for anything else."""
        verify = verify_secp256k1 if len(self.signature) == 64 else verify_recoverable  # noqa: PLR2004 - r||s
        if not verify(self.public_key, self.digest, self.signature):
            raise DeviceError(Trouble.INTERNAL, "K11 was asked to approve something that K10 did not sign")


class K10:
    """The device key of this folder."""

    __slots__ = ("_key",)

    def __init__(self, key: DeviceKey) -> None:
        self._key = key

    @property
    def public_key(self) -> bytes:
        """33 bytes, compressed."""
        return self._key.public_key

    @property
    def address(self) -> bytes:
        """20 bytes."""
        return self._key.address

    @property
    def key_hash(self) -> bytes:
        """32 bytes: the name of this device."""
        return self._key.key_hash

    def sign_request(self, request: CapRequest) -> SignedDigest:
        """Sign a capability request."""
        digest = k10_digest("cap", request.raw)
        return SignedDigest(
            public_key=self.public_key,
            digest=digest,
            signature=self._key.sign(digest),
            challenge=cap_challenge(request.digest),
            name=request.digest,
        )

    def sign_proof(self, proof: SessionProof) -> str:
        """Return the text of the header `AgentKeys-Proof` with this key's signature over it."""
        return proof.sign(self._key)

    def sign_change(self, change: Change, domain: Domain) -> SignedDigest:
        """Sign a registry change or a `Pair`."""
        digest = change.digest(domain)
        return SignedDigest(
            public_key=self.public_key,
            digest=digest,
            signature=self._key.sign_recoverable(digest),
            challenge=digest,
            name=digest,
        )

    @classmethod
    def load(cls, home: Home, name: str = K10_FILE) -> Self | None:
        """Return the key of the folder, None where there is none; `name` is the file's.

        Raises:
            DeviceError: `unsafe_file`, or `bad_file` for a file that was damaged.
        """
        data = home.read(name)
        if data is None:
            return None
        try:
            return cls(_parse(data))
        except KeyServiceError as exc:
            # The parser's own words never hold content, but a key file is not worth the risk: say only which file.
            raise DeviceError(Trouble.BAD_FILE, f"{home.path / name} is damaged") from exc

    @classmethod
    def load_or_make(cls, home: Home, name: str = K10_FILE) -> Self:
        """Return the key of the folder; make it first where there is none.

        It is on disk when this returns. Raises as `load`.
        """
        with home.locked():
            found = cls.load(home, name)
            if found is None:
                key = DeviceKey.generate()
                home.create(name, _encode(key))
                found = cls(key)
            return found


def _encode(key: DeviceKey) -> bytes:
    members = {
        "kind": _KIND,
        "private_key": b64u_encode(key.secret_bytes()),
        "public_key": b64u_encode(key.public_key),
        "ver": _VERSION,
    }
    return canonical_json(members)


def _parse(data: bytes) -> DeviceKey:
    bad = Reason.INVALID_ENCODING
    members = fields(
        parse_canonical(data, limit=_LIMIT, not_canonical=bad),
        required=("kind", "private_key", "public_key", "ver"),
        reason=bad,
    )
    if members["kind"] != _KIND or members["ver"] != _VERSION:
        raise KeyServiceError(Reason.UNSUPPORTED_VERSION, "K10 file")
    key = DeviceKey.from_bytes(b64u_decode(members["private_key"], length=32))
    if not hmac.compare_digest(key.public_key, b64u_decode(members["public_key"], length=33)):
        raise KeyServiceError(bad, "the halves do not fit")
    return key
