"""What can go wrong on the device's side, and the exit code of each: scripts depend on both."""

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

from agentkeys_core.errors import Code, KeyServiceError, Reason


class ExitCode(IntEnum):
    """Exit codes of `agentkeys`; stable."""

    OK = 0
    REFUSED = 1  # by policy, by the person asked, or for a reason that has no code of its own
    USAGE = 2  # bad arguments or bad input
    DENIED = 3  # this device may not do that
    NOT_FOUND = 4
    UNAVAILABLE = 5  # try again later
    UNTRUSTED = 6  # an answer, a peer or a file could not be verified; nothing of it was used
    CONFLICT = 7  # somebody else was first


class Trouble(StrEnum):
    """Reasons that the device gives by itself; those of the services are `Reason`."""

    USAGE = "usage"
    NOT_INITIALISED = "not_initialised"
    ALREADY_INITIALISED = "already_initialised"
    NOT_REGISTERED = "not_registered"
    UNSAFE_FILE = "unsafe_file"
    BAD_FILE = "bad_file"
    FILE_EXISTS = "file_exists"
    PROFILE_HASH_MISMATCH = "profile_hash_mismatch"
    PAIRING_HASH_MISMATCH = "pairing_hash_mismatch"
    PAIR_INVALID = "pair_invalid"
    APPROVAL_INVALID = "approval_invalid"
    PAIRING_ENDED = "pairing_ended"
    IDENTITY_NOT_OFFERED = "identity_not_offered"
    NOT_CONFIRMED = "not_confirmed"
    WALLET_SIGNATURE_INVALID = "wallet_signature_invalid"
    K10_MISSING = "k10_missing"
    K11_MISSING = "k11_missing"
    K11_PAGE_UNAVAILABLE = "k11_page_unavailable"
    K11_TIMEOUT = "k11_timeout"
    K11_KEY_NOT_FOUND = "k11_key_not_found"
    K11_KEY_UNSUITABLE = "k11_key_unsuitable"
    K11_KEY_LOST = "k11_key_lost"
    K11_PIN_NOT_SET = "k11_pin_not_set"
    K11_PIN_BLOCKED = "k11_pin_blocked"
    DECLINED = "declined"
    PEER_NOT_TRUSTED = "peer_not_trusted"
    ANSWER_NOT_TRUSTED = "answer_not_trusted"
    ROW_NOT_TRUSTED = "row_not_trusted"
    KEYS_NOT_TRUSTED = "keys_not_trusted"
    EXPORT_NOT_TRUSTED = "export_not_trusted"
    REGISTRY_VIEWS_DIFFER = "registry_views_differ"
    ROTATION_NOT_IN_FORCE = "rotation_not_in_force"
    UNREACHABLE = "unreachable"
    AMBIGUOUS = "ambiguous"
    NO_SUCH_AGENT = "no_such_agent"
    NO_SUCH_DEVICE = "no_such_device"
    NO_SUCH_SESSION = "no_such_session"
    NOTHING_STORED = "nothing_stored"
    CHANGED_MEANWHILE = "changed_meanwhile"
    INTERNAL = "internal"


