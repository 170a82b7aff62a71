"""Credentials, one vault a user: put, get, list, remove."""

from collections.abc import Iterator
from typing import Final

from agentkeys_core.ops import Op
from device import objects
from device.objects import Fetched, ObjectKind, Stored
from device.session import Device

MAX_VALUE_BYTES: Final = 64 * 1024
KIND: Final = ObjectKind(
    word="credential",
    prefix="cred",
    max_bytes=MAX_VALUE_BYTES,
    write=Op.CRED_STORE,
    read=Op.CRED_FETCH,
    delete=Op.CRED_DELETE,
    listing=Op.CRED_LIST,
)


def listed(device: Device) -> Iterator[tuple[str, bytes]]:
    """Yield (name, cap digest of its current store), in order of names; raises as `objects.listed`."""
    return objects.listed(KIND, device)


def put(device: Device, name: str, value: bytes) -> Stored:
    """Store a value, new or instead of the current one; raises as `objects.put`."""
    return objects.put(KIND, device, name, value)


def get(device: Device, name: str) -> Fetched:
    """Return the value; raises as `objects.get`."""
    return objects.get(KIND, device, name)


def remove(device: Device, name: str) -> Stored:
    """Delete what is stored under a name; raises as `objects.remove`."""
    return objects.remove(KIND, device, name)
