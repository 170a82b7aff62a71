"""How all processes of one signer come to hold a new epoch before any of them serves it.

The process that generates an epoch writes the vault, then announces the epoch here, in memory that all processes
share since before they forked. Each of them takes the epoch from the vault, under the key that it inherited, and
reports it. No secret crosses a process boundary but through the sealed file.
"""

import hmac
import logging
import mmap
import struct
from typing import Final

from agentkeys_core.errors import KeyServiceError
from signer.derivation import k3_check
from signer.keyring import Keyring
from signer.ports import VaultError
from signer.vault import Vault, VaultKey

_ANNOUNCED: Final = struct.Struct("=I32s")  # epoch, K3 check
_REPORT: Final = struct.Struct("=I")
_REPORTS_AT: Final = 64
_log = logging.getLogger("agentkeys.signer.host")


class EpochBoard:
    """One announcement, and for each process the newest epoch that it holds. Make it before the processes fork."""

    __slots__ = ("_memory", "processes")

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)  # anonymous and shared with every child; 256 processes fit

    def announce(self, epoch: int, check: bytes) -> None:
        """Ask every process to take up this epoch, whose K3 has this check."""
        self._memory[_REPORT.size : _ANNOUNCED.size] = check  # first: whoever sees the epoch sees its check
        _REPORT.pack_into(self._memory, 0, epoch)

    def announced(self) -> tuple[int, bytes]:
        """The newest epoch that was announced (0: none since the start), and its check."""
        epoch, check = _ANNOUNCED.unpack_from(self._memory)
        return epoch, check

    def report(self, process: int, epoch: int) -> None:
        """Say that serving process number `process` (from 0) holds everything up to `epoch`."""
        _REPORT.pack_into(self._memory, self._place(process), epoch)

    def held_by_all(self) -> int:
        """The newest epoch that every serving process holds."""
        return min(int(_REPORT.unpack_from(self._memory, self._place(process))[0]) for process in range(self.processes))

    @staticmethod
    def _place(process: int) -> int:
        return _REPORTS_AT + _REPORT.size * process


class EpochKeeper:
    """Takes up announced epochs for one serving process."""

    def __init__(self, keyring: Keyring, vault: Vault, key: VaultKey, board: EpochBoard, process: int) -> None:
        self._keyring = keyring
        self._vault = vault
        self._key = key
        self._board = board
        self._process = process
        board.report(process, max(keyring.epochs))

    def look(self) -> None:
        """Hold what was announced and report it. What cannot be held stays unreported, so that nobody commits it."""
        epoch, check = self._board.announced()
        if not epoch or self._keyring.sealed:
            return
        try:
            if not self._keyring.holds(epoch):
                take_up(self._keyring, self._vault, self._key, epoch, check)
            self._board.report(self._process, max(self._keyring.epochs))
        except (VaultError, KeyServiceError, ValueError) as exc:
            _log.error("epoch %d was announced and cannot be taken up: %s", epoch, exc)


def take_up(keyring: Keyring, vault: Vault, key: VaultKey, epoch: int, check: bytes) -> None:
    """Hold `epoch` as the vault has it, if that is the K3 with this check.

    Raises:
        VaultError: as `Vault.reopen`.
        ValueError: the vault holds no such epoch, or another K3.
        KeyServiceError: sealed.
    """
    held = vault.reopen(key)
    secret = held.pop(epoch, None)
    for other in held.values():
        other.wipe()
    if secret is None:
        raise ValueError("the vault does not hold it")
    with secret.view() as k3:
        same = hmac.compare_digest(k3_check(k3), check)
    if not same:
        secret.wipe()
        raise ValueError("the vault holds another K3")
    keyring.hold(epoch, secret)