_OF_TROUBLE: Final[Mapping[Trouble, ExitCode]] = MappingProxyType(
    {
        Trouble.USAGE: ExitCode.USAGE,
        Trouble.NOT_INITIALISED: ExitCode.USAGE,
        Trouble.ALREADY_INITIALISED: ExitCode.CONFLICT,
        Trouble.NOT_REGISTERED: ExitCode.DENIED,
        Trouble.UNSAFE_FILE: ExitCode.REFUSED,
        Trouble.BAD_FILE: ExitCode.USAGE,
        Trouble.FILE_EXISTS: ExitCode.CONFLICT,
        Trouble.PROFILE_HASH_MISMATCH: ExitCode.UNTRUSTED,
        Trouble.PAIRING_HASH_MISMATCH: ExitCode.UNTRUSTED,
        Trouble.PAIR_INVALID: ExitCode.UNTRUSTED,
        Trouble.APPROVAL_INVALID: ExitCode.UNTRUSTED,
        Trouble.PAIRING_ENDED: ExitCode.UNAVAILABLE,
        Trouble.IDENTITY_NOT_OFFERED: ExitCode.NOT_FOUND,
        Trouble.NOT_CONFIRMED: ExitCode.UNAVAILABLE,
        Trouble.WALLET_SIGNATURE_INVALID: ExitCode.USAGE,
        Trouble.K10_MISSING: ExitCode.REFUSED,
        Trouble.K11_MISSING: ExitCode.REFUSED,
        Trouble.K11_PAGE_UNAVAILABLE: ExitCode.UNAVAILABLE,
        Trouble.K11_TIMEOUT: ExitCode.REFUSED,
        Trouble.K11_KEY_NOT_FOUND: ExitCode.UNAVAILABLE,
        Trouble.K11_KEY_UNSUITABLE: ExitCode.REFUSED,
        Trouble.K11_KEY_LOST: ExitCode.UNAVAILABLE,
        Trouble.K11_PIN_NOT_SET: ExitCode.REFUSED,
        Trouble.K11_PIN_BLOCKED: ExitCode.REFUSED,
        Trouble.DECLINED: ExitCode.REFUSED,
        Trouble.PEER_NOT_TRUSTED: ExitCode.UNTRUSTED,
        Trouble.ANSWER_NOT_TRUSTED: ExitCode.UNTRUSTED,
        Trouble.ROW_NOT_TRUSTED: ExitCode.UNTRUSTED,
        Trouble.KEYS_NOT_TRUSTED: ExitCode.UNTRUSTED,
        Trouble.EXPORT_NOT_TRUSTED: ExitCode.UNTRUSTED,
        Trouble.REGISTRY_VIEWS_DIFFER: ExitCode.UNTRUSTED,
        Trouble.ROTATION_NOT_IN_FORCE: ExitCode.UNTRUSTED,
        Trouble.UNREACHABLE: ExitCode.UNAVAILABLE,
        Trouble.AMBIGUOUS: ExitCode.USAGE,
        Trouble.NO_SUCH_AGENT: ExitCode.NOT_FOUND,
        Trouble.NO_SUCH_DEVICE: ExitCode.NOT_FOUND,
        Trouble.NO_SUCH_SESSION: ExitCode.NOT_FOUND,
        Trouble.NOTHING_STORED: ExitCode.NOT_FOUND,
        Trouble.CHANGED_MEANWHILE: ExitCode.CONFLICT,
        Trouble.INTERNAL: ExitCode.REFUSED,
    }
)

_OF_CODE: Final[Mapping[Code, ExitCode]] = MappingProxyType(
    {
        Code.INVALID_ARGUMENT: ExitCode.USAGE,
        Code.UNAUTHENTICATED: ExitCode.DENIED,
        Code.PERMISSION_DENIED: ExitCode.DENIED,
        Code.FAILED_PRECONDITION: ExitCode.REFUSED,
        Code.ALREADY_EXISTS: ExitCode.CONFLICT,
        Code.OUT_OF_RANGE: ExitCode.REFUSED,
        Code.RESOURCE_EXHAUSTED: ExitCode.UNAVAILABLE,
        Code.UNAVAILABLE: ExitCode.UNAVAILABLE,
        Code.NOT_FOUND: ExitCode.NOT_FOUND,
        Code.UNIMPLEMENTED: ExitCode.REFUSED,
        Code.INTERNAL: ExitCode.UNAVAILABLE,
    }
)

#: Where the status is too coarse for a script: both of these are FAILED_PRECONDITION like the rest.
_OF_REASON: Final[Mapping[Reason, ExitCode]] = MappingProxyType(
    {
        Reason.VERSION_NOT_CURRENT: ExitCode.CONFLICT,
        Reason.ALREADY_BOUND: ExitCode.CONFLICT,
        Reason.STALE_EPOCH: ExitCode.UNAVAILABLE,
        Reason.FUTURE_EPOCH: ExitCode.UNAVAILABLE,
        Reason.SEALED: ExitCode.UNAVAILABLE,
        Reason.K3_MISMATCH: ExitCode.UNAVAILABLE,
        Reason.CLOCK_BEHIND: ExitCode.UNAVAILABLE,
        Reason.REGISTRY_ROLLED_BACK: ExitCode.UNAVAILABLE,
    }
)


class DeviceError(Exception):
    """The device itself says no; `reason` is what scripts match on.

    Args:
        trouble: The reason.
        detail: For people; never a key, a credential or a token.
    """

    def __init__(self, trouble: Trouble, detail: str = "") -> None:
        super().__init__(trouble, detail)
        self.reason = trouble
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


def exit_code(error: DeviceError | KeyServiceError) -> ExitCode:
    """Return the exit code of any refusal; total over `Trouble` and `Reason`."""
    if isinstance(error, DeviceError):
        return _OF_TROUBLE[error.reason]
    return _OF_REASON.get(error.reason, _OF_CODE[error.reason.code])
