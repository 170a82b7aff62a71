"""What the broker's own logic needs of the outside, and the values that pass there."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Counters(Protocol):
    """Counts of requests by name and minute, shared by every process of this broker."""

    def count(self, name: bytes, *, minute: int, limit: int) -> bool:
        """Add one to the count of `name` in that minute and return true; false, adding nothing, where it is `limit`.

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

    def add(self, session: Session) -> None:
        """Keep a new session."""

    def find(self, session_id: bytes) -> Session | None:
        """The session, also one that ended; None where it was never there or was forgotten after its end."""

    def of_operator(self, operator: bytes, *, now: int) -> Sequence[Session]:
        """All of a user's sessions that have not ended, newest first."""

    def revoke(self, session_id: bytes, *, operator: bytes, now: int) -> bool:
        """End a session of that user; false where there is none to end."""


class AddressSource(Protocol):
    """The one thing that the broker asks of the signer for devices: an address, which releases nothing."""

    def derive_address(self, omni: bytes, *, epoch: int) -> bytes:
        """The 20-byte address of K4(omni) at a held epoch."""
