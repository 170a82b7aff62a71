"""Makes a deployment's vault and state file, once."""

import os
import secrets
from contextlib import ExitStack
from typing import Final

from agentkeys_core.secret import Secret
from signer.adapters.database import StateError, initialise
from signer.config import SignerConfig
from signer.derivation import K3_LENGTH
from signer.keyring import Keyring
from signer.ports import Unsealer, VaultError, VaultProblem
from signer.private_files import read_private, write_private
from signer.serving import check_state_folder
from signer.vault import Vault

FIRST_EPOCH: Final = 1
_REGISTRY_ID_BYTES: Final = 32


def parse_k3(content: bytearray) -> Secret:
    """The secret in 32 raw bytes, or in 64 hex digits with or without a line end; wipes `content`.

    Raises:
        VaultError: bad_secret.
    """
    try:
        if len(content) == K3_LENGTH:
            return Secret.take(bytearray(content))
        text = bytes(content).strip()
        if len(text) == 2 * K3_LENGTH and text.isalnum():
            return Secret.take(bytearray(bytes.fromhex(text.decode())))
    except ValueError:
        pass
    finally:
        content[:] = bytes(len(content))
    raise VaultError(VaultProblem.BAD_SECRET, "a master secret is 32 bytes, or 64 hex digits")


def create_deployment(config: SignerConfig, unsealer: Unsealer, k3: Secret) -> str:
    """Seal `k3` as epoch 1 of a new vault, make the state file, and return the new registry's id. Takes `k3`.

    Raises:
        VaultError, StateError, StartError: something exists already or cannot be written; nothing was changed then.
    """
    folder = config.state_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_state_folder(folder)
    if config.vault.exists() or config.vault.is_symlink():
        raise VaultError(VaultProblem.EXISTS, f"{config.vault} exists and is never overwritten")
    if config.database.exists():
        raise StateError(f"{config.database} exists already; nothing was changed")
    registry_id = secrets.token_hex(_REGISTRY_ID_BYTES)
    with ExitStack() as undo, k3:
        Vault(config.vault).create(unsealer, {FIRST_EPOCH: k3})
        undo.callback(config.vault.unlink)  # without its state file it would only be in the way
        with Keyring(Vault(config.vault).open(unsealer)) as keyring:  # what was written is what opens
            initialise(config.database, registry_id=registry_id, keyring=keyring, epoch=FIRST_EPOCH)
        undo.pop_all()
    return registry_id


def ensure_key_file(config: SignerConfig) -> bool:
    """Make the key file of a vault that is to be unsealed by one, unless it is there; whether it was made.

    Raises:
        VaultError: it is there and may not be used, or cannot be written.
    """
    path = config.unseal.key_file
    if path is None:
        return False
    try:
        read_private(path, limit=K3_LENGTH)
    except VaultError as exc:
        if exc.problem is not VaultProblem.NOT_FOUND:
            raise
        write_private(path, os.urandom(K3_LENGTH), replace=False)
        return True
    return False
