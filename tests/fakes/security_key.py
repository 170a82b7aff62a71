"""A security key without hardware: OpenSK's firmware (tests/foreign/security-key), asked over a socket instead of USB."""

import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fido2.ctap import CtapError
from fido2.ctap2.base import Ctap2
from fido2.ctap2.pin import ClientPin
from fido2.hid import CtapHidDevice
from fido2.hid.base import CtapHidConnection, HidDescriptor

from device.errors import DeviceError, Trouble
from device.k11.usb import PluggedKey
from tests.services import program

PIN = "271828"
PACKET = 64
LIMIT_S = 20


class SocketConnection(CtapHidConnection):
    """64-byte packets over a socket, as hidraw carries them."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def read_packet(self) -> bytes:
        packet = b""
        while len(packet) < PACKET:
            more = self._socket.recv(PACKET - len(packet))
            if not more:
                raise OSError("pulled out")
            packet += more
        return packet

    def write_packet(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class SocketKey(PluggedKey):
    """A key at the other end of a socket."""

    def connect(self) -> CtapHidConnection:
        return SocketConnection(str(self.descriptor.path))


def at(path: Path, name: str) -> SocketKey:
    descriptor = HidDescriptor(str(path), 0x1915, 0x521F, PACKET, PACKET, name, None)
    return SocketKey(name=name, descriptor=descriptor)


def finder(paths: Sequence[Path], names: Sequence[str]) -> Callable[[], list[PluggedKey]]:
    """As `plugged_in`: the keys whose sockets are there."""

    def find() -> list[PluggedKey]:
        found: list[PluggedKey] = [at(path, name) for path, name in zip(paths, names, strict=True) if path.exists()]
        if not found:
            raise DeviceError(Trouble.K11_KEY_NOT_FOUND, "no security key is plugged in")
        return found

    return find


class SecurityKey:
    """One key, with the hands of the person who holds it."""

    def __init__(self, path: Path, name: str, *words: str) -> None:
        self.path = path
        self.name = name
        self._process = subprocess.Popen(
            [program("security-key"), path, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._asked = threading.Semaphore(0)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._lines.get(timeout=LIMIT_S) == "ready"

    @property
    def plugged(self) -> SocketKey:
        return at(self.path, self.name)

    def do(self, word: str) -> None:
        """Move the hands; see tests/foreign/security-key/src/main.rs for the words."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        assert self._lines.get(timeout=LIMIT_S) == "ok"

    def wait_until_asked(self) -> None:
        """Return when the key has begun to wait for a person since the last call."""
        assert self._asked.acquire(timeout=LIMIT_S)

    @property
    def asked(self) -> bool:
        """Whether it waited for a person since the last call."""
        return self._asked.acquire(blocking=False)

    @contextmanager
    def ctap2(self) -> Iterator[Ctap2]:
        with self.plugged.open() as device:
            yield Ctap2(device)

    def set_pin(self, pin: str = PIN) -> None:
        with self.ctap2() as ctap2:
            ClientPin(ctap2).set_pin(pin)

    def tries_left(self) -> int:
        with self.ctap2() as ctap2:
            return ClientPin(ctap2).get_pin_retries()[0]

    def holds(self, credential_id: bytes) -> bool:
        allowed: list[Mapping[str, object]] = [{"id": credential_id, "type": "public-key"}]
        with self.ctap2() as ctap2:
            try:
                ctap2.get_assertion("localhost", bytes(32), allowed, options={"up": False})
            except CtapError as exc:
                if exc.code == CtapError.ERR.NO_CREDENTIALS:
                    return False
                raise
            return True

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == "asked\n":
                self._asked.release()
            else:
                self._lines.put(line.strip())


Tamper = Callable[[int, bytes, bytes], bytes]
#: What a key says in its first answer when it speaks U2F alone.
U2F_ONLY = 0x01


class Tampered(CtapHidDevice):
    """Passes each answer of a key through `tamper`, which is given command, request and answer."""

    tamper: Tamper | None = None

    def call(self, cmd: int, data: bytes = b"", *args: Any, **words: Any) -> bytes:
        answer = super().call(cmd, data, *args, **words)
        return answer if self.tamper is None else self.tamper(cmd, data, answer)


@dataclass(frozen=True, kw_only=True)
class LyingKey(SocketKey):
    """A key that says something else than it is, or than it did."""

    tamper: Tamper | None = None
    capabilities: int | None = None

    def open(self) -> CtapHidDevice:
        device = Tampered(self.descriptor, self.connect())
        device.tamper = self.tamper
        if self.capabilities is not None:
            device._capabilities = self.capabilities
        return device


def lying(key: SecurityKey, tamper: Tamper | None = None, *, capabilities: int | None = None) -> PluggedKey:
    """The key, with what it answers changed."""
    return LyingKey(name=key.name, descriptor=key.plugged.descriptor, tamper=tamper, capabilities=capabilities)
