"""Signing in with the user's own wallet: an EIP-4361 message for this broker alone, about this device alone."""

from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

from agentkeys_core.encoding import b64u_decode, fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import eip191_digest, recover_address
from agentkeys_core.proof import SessionProof
from agentkeys_core.registry import OperatorState
from agentkeys_core.shapes import text
from agentkeys_core.siwe import DEVICE_PAGE, MAX_MESSAGE_BYTES, SiweMessage, device_resource

CLOCK_SKEW_S: Final = 60
#: A body with the longest message, written with any spacing.
BODY_LIMIT: Final = 2 * MAX_MESSAGE_BYTES
_SIGNATURE_BYTES: Final = 65
_BAD: Final = Reason.INVALID_BODY


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedMessage:
    """An EIP-4361 message and its EIP-191 signature (65 bytes, v 0/1/27/28); nothing in it has been verified."""

    message: SiweMessage
    signature: bytes = field(repr=False)

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read `{"message","signature"}`. Raises `unknown_fields`, `invalid_body`, `invalid_siwe`, `too_large`."""
        members = fields(obj, required=("message", "signature"), reason=_BAD)
        return cls(
            message=SiweMessage.parse(text(members["message"], "message", reason=_BAD)),
            signature=b64u_decode(members["signature"], length=_SIGNATURE_BYTES, reason=_BAD),
        )


def check_wallet(
    signed: SignedMessage, *, origin: str, proof: SessionProof, operator: OperatorState, now: float
) -> None:
    """Return once the operator's own wallet is proven to have signed this sign-in of the device that made `proof`.

    The message is for this broker (`uri`), asked for by a page of it or by the device's own page (`domain`), which is
    what a wallet compares with the page that asks. The device is named by the message's only resource, so that a
    message which the user signed for one device signs in no other. A managed wallet cannot take part: the signer
    refuses every message with such a resource.

    Raises:
        KeyServiceError: `policy_refused` for an operator whose wallet is managed; `proof_invalid` for a message to
            another broker, for another sign-in, device, wallet or time, or with a signature of somebody else.
    """
    if operator.wallet_epoch != 0:
        raise KeyServiceError(Reason.POLICY_REFUSED, "this user has no wallet of their own")
    message = signed.message
    if message.uri != origin:
        raise _invalid("the message is for another broker")
    if (message.scheme, message.domain) not in _asked_by(origin):
        raise _invalid("the message was asked for by another site")
    if message.nonce != proof.nonce:
        raise _invalid("the message is for another sign-in")
    if message.resources != (device_resource(proof.device),):
        raise _invalid("the message is not about this device and nothing else")
    if message.address != operator.wallet:
        raise _invalid("the message is of another wallet")
    _check_time(message, now)
    if recover_address(eip191_digest(message.encode().encode("ascii")), signed.signature) != operator.wallet:
        raise _invalid("the message is not signed by its wallet")


def _asked_by(origin: str) -> frozenset[tuple[str | None, str]]:
    """Scheme and domain of the pages that may ask."""
    pages = ((urlsplit(origin).netloc, "https"), (DEVICE_PAGE, "http"))
    return frozenset((given, domain) for domain, scheme in pages for given in (None, scheme))


def _check_time(message: SiweMessage, now: float) -> None:
    if message.issued_at.unix > now + CLOCK_SKEW_S:
        raise _invalid("the message was issued in the future")
    if message.not_before is not None and now + CLOCK_SKEW_S < message.not_before.unix:
        raise _invalid("the message is for a later time")
    if message.expiration_time is not None and now >= message.expiration_time.unix:
        raise _invalid("the message has expired")


def _invalid(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.PROOF_INVALID, detail)
