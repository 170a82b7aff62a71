"""`VerifyK10Sig` and `VerifyK11Assertion`: answers about signatures, which change nothing and release nothing."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_of
from agentkeys_core.k11 import K11Assertion, credential_id_hash
from agentkeys_core.keys import eip191_digest, verify_recoverable, verify_secp256k1
from agentkeys_core.proof import k10_digest
from agentkeys_core.webauthn_check import verify_assertion
from signer.ports import RegistryReader

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
_PUBLIC_KEY: Final = 33
_COMPACT: Final = 64
_RECOVERABLE: Final = 65
_DIGEST: Final = 32
_MAX_CREDENTIAL_ID: Final = 1023
_MAX_PART: Final = 4096


class Scheme(IntEnum):
    """How a device signed; the numbers of the protocol."""

    K10_V2 = 1
    EIP712 = 2
    EIP191 = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class K10Question:
    """A signature to be verified: a public key of 33 bytes; `purpose` for K10_V2 alone. Nothing is checked yet."""

    public_key: bytes
    payload: bytes
    signature: bytes
    scheme: int
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class K10Verdict:
    """Whether the signature is the key's, else why not; `binding` is the key's device key hash (32 bytes) if it is."""

    valid: bool
    reason: str = ""
    binding: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class K11Verdict:
    """Whether a registered K11 made the assertion, else why not; `sign_count` is the authenticator's counter then."""

    valid: bool
    reason: str = ""
    sign_count: int = 0


def verify_k10(asked: K10Question) -> K10Verdict:
    """What a device signature is worth, in one of the three schemes; high s is never valid.

    Raises:
        KeyServiceError: too_large; invalid_encoding for lengths, schemes and purposes that no signature could have.
    """
    payload, public_key, signature = asked.payload, asked.public_key, asked.signature
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise KeyServiceError(Reason.TOO_LARGE, "payload")
    compact = asked.scheme == Scheme.K10_V2
    _check_length(public_key, _PUBLIC_KEY, "public_key")
    _check_length(signature, _COMPACT if compact else _RECOVERABLE, "signature")
    if asked.purpose and not compact:
        raise KeyServiceError(Reason.INVALID_ENCODING, "a purpose belongs to K10_V2 alone")
    digest = _digest(payload, asked.scheme, asked.purpose)
    verify = verify_secp256k1 if compact else verify_recoverable
    if not verify(public_key, digest, signature):
        return K10Verdict(valid=False, reason=Reason.DEVICE_SIGNATURE_INVALID.value)
    return K10Verdict(valid=True, binding=device_of(public_key))


def _digest(payload: bytes, scheme: int, purpose: str) -> bytes:
    if scheme == Scheme.K10_V2:
        return k10_digest(_purpose(purpose), payload)
    if scheme == Scheme.EIP712:
        _check_length(payload, _DIGEST, "payload")
        return payload
    if scheme == Scheme.EIP191:
        return eip191_digest(payload)
    raise KeyServiceError(Reason.INVALID_ENCODING, "unknown signature scheme")


def _purpose(text: str) -> Literal["cap", "session"]:
    if text == "cap":
        return "cap"
    if text == "session":
        return "session"
    raise KeyServiceError(Reason.INVALID_ENCODING, "purpose is neither cap nor session")


def _check_length(value: bytes, length: int, name: str) -> None:
    if len(value) != length:
        raise KeyServiceError(Reason.INVALID_ENCODING, f"{name} is not {length} bytes")


def verify_k11(registry: RegistryReader, assertion: K11Assertion, *, challenge: bytes) -> K11Verdict:
    """Whether a K11 that the registry knows by its credential id approved this 32-byte challenge.

    Raises:
        KeyServiceError: invalid_encoding for impossible sizes; what the registry's reads raise.
    """
    _check_length(challenge, _DIGEST, "expected_challenge")
    if not 1 <= len(assertion.credential_id) <= _MAX_CREDENTIAL_ID:
        raise KeyServiceError(Reason.INVALID_ENCODING, f"credential_id is not 1 to {_MAX_CREDENTIAL_ID} bytes")
    if max(len(assertion.authenticator_data), len(assertion.client_data_json), len(assertion.signature)) > _MAX_PART:
        raise KeyServiceError(Reason.TOO_LARGE, f"a part of the assertion has more than {_MAX_PART} bytes")
    device = registry.k11_by_credential(credential_id_hash(assertion.credential_id))
    if device is None or device.k11 is None:
        return K11Verdict(valid=False, reason=Reason.K11_INVALID.value)
    if device.revoked:
        return K11Verdict(valid=False, reason=Reason.DEVICE_REVOKED.value)
    try:
        count = verify_assertion(assertion, challenge=challenge, public=device.k11)
    except KeyServiceError as exc:
        return K11Verdict(valid=False, reason=exc.reason.value)
    return K11Verdict(valid=True, sign_count=count)
