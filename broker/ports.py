"""What the broker's own logic needs of the outside, and the values that pass there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol


class Counters(Protocol):
    """Counts of requests by name and window of time, shared by every process of this broker."""

    def count(self, name: bytes, *, until: int, limit: int, now: int) -> bool:
        """Add one to the count of `name` in the window that ends at `until`, and return true.

        False, adding nothing, where the count is `limit` already. Times in Unix seconds.

        Raises:
            KeyServiceError: `overloaded` where nothing can be counted now.
        """


class Redemptions(Protocol):
    """What may be used once, over all processes of this broker."""

    def redeem(self, value: bytes, *, expires_at: int, now: int) -> bool:
        """Use `value` up and return true; false where it was used before. Remembered until `expires_at`.

        Raises:
            KeyServiceError: `overloaded` where that cannot be known now.
        """


class SignInMethod(StrEnum):
    """What a session rests on: the device's key alone, or the user's own wallet besides."""

    DEVICE = "device"
    WALLET = "wallet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session of a device at the broker: `id` 16 bytes, omnis and device key hash 32; times in Unix seconds.

    It ends at `expires_at` at the latest, whatever is refreshed.
    """

    id: bytes
    device: bytes
    operator: bytes
    actor: bytes
    method: SignInMethod
    created_at: int
    expires_at: int
    revoked_at: int | None = None


class Sessions(Protocol):
    """Sessions, shared by every process of this broker. Each method raises `overloaded` where it cannot be done now."""

    def add(self, session: Session, *, keep: int) -> None:
        """Keep a new session, and of the others of its device the newest, `keep` in all: older ones are forgotten.

        Where several are added in the same moment there may be more, until the next one is.
        """

    def find(self, session_id: bytes) -> Session | None:
        """The session, also one that ended; None where it was never there or was forgotten after its end."""

    def of_operator(self, operator: bytes, *, device: bytes | None, now: int) -> Sequence[Session]:
        """All of a user's sessions that have not ended, of that device where one is named; newest first."""

    def revoke(self, session_id: bytes, *, operator: bytes, device: bytes | None, now: int) -> bool:
        """End a session of that user, and of that device where one is named; false where there is none to end."""


class CeremonyKind(StrEnum):
    """What a ceremony is about: an identity to be proved, or a machine to be paired."""

    EMAIL = "email"
    OIDC = "oidc"
    PAIRING = "pairing"
    PASSKEY = "passkey"


class CeremonyState(StrEnum):
    """How far it came.

    `AUTHENTICATED`: the provider vouches, and the person has not yet agreed to the binding. `CLAIMED`: a master took a
    pairing, and the machine has not yet signed its `Pair`.
    """

    PENDING = "pending"
    AUTHENTICATED = "authenticated"
    CLAIMED = "claimed"
    CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceremony:
    """A proof of identity under way for one device: `id` 16 bytes, `device` its key hash (32).

    `secret` is the SHA-256 of the text that moves it on; `detail` is JSON of the ceremony's own. Times in Unix seconds.
    """

    id: bytes
    kind: CeremonyKind
    state: CeremonyState
    device: bytes
    secret: bytes = field(repr=False)
    created_at: int
    expires_at: int
    detail: bytes = field(repr=False)


