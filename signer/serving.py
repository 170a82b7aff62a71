"""Runs the signer until it is told to stop: one serving process, or several below a parent that only watches."""

import fcntl
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from agentkeys_runtime.descriptors import raise_descriptors
from signer.adapters.committer import Committer
from signer.adapters.database import open_state
from signer.adapters.journal_watch import JournalWatch, refuse_to_start
from signer.clock import SystemClock
from signer.config import SignerConfig
from signer.epoch_board import EpochBoard
from signer.gate import Gate
from signer.hostside import Opened, host_side
from signer.keyring import Keyring
from signer.ports import Unsealer
from signer.prefork import Children, StopFlag
from signer.vault import Vault

_OTHERS: Final = 0o077
#: Twice the connections that the port takes (`server`), so that the state file never goes without.
DESCRIPTORS: Final = 8_192


class StartError(Exception):
    """The signer cannot start; the text says what to do."""


def serve(config: SignerConfig, unsealer: Unsealer, *, allow_software_k11: bool) -> None:
    """Serve until SIGTERM or SIGINT; `ready HOST:PORT` stands on stdout once calls are answered.

    Raises:
        Exception: whatever keeps the signer from starting; nothing was served then.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a failed start says one line, and that is ours
    raise_descriptors(DESCRIPTORS)
    stop = StopFlag()
    stop.install()
    with only_signer_of(config):
        secrets, vault_key = Vault(config.vault).unlock(unsealer)
        with Keyring(secrets) as keyring:
            keyring.forget_too(vault_key.wipe)
            with closing(open_state(config.database, keyring)) as database:
                # Refuse a wrong vault, a foreign state and an older one before anything listens.
                JournalWatch(database, keyring, roll_back=refuse_to_start).close()
            opened = Opened(
                config=config,
                keyring=keyring,
                vault_key=vault_key,
                gate=Gate(),
                board=EpochBoard(config.processes),
                allow_software_k11=allow_software_k11,
                stop=stop,
            )
            if config.processes == 1:
                _serve_alone(opened)
            else:
                _serve_many(opened)


@contextmanager
def only_signer_of(config: SignerConfig) -> Iterator[None]:
    """Hold the state folder's lock. Raises StartError where another signer has it or the folder is open to others."""
    check_state_folder(config.state_dir)
    descriptor = os.open(config.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StartError(f"another signer serves from {config.state_dir}") from exc
        yield
    finally:
        os.close(descriptor)


def check_state_folder(folder: Path) -> None:
    """Refuse a folder that is none, not this account's, or open to others. Raises StartError."""
    try:
        status = folder.lstat()
    except FileNotFoundError as exc:
        raise StartError(f"{folder} does not exist; `agentkeys-signer init` makes it") from exc
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise StartError(f"{folder} is not a folder of this account")
    if status.st_mode & _OTHERS:
        raise StartError(f"{folder} is open to other accounts: chmod 700 it")


def _serve_alone(opened: Opened) -> None:
    from signer.server import SignerServer  # noqa: PLC0415  # several processes import grpc after their fork only

    config = opened.config
    _reserve(config, shared=False).close()
    with ExitStack() as stack:
        server = SignerServer(
            config,
            keyring=opened.keyring,
            gate=opened.gate,
            epochs=opened.keeper(0),
            clock=SystemClock(),
            allow_software_k11=opened.allow_software_k11,
        )
        stack.callback(server.stop)
        host = stack.enter_context(host_side(opened, server.database, server.committer))
        port = server.start(config.listen)
        host.start()
        _say_ready(config, port)
        opened.stop.wait()


def _serve_many(opened: Opened) -> None:
    config = opened.config
    with ExitStack() as stack:
        placeholder = stack.enter_context(_reserve(config, shared=True))
        port: int = placeholder.getsockname()[1]
        children = Children()
        stack.callback(children.end)
        for process in range(config.processes):
            children.fork(1, partial(_child, opened, process, f"{config.host}:{port}"))
        children.wait_ready()
        database = open_state(config.database, opened.keyring)
        stack.callback(database.close)
        committer = stack.enter_context(Committer(database, opened.keyring, SystemClock()))
        stack.enter_context(host_side(opened, database, committer)).start()
        _say_ready(config, port)
        children.supervise(opened.stop)


def _child(opened: Opened, process: int, address: str, report_ready: Callable[[], None]) -> None:
    from signer.server import SignerServer  # noqa: PLC0415  # grpc does not survive a fork

    opened.stop.install()
    server = SignerServer(
        opened.config,
        keyring=opened.keyring,
        gate=opened.gate,
        epochs=opened.keeper(process),
        clock=SystemClock(),
        allow_software_k11=opened.allow_software_k11,
        shared_port=True,
    )
    try:
        server.start(address)
        report_ready()
        opened.stop.wait()
    finally:
        server.stop()


def _reserve(config: SignerConfig, *, shared: bool) -> socket.socket:
    """A bound socket that listens to nothing: it proves that the address is free, and holds the port for the children.

    Raises:
        StartError: the address is taken or none of this machine's.
    """
    host = config.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        first = _bound(family, kind, protocol, address, shared=False)
        if not shared:
            return first
        address = first.getsockname()
        first.close()  # the children's sockets share only with one that was marked so before it was bound
        return _bound(family, kind, protocol, address, shared=True)
    except OSError as exc:
        raise StartError(f"cannot listen on {config.listen}: {exc.strerror or exc}") from exc


def _bound(
    family: socket.AddressFamily, kind: socket.SocketKind, protocol: int, address: object, *, shared: bool
) -> socket.socket:
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)  # type: ignore[arg-type]  # what getaddrinfo gave
    except OSError:
        bound.close()
        raise
    return bound


def _say_ready(config: SignerConfig, port: int) -> None:
    sys.stdout.write(f"ready {config.host}:{port}\n")
    sys.stdout.flush()
