"""What the broker's own logic needs of the outside."""

from typing import Protocol


class Counters(Protocol):
    """Counts of requests by name and minute, shared by every process of this broker."""

    def count(self, name: bytes, *, minute: int, limit: int) -> bool:
        """Add one to the count of `name` in that minute and return true; false, adding nothing, where it is `limit`.

        Raises:
            KeyServiceError: `overloaded` where nothing can be counted now.
        """


class AddressSource(Protocol):
    """Addresses, which release nothing."""

    def derive_address(self, omni: bytes, *, epoch: int) -> bytes:
        """The 20-byte address of K4(omni) at a held epoch."""

    def wallet_address(self, actor_omni: bytes) -> tuple[bytes, int]:
        """Address (20 bytes) and epoch of an actor's managed wallet."""


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
