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
    """Asks the signer for an address, which releases nothing."""

    def derive_address(self, omni: bytes, *, epoch: int) -> bytes:
        """The 20-byte address of K4(omni) at a held epoch."""


class EnrolAttester(Protocol):
    """Has the signer look at the evidence for a first bind."""

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        """The initial wallet's 65-byte signature over the Enrol (JSON). Raises the signer's refusal."""
