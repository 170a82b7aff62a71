"""Challenges for a sign-in: made without keeping anything, so that asking for them fills no table; good for one use."""

import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from broker.ports import Redemptions

LIFETIME_S: Final = 300
_EXPIRY: Final = 8
_RANDOM: Final = 16
_TAG: Final = 32
_LENGTH: Final = _EXPIRY + _RANDOM + _TAG


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """`nonce` is lower-case hex, as EIP-4361 wants letters and digits alone; `expires_at` in Unix seconds."""

    nonce: str
    expires_at: int


class Challenges:
    """Issues nonces and takes each back once. Safe for threads and processes that share key and redemptions."""

    def __init__(self, keys: Sequence[bytes], redemptions: Redemptions, clock: Callable[[], float]) -> None:
        """The first of `keys` makes nonces; those of each are taken back."""
        self._keys = keys
        self._redemptions = redemptions
        self._clock = clock

    def issue(self) -> Challenge:
        """A nonce that nobody can guess, for the next 300 s."""
        expires_at = int(self._clock()) + LIFETIME_S
        content = expires_at.to_bytes(_EXPIRY, "big") + secrets.token_bytes(_RANDOM)
        return Challenge(nonce=(content + _tag(self._keys[0], content)).hex(), expires_at=expires_at)

    def redeem(self, nonce: str) -> None:
        """Use a nonce up. Call it last: whoever only saw a nonce must not be able to use it up.

        Raises:
            KeyServiceError: `proof_invalid` for one that is not ours, too old, or used before; `overloaded`.
        """
        data, expires_at = self.check(nonce)
        if not self._redemptions.redeem(b"challenge:" + data, expires_at=expires_at, now=int(self._clock())):
            raise _invalid("the nonce was used before")

    def check(self, nonce: str) -> tuple[bytes, int]:
        """The bytes of a nonce of ours and when it ends (Unix seconds); whether it was used is not looked at.

        Raises:
            KeyServiceError: `proof_invalid` for one that is not ours, or too old.
        """
        try:
            data = bytes.fromhex(nonce)
        except ValueError as error:
            raise _invalid("the nonce is none of this broker's") from error
        content, tag = data[:-_TAG], data[-_TAG:]
        is_ours = any(hmac.compare_digest(_tag(key, content), tag) for key in self._keys)
        if len(data) != _LENGTH or data.hex() != nonce or not is_ours:
            raise _invalid("the nonce is none of this broker's")
        expires_at = int.from_bytes(content[:_EXPIRY], "big")
        if int(self._clock()) >= expires_at:
            raise _invalid("the nonce is too old")
        return data, expires_at


def _tag(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")


def _invalid(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.PROOF_INVALID, detail)
