"""Finds the configured unseal provider and asks the host for what it needs: never in argv or environment."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentkeys_core.secret import Secret
from signer.adapters.unseal_keyfile import KeyFileUnsealer
from signer.adapters.unseal_passphrase import MAX_PASSPHRASE, PassphraseUnsealer, passphrase_secret
from signer.config import UnsealConfig
from signer.ports import Unsealer, VaultError, VaultProblem
from signer.private_files import read_descriptor, read_private


@contextmanager
def unsealer_of(
    config: UnsealConfig, *, passphrase_file: Path | None, passphrase_fd: int | None, new: bool = False
) -> Iterator[Unsealer]:
    """The provider for one use; a passphrase is wiped at the end. `new`: ask twice, as for a new vault.

    Raises:
        VaultError: as `read_private`; bad_secret where there is no terminal to ask on, or two answers differ.
    """
    if config.key_file is not None:
        if passphrase_file is not None or passphrase_fd is not None:
            raise VaultError(VaultProblem.WRONG_METHOD, "this vault is unsealed by a key file, not by a passphrase")
        yield KeyFileUnsealer(config.key_file)
        return
    with _passphrase(passphrase_file or config.passphrase_file, passphrase_fd, new=new) as passphrase:
        yield PassphraseUnsealer(passphrase)


def ask_secretly(prompt: str) -> bytearray:
    """What the host types without echo. Raises VaultError(bad_secret) without a terminal."""
    if not sys.stdin.isatty():
        raise VaultError(VaultProblem.BAD_SECRET, "no terminal to ask on: name a file or a descriptor")
    return bytearray(getpass.getpass(prompt).encode())


def _passphrase(file: Path | None, descriptor: int | None, *, new: bool) -> Secret:
    if descriptor is not None:
        try:
            return passphrase_secret(read_descriptor(descriptor, limit=MAX_PASSPHRASE, name=f"descriptor {descriptor}"))
        finally:
            if descriptor > 2:  # noqa: PLR2004  # the standard streams stay open
                os.close(descriptor)
    if file is not None:
        return passphrase_secret(read_private(file, limit=MAX_PASSPHRASE))
    first = passphrase_secret(ask_secretly("Passphrase of the vault: "))
    if new:
        with passphrase_secret(ask_secretly("Once more: ")) as second:
            if first.view() != second.view():
                first.wipe()
                raise VaultError(VaultProblem.BAD_SECRET, "the two passphrases differ")
    return first
