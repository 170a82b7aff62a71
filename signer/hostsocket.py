"""The Unix socket of host actions: mode 0600, one JSON line in, one out, only for this very account (and root)."""

import inspect
import json
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agentkeys_core.encoding import canonical_json, fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from signer.ports import HostRefusedError, VaultError

MAX_LINE: Final = 4096  # bytes of a command
MAX_ANSWER: Final = 1024 * 1024  # bytes: the key documents of a thousand epochs
TIMEOUT_S: Final = 5.0
_ACCEPT_POLL_S: Final = 0.5
_AT_ONCE: Final = 4  # commands: a rotation that waits for the issuer must not keep the host from sealing
_LONGEST_NAME: Final = 100  # bytes; sockaddr_un holds 108, elsewhere 104
_UCRED: Final = struct.Struct("3i")
_LOG: Final = logging.getLogger("agentkeys.signer.host")

Handler = Callable[..., Mapping[str, object]]


class HostSocketError(Exception):
    """The socket cannot be made or reached; the text says why."""


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A name for `path` short enough for a socket address; a long one is reached from its own folder."""
    if len(os.fsencode(path)) <= _LONGEST_NAME:
        yield str(path)
        return
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(path.parent)  # /proc/self/fd would do, were it not root's in a process that is not dumpable
        yield path.name
    finally:
        os.fchdir(before)
        os.close(before)


class HostSocket:
    """Answers commands until `close`. Making one for a long path changes the working folder for a moment."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)  # left by a killed signer: whoever holds the lock file owns the name
            mask = os.umask(0o177)
            try:
                with _reachable(path) as name:
                    self._socket.bind(name)
            finally:
                os.umask(mask)
            self._socket.listen(8)
        except OSError as exc:
            self._socket.close()
            raise HostSocketError(f"{path} cannot be made: {exc.strerror or exc}") from exc
        self._socket.settimeout(_ACCEPT_POLL_S)
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="host-command")
        self._thread = threading.Thread(target=self._serve, name="host-socket", daemon=True)

    def start(self) -> None:
        """Begin to answer, on a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:  # out of descriptors: not to spin until there are some again
                self._stopping.wait(_ACCEPT_POLL_S)
                continue
            self._pool.submit(self._attend, connection)

    def _attend(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # a client that left
            connection.settimeout(TIMEOUT_S)
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if not _is_own_account(connection):
            _LOG.warning("another account reached for the host socket")
            return
        try:
            answer = {"ok": True, **self._run(_read_line(connection, MAX_LINE))}
        except KeyServiceError as exc:
            answer = {"ok": False, "reason": exc.reason.value}
        except HostRefusedError as exc:
            answer = {"ok": False, "reason": exc.reason, "detail": exc.detail}
        except VaultError as exc:
            answer = {"ok": False, "reason": exc.problem.value, "detail": str(exc)}
        except Exception:  # noqa: BLE001  # whatever broke, the socket keeps answering
            _LOG.exception("a host command failed")
            answer = {"ok": False, "reason": Reason.INTERNAL.value}
        connection.sendall(json.dumps(answer, sort_keys=True).encode() + b"\n")

    def _run(self, line: bytes) -> Mapping[str, object]:
        command = strict_json(line, limit=MAX_LINE, reason=Reason.INVALID_BODY)
        members = fields(command, required=("command",), optional=("arguments",), reason=Reason.INVALID_BODY)
        name, arguments = members["command"], members.get("arguments", {})
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            raise KeyServiceError(Reason.NOT_IMPLEMENTED, "no such command")
        if not isinstance(arguments, dict):
            raise KeyServiceError(Reason.INVALID_BODY, "arguments are no object")
        try:
            inspect.signature(handler).bind(**arguments)
        except TypeError as exc:
            raise KeyServiceError(Reason.INVALID_BODY, "not the arguments of this command") from exc
        return handler(**arguments)


def ask_host(path: Path, command: str, *, timeout_s: float = TIMEOUT_S, **arguments: object) -> dict[str, object]:
    """The answer of the signer that serves at `path`, waited for `timeout_s` seconds; `arguments` by name.

    Raises:
        HostSocketError: nobody serves there, or the answer is none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _reachable(path) as name:
                connection.connect(name)
            asked = {"command": command} | ({"arguments": arguments} if arguments else {})
            connection.sendall(canonical_json(asked) + b"\n")
            answer = json.loads(_read_line(connection, MAX_ANSWER))
        except (OSError, ValueError, KeyServiceError) as exc:
            raise HostSocketError(f"no signer answers at {path}") from exc
    if not isinstance(answer, dict):
        raise HostSocketError(f"no signer answers at {path}")
    return answer


def _read_line(connection: socket.socket, limit: int) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) <= limit:
        chunk = connection.recv(4096)
        if not chunk:
            break
        data += chunk
    if len(data) > limit:
        raise KeyServiceError(Reason.TOO_LARGE, "a line is too long")
    return data


def _is_own_account(connection: socket.socket) -> bool:
    """Whether the peer is this account or root; mode 0600 says so too, this holds where the mode was loosened."""
    if sys.platform != "linux":
        return True
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return _UCRED.unpack(raw)[1] in {os.geteuid(), 0}
