"""Unsealing by a key file: 32 random bytes, mode 0600."""

import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentkeys_core.secret import Secret
from signer.ports import SealParameters, UnsealMethod, VaultError, VaultProblem
from signer.private_files import read_private
from signer.vault import SALT_LENGTH

KEY_LENGTH: Final = 32
_INFO: Final = b"agentkeys.vault.key-file.v1"


class KeyFileUnsealer:
    """Reads its key file anew for each derivation, so that the key lives no longer than needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def parameters(self) -> SealParameters:
        """No costs, a fresh salt: each seal has its own AEAD key."""
        return SealParameters(
            method=UnsealMethod.KEY_FILE, iterations=0, lanes=0, memory_kib=0, salt=os.urandom(SALT_LENGTH)
        )

    def key(self, parameters: SealParameters) -> Secret:
        """HKDF-SHA256 of the file under the header's salt.

        Raises:
            VaultError: wrong_method; bad_secret for a file of another length; as `read_private`.
        """
        if parameters.method is not UnsealMethod.KEY_FILE:
            raise VaultError(VaultProblem.WRONG_METHOD, "this vault is not sealed by a key file")
        if parameters.iterations or parameters.lanes or parameters.memory_kib:
            raise VaultError(VaultProblem.BAD_PARAMETERS, "a key file has no Argon2id costs")
        with Secret.take(read_private(self.path, limit=KEY_LENGTH)) as material:
            if len(material) != KEY_LENGTH:
                raise VaultError(VaultProblem.BAD_SECRET, f"{self.path} does not hold exactly {KEY_LENGTH} bytes")
            key = bytearray(KEY_LENGTH)
            HKDF(SHA256(), KEY_LENGTH, parameters.salt, _INFO).derive_into(material.view(), key)
        return Secret.take(key)

    def __repr__(self) -> str:
        return f"<KeyFileUnsealer {self.path}>"
