"""Which security keys are plugged in, and which of them this user may not open."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fido2 import hid
from fido2.hid import CtapHidDevice
from fido2.hid.base import CtapHidConnection, HidDescriptor, parse_report_descriptor

from device.errors import DeviceError, Trouble

# The library's own backends have no types.
_list_descriptors: Final[Callable[[], list[HidDescriptor]]] = hid.list_descriptors
_open_connection: Final[Callable[[HidDescriptor], CtapHidConnection]] = hid.open_connection
_DEVICES: Final = Path("/dev")
#: Readable by everybody, unlike the devices themselves.
_SYSFS: Final = Path("/sys/class/hidraw")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluggedKey:
    """A security key that this user may open. `name` is what the key says of itself: shown, never believed."""

    name: str
    descriptor: HidDescriptor

    def connect(self) -> CtapHidConnection:
        """Open it. Raises OSError."""
        return _open_connection(self.descriptor)

    def open(self) -> CtapHidDevice:
        """Open it and have it answer once. Raises OSError, or whatever the library raises at what it answers."""
        connection = self.connect()
        try:
            return CtapHidDevice(self.descriptor, connection)
        except BaseException:
            connection.close()
            raise


def plugged_in() -> list[PluggedKey]:
    """Return the keys that can be opened now.

    Raises:
        DeviceError: `k11_key_not_found` where there is none, with the reason if it is only that this user may not.
    """
    found = [
        PluggedKey(name=descriptor.product_name or "security key", descriptor=descriptor)
        for descriptor in _list_descriptors()
    ]
    if found:
        return found
    closed = ", ".join(sorted(unreadable())) if sys.platform == "linux" else ""
    if closed:
        raise DeviceError(Trouble.K11_KEY_NOT_FOUND, f"a security key is plugged in, but you may not open {closed}")
    raise DeviceError(Trouble.K11_KEY_NOT_FOUND, "no security key is plugged in")


def unreadable(sysfs: Path = _SYSFS, devices: Path = _DEVICES) -> Iterator[str]:
    """Name the device files of security keys that this Linux user may not open for reading and writing."""
    for entry in _entries(sysfs):
        device = devices / entry.name
        with suppress(OSError, ValueError):  # what is no security key, or was pulled out meanwhile
            parse_report_descriptor((entry / "device" / "report_descriptor").read_bytes())
            try:
                device.open("r+b", buffering=0).close()
            except PermissionError:
                yield str(device)


def _entries(sysfs: Path) -> Iterable[Path]:
    return sysfs.iterdir() if sysfs.is_dir() else ()
