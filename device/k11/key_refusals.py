"""What a security key refused, by name and with what to do about it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fido2.client import ClientError
from fido2.ctap import CtapError
from fido2.ctap2.base import Info

from agentkeys_core.errors import KeyServiceError, Reason
from device.errors import DeviceError, Trouble

ERR: Final = CtapError.ERR
_UNVERIFIED: Final = "it cannot verify who touches it"

_OF_KEY: Final[Mapping[int, tuple[Trouble, str]]] = MappingProxyType(
    {
        ERR.NO_CREDENTIALS: (Trouble.K11_MISSING, "it does not hold this device's K11"),
        ERR.INVALID_CREDENTIAL: (Trouble.K11_MISSING, "it does not hold this device's K11"),
        ERR.OPERATION_DENIED: (Trouble.DECLINED, "declined on the key"),
        ERR.NOT_ALLOWED: (Trouble.DECLINED, "the key does not allow it now"),
        ERR.KEEPALIVE_CANCEL: (Trouble.K11_TIMEOUT, "stopped before it was touched"),
        ERR.USER_ACTION_TIMEOUT: (Trouble.K11_TIMEOUT, "nobody touched it in time"),
        ERR.ACTION_TIMEOUT: (Trouble.K11_TIMEOUT, "nobody touched it in time"),
        ERR.TIMEOUT: (Trouble.K11_KEY_LOST, "it did not answer in time"),
        ERR.PIN_NOT_SET: (Trouble.K11_PIN_NOT_SET, "it has no PIN yet"),
        ERR.PIN_AUTH_BLOCKED: (
            Trouble.K11_PIN_BLOCKED,
            "too many wrong PINs; pull it out, plug it in again, and mind the tries that are left",
        ),
        ERR.PIN_BLOCKED: (
            Trouble.K11_PIN_BLOCKED,
            "its PIN is blocked for good; only a reset frees it, and that destroys every key in it",
        ),
        ERR.PIN_POLICY_VIOLATION: (Trouble.K11_PIN_NOT_SET, "it wants another PIN first"),
        ERR.UV_BLOCKED: (Trouble.K11_PIN_BLOCKED, "too many fingers that it does not know, and it has no PIN"),
        ERR.UNSUPPORTED_ALGORITHM: (Trouble.K11_KEY_UNSUITABLE, "it makes no ES256 keys"),
        ERR.UNSUPPORTED_OPTION: (Trouble.K11_KEY_UNSUITABLE, _UNVERIFIED),
        ERR.KEY_STORE_FULL: (Trouble.K11_KEY_UNSUITABLE, "it is full"),
    }
)
_OF_CLIENT: Final[Mapping[int, tuple[Trouble, str]]] = MappingProxyType(
    {
        ClientError.ERR.TIMEOUT: (Trouble.K11_TIMEOUT, "nobody touched it in time"),
        ClientError.ERR.DEVICE_INELIGIBLE: (Trouble.K11_MISSING, "it does not hold this device's K11"),
        ClientError.ERR.CONFIGURATION_UNSUPPORTED: (Trouble.K11_KEY_UNSUITABLE, _UNVERIFIED),
    }
)


def unsuitable(name: str, info: Info | None) -> DeviceError | None:
    """Say why a key cannot serve as K11, None where it can; `info` is None for one that speaks U2F alone."""
    if info is None or not any(version.startswith("FIDO_2") for version in info.versions):
        return _named(name, Trouble.K11_KEY_UNSUITABLE, f"it speaks U2F alone: {_UNVERIFIED}")
    if info.options.get("uv"):
        return None
    if info.options.get("clientPin"):
        return None if not info.force_pin_change else _named(name, *_OF_KEY[ERR.PIN_POLICY_VIOLATION])
    if "clientPin" in info.options:
        return _named(name, *_OF_KEY[ERR.PIN_NOT_SET])
    return _named(name, Trouble.K11_KEY_UNSUITABLE, _UNVERIFIED)


def refusal(name: str, error: Exception) -> Exception:
    """Name what went wrong with this key; what is named already stays as it is.

    Whatever the library says besides, it says of bytes that the key sent, by any exception that Python has.
    """
    if isinstance(error, (DeviceError, KeyServiceError)):
        return error
    found = _found(error)
    if found is None:
        return KeyServiceError(Reason.K11_INVALID, f"{name}: its answer is not one of CTAP2")
    return _named(name, *found)


def _found(error: Exception) -> tuple[Trouble, str] | None:
    cause = error.cause if isinstance(error, ClientError) else error
    match cause:
        case CtapError():
            return _OF_KEY.get(cause.code, (Trouble.K11_KEY_UNSUITABLE, f"it refused: {cause.code.name}"))
        case PermissionError():
            return Trouble.K11_KEY_NOT_FOUND, "you may not open it"
        case OSError():
            return Trouble.K11_KEY_LOST, "it was pulled out, or stopped answering"
    return _OF_CLIENT.get(error.code) if isinstance(error, ClientError) else None


def code_of(error: Exception) -> int | None:
    """Return the CTAP status behind an error of the library, if there is one."""
    cause = error.cause if isinstance(error, ClientError) else error
    return int(cause.code) if isinstance(cause, CtapError) else None


def _named(name: str, trouble: Trouble, words: str) -> DeviceError:
    return DeviceError(trouble, f"{name}: {words}")
