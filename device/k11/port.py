"""What the rest of the device knows of K11: a public key on record, and somebody who approves what K10 has signed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, Self

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_ORIGIN, RP_ID_HASH, SOFTWARE_ORIGIN, K11Assertion, credential_id_hash, origin_hash
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.registry import K11Public
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.keys import SignedDigest

K11_FILE: Final = "k11.json"
_VERSION: Final = 1
_LIMIT: Final = 8192


class K11Kind(StrEnum):
    """By whom the key was made: the person's browser, this program with a security key, or software in the folder.

    The first two make keys of one relying party and origin, so each may ask for a key of the other.
    """

    BROWSER = "browser"
    SECURITY_KEY = "security-key"
    SOFTWARE = "software"

    @property
    def origin(self) -> str:
        """The origin that assertions of this kind carry."""
        return SOFTWARE_ORIGIN if self is K11Kind.SOFTWARE else K11_ORIGIN


class AskedBy(StrEnum):
    """How the holder of a key is asked, whoever made it."""

    BROWSER = "browser"
    SECURITY_KEY = "security-key"

    def instead_of(self, kind: K11Kind) -> K11Kind:
        """Return whom to ask for a key of this kind; software asks nobody."""
        return kind if kind is K11Kind.SOFTWARE else K11Kind(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class K11Record:
    """The public half of this master's K11. `credential_id` raw, coordinates 32 bytes each, a point of P-256."""

    kind: K11Kind
    credential_id: bytes
    x: bytes
    y: bytes

    @property
    def public(self) -> K11Public:
        """As the registry records it."""
        return K11Public(
            credential_id_hash=credential_id_hash(self.credential_id),
            x=self.x,
            y=self.y,
            rp_id_hash=RP_ID_HASH,
            origin_hash=origin_hash(self.kind.origin),
        )

    def encode(self) -> bytes:
        """Canonical JSON."""
        members = {"credential_id": b64u_encode(self.credential_id), "kind": self.kind.value, "ver": _VERSION}
        return canonical_json({**members, "x": b64u_encode(self.x), "y": b64u_encode(self.y)})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `encode`'s bytes. Raises `unknown_fields` or `invalid_encoding`."""
        bad = Reason.INVALID_ENCODING
        members = fields(
            parse_canonical(data, limit=_LIMIT, not_canonical=bad),
            required=("credential_id", "kind", "ver", "x", "y"),
            reason=bad,
        )
        if members["kind"] not in tuple(K11Kind) or members["ver"] != _VERSION:
            raise KeyServiceError(bad, "kind or version")
        key = ES256PublicKey.from_xy(b64u_decode(members["x"], length=32), b64u_decode(members["y"], length=32))
        return cls(
            kind=K11Kind(str(members["kind"])), credential_id=b64u_decode(members["credential_id"]), x=key.x, y=key.y
        )

    @classmethod
    def load(cls, home: Home) -> Self | None:
        """Return what the folder holds, None where there is nothing. Raises `bad_file` or `unsafe_file`."""
        data = home.read(K11_FILE)
        try:
            return None if data is None else cls.parse(data)
        except KeyServiceError as exc:
            raise DeviceError(Trouble.BAD_FILE, f"{home.path / K11_FILE}: {exc}") from exc

    def save(self, home: Home) -> None:
        """Keep it. Raises `file_exists`: a K11 key is never replaced silently."""
        home.create(K11_FILE, self.encode())


def check_shown(signed: SignedDigest, intent: Intent) -> None:
    """Raise `internal` unless K10 signed, and what the person is shown is what it signed."""
    signed.check()
    if intent.digest != signed.name:
        raise DeviceError(Trouble.INTERNAL, "something else would be shown than is signed")


class Holder(Protocol):
    """The person with a security key in hand, as this program reaches them."""

    def about(self, intent: Intent) -> None:
        """Show what will be approved, unless that was shown just before."""
        ...

    def hint(self, words: str) -> None:
        """Say what to do with the key; shown in every mode, since nothing goes on without it."""
        ...

    def pin(self, question: str) -> str:
        """Return a PIN as typed, which nothing may show or keep.

        Raises:
            DeviceError: `usage` where nobody can be asked, `declined` where nothing was typed.
        """
        ...


class Authenticator(Protocol):
    """Makes a K11 key, and later asks its holder to approve."""

    def create(self, home: Home, *, device_key_hash: bytes) -> K11Record:
        """Make a key and return its public half, not yet saved.

        Raises `declined`, `k11_timeout`, `k11_page_unavailable` or what is wrong with a security key.
        """
        ...

    def approve(self, record: K11Record, signed: SignedDigest, intent: Intent) -> K11Assertion:
        """Return an assertion over `signed.challenge`, after the holder saw `intent`.

        Raises:
            DeviceError: `declined`, `k11_timeout`, `k11_page_unavailable` or what is wrong with a security key;
                `internal` for something that K10 did not sign.
        """
        ...