class Ceremonies(Protocol):
    """Ceremonies, shared by every process of this broker. Each raises `overloaded` where it cannot be done now."""

    def add(self, ceremony: Ceremony) -> None:
        """Keep a new one."""

    def find(self, ceremony_id: bytes) -> Ceremony | None:
        """The ceremony, None where it was never there or was forgotten after its end."""

    def by_secret(self, secret: bytes) -> Ceremony | None:
        """The ceremony that this hash moves on."""

    def move(self, ceremony: Ceremony, to: Ceremony) -> bool:
        """Replace `ceremony` by `to` and return true; false where state, secret or detail changed meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passkey:
    """The public half of a passkey: P-256 coordinates of 32 bytes each. `sign_count` is its newest counter.

    Times in Unix seconds.
    """

    credential_id: bytes
    x: bytes
    y: bytes
    sign_count: int
    created_at: int
    used_at: int


class Passkeys(Protocol):
    """Passkeys, shared by every process of this broker. Each raises `overloaded` where it cannot be done now."""

    def add(self, passkey: Passkey) -> bool:
        """Keep a new one and return true; false where its credential id is known."""

    def find(self, credential_id: bytes) -> Passkey | None:
        """The passkey, None where it was never there or was forgotten for not being used."""

    def used(self, credential_id: bytes, *, sign_count: int, now: int) -> bool:
        """Take note of a use and return true; false where the counter did not grow (0 after 0 counts as grown)."""


class DeviceUse(NamedTuple):
    """A device was co-signed for at `used_at` (Unix seconds): its key hash, and the omni of its operator."""

    device: bytes
    operator: bytes
    used_at: int


class DeviceUses(Protocol):
    """When each device was last used, shared by every process of this broker. Each raises `overloaded`."""

    def keep(self, uses: Sequence[DeviceUse]) -> None:
        """Keep what is newer than what is known, in one transaction; one use a device."""

    def of_operator(self, operator: bytes) -> Mapping[bytes, int]:
        """The last use of each of a user's devices that was ever used, by key hash."""


class Mailer(Protocol):
    """Takes mail that will be sent."""

    def send(self, *, to: str, subject: str, text: str, client: str) -> None:
        """Take one message. `client` is the network that caused it, as in `Claim`: networks take turns.

        Raises:
            KeyServiceError: `mail_unreachable` where the server was out of reach a moment ago; `overloaded` where too
                many messages wait. Neither depends on the address.
        """


class MailTransport(Protocol):
    """Carries mail to where it is handed over, for several threads at once."""

    def send(self, *, to: str, subject: str, text: str) -> None:
        """Hand one message over.

        Raises:
            KeyServiceError: `mail_unreachable` where the server is out of reach, whatever the address; `policy_refused`
                where it took no such message; `invalid_body` for no address.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class IdToken:
    """A verified ID token: as issued, and whom it names, for people to read."""

    text: str = field(repr=False)
    subject: str
    name: str


class OpenIdProvider(Protocol):
    """One OpenID provider. Each method raises `provider_unreachable`; `invalid_evidence` where it answers wrongly."""

    @property
    def client_id(self) -> str:
        """Our client there: for whom its ID tokens are."""

    def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Where the person signs in; PKCE with the challenge of `verifier`."""

    def names_itself(self) -> bool:
        """Whether every answer that it sends people back with names it in `iss` (RFC 9207)."""

    def redeem(self, code: str, *, nonce: str, verifier: str) -> IdToken:
        """The ID token for a code: of this issuer, for us, fresh, with that nonce."""


class AddressSource(Protocol):
    """Addresses, which release nothing."""

    def derive_address(self, omni: bytes, *, epoch: int) -> bytes:
        """The 20-byte address of K4(omni) at a held epoch."""

    def wallet_address(self, actor_omni: bytes) -> tuple[bytes, int]:
        """Address (20 bytes) and epoch of an actor's managed wallet."""


class EnrolAttester(Protocol):
    """Has the signer look at the evidence for a first bind."""

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        """The initial wallet's 65-byte signature over the Enrol (JSON). Raises the signer's refusal."""


class SealedSignature(Protocol):
    """A signature that only the device can open, and the row that records it (canonical JSON)."""

    @property
    def sealed(self) -> bytes:
        """Sealed to the request's reply key."""

    @property
    def row(self) -> bytes:
        """As signed."""


class WalletSigner(Protocol):
    """What signs with managed wallets: the signer. Every method raises its refusals; `cap` is canonical JSON."""

    def sign_siwe(self, cap: bytes, *, message: str) -> SealedSignature:
        """EIP-191 over an EIP-4361 message."""

    def sign_typed_data(self, cap: bytes, *, body: bytes) -> SealedSignature:
        """EIP-712 over the typed data in the request's body."""
