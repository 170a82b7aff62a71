"""The sealed file that holds every epoch of K3 (design, section 7).

Layout: header (58 bytes, authenticated as AAD) || AES-256-GCM ciphertext || tag (16). All integers big endian.
Header: magic (16) || version (1) || unseal method (1) || iterations (4) || lanes (4) || memory in KiB (4)
|| salt (16) || nonce (12).
Content: count (2), then per epoch ascending: epoch (4) || K3 (32).
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.secret import Secret
from signer.derivation import K3_LENGTH
from signer.ports import SealParameters, Unsealer, UnsealMethod, VaultError, VaultProblem
from signer.private_files import read_private, write_private

MAGIC: Final = b"agentkeys-vault\x00"
VERSION: Final = 1
SALT_LENGTH: Final = 16
MAX_EPOCHS: Final = 1000
_NONCE_LENGTH: Final = 12
_TAG_LENGTH: Final = 16
_HEADER: Final = struct.Struct(">16sBBIII16s12s")
_COUNT: Final = struct.Struct(">H")
_EPOCH_SIZE: Final = 4 + K3_LENGTH
MAX_VAULT_BYTES: Final = _HEADER.size + _COUNT.size + MAX_EPOCHS * _EPOCH_SIZE + _TAG_LENGTH


def new_k3() -> Secret:
    """32 bytes from the system's random source."""
    return Secret.take(bytearray(os.urandom(K3_LENGTH)))


class VaultKey:
    """The AEAD key of one sealed file, beside the parameters that it came from; prints nothing.

    A serving signer keeps it, so that a rotation needs no passphrase: it opens nothing that the held epochs do not
    open already (docs/adr/0019).
    """

    __slots__ = ("parameters", "secret")

    def __init__(self, secret: Secret, parameters: SealParameters) -> None:
        self.secret = secret
        self.parameters = parameters

    def wipe(self) -> None:
        """Forget the key."""
        self.secret.wipe()

    def __repr__(self) -> str:
        return "<VaultKey>"


class Vault:
    """One sealed file. Opening never changes it; writing replaces it whole, durably, with mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, unsealer: Unsealer, secrets: Mapping[int, Secret]) -> None:
        """Write a new vault with `secrets` by epoch. Raises VaultError(exists) where the name is taken."""
        parameters = unsealer.parameters()
        with unsealer.key(parameters) as key:
            write_private(self.path, _sealed(key, parameters, secrets), replace=False)

    def open(self, unsealer: Unsealer) -> dict[int, Secret]:
        """The secret of each held epoch; raises as `unlock`."""
        secrets, key = self.unlock(unsealer)
        key.wipe()
        return secrets

    def unlock(self, unsealer: Unsealer) -> tuple[dict[int, Secret], VaultKey]:
        """The secret of each held epoch, and the key that opens this file until it is sealed anew.

        Raises:
            VaultError: not_found, not_a_regular_file, wrong_owner, loose_mode, too_large, not_a_vault, truncated,
                unsupported_version, wrong_method, bad_parameters, bad_content; cannot_open for a wrong passphrase or
                key, and for a changed file.
        """
        data = self._read()
        parameters, _ = _parse_header(data, self.path)
        key = unsealer.key(parameters)
        try:
            return self._opened(data, key), VaultKey(key, parameters)
        except BaseException:
            key.wipe()
            raise

    def reopen(self, key: VaultKey) -> dict[int, Secret]:
        """The secret of each epoch that the file holds by now. Raises as `unlock`, and KeyServiceError(sealed)."""
        if key.secret.wiped:
            raise KeyServiceError(Reason.SEALED, "the vault's key is gone")
        return self._opened(self._read(), key.secret)

    def add(self, key: VaultKey, epoch: int, secret: Secret) -> None:
        """Hold one more epoch, under the same key and a fresh nonce. Raises epoch_exists, else as `reopen`."""
        held = self.reopen(key)
        try:
            if epoch in held:
                raise VaultError(
                    VaultProblem.EPOCH_EXISTS, f"epoch {epoch} is held already and is never generated anew"
                )
            content = _sealed(key.secret, key.parameters, {**held, epoch: secret})
            write_private(self.path, content, replace=True)
        finally:
            for old in held.values():
                old.wipe()

    def _read(self) -> bytes:
        return bytes(read_private(self.path, limit=MAX_VAULT_BYTES))

    def _opened(self, data: bytes, key: Secret) -> dict[int, Secret]:
        _, nonce = _parse_header(data, self.path)
        content = bytearray(len(data) - _HEADER.size - _TAG_LENGTH)
        try:
            AESGCM(key.view()).decrypt_into(nonce, data[_HEADER.size :], data[: _HEADER.size], content)
            return _parse_content(content, self.path)
        except InvalidTag as exc:
            detail = f"{self.path} does not open: the passphrase or key is wrong, or the file was changed"
            raise VaultError(VaultProblem.CANNOT_OPEN, detail) from exc
        finally:
            content[:] = bytes(len(content))


def _sealed(key: Secret, parameters: SealParameters, secrets: Mapping[int, Secret]) -> bytes:
    nonce = os.urandom(_NONCE_LENGTH)
    costs = (parameters.iterations, parameters.lanes, parameters.memory_kib)
    header = _HEADER.pack(MAGIC, VERSION, parameters.method, *costs, parameters.salt, nonce)
    content = bytearray(_COUNT.size + len(secrets) * _EPOCH_SIZE)
    _COUNT.pack_into(content, 0, len(secrets))
    try:
        for position, epoch in enumerate(sorted(secrets)):
            start = _COUNT.size + position * _EPOCH_SIZE
            content[start : start + 4] = epoch.to_bytes(4, "big")
            with secrets[epoch].view() as k3:
                content[start + 4 : start + _EPOCH_SIZE] = k3
        return header + AESGCM(key.view()).encrypt(nonce, content, header)
    finally:
        content[:] = bytes(len(content))


def _parse_header(data: bytes, path: Path) -> tuple[SealParameters, bytes]:
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise VaultError(VaultProblem.NOT_A_VAULT, f"{path} is not a vault")
    if len(data) < _HEADER.size + _COUNT.size + _EPOCH_SIZE + _TAG_LENGTH:
        raise VaultError(VaultProblem.TRUNCATED, f"{path} is cut short")
    _, version, method, iterations, lanes, memory_kib, salt, nonce = _HEADER.unpack_from(data)
    if version != VERSION:
        raise VaultError(
            VaultProblem.UNSUPPORTED_VERSION, f"{path} has vault version {version}, this program reads {VERSION}"
        )
    try:
        known = UnsealMethod(method)
    except ValueError as exc:
        raise VaultError(VaultProblem.WRONG_METHOD, f"{path} names the unknown unseal method {method}") from exc
    parameters = SealParameters(method=known, iterations=iterations, lanes=lanes, memory_kib=memory_kib, salt=salt)
    return parameters, nonce


def _parse_content(content: bytearray, path: Path) -> dict[int, Secret]:
    (count,) = _COUNT.unpack_from(content)
    if not count or len(content) != _COUNT.size + count * _EPOCH_SIZE:
        raise VaultError(VaultProblem.BAD_CONTENT, f"{path} opens but does not hold what a vault holds")
    secrets: dict[int, Secret] = {}
    for start in range(_COUNT.size, len(content), _EPOCH_SIZE):
        epoch = int.from_bytes(content[start : start + 4], "big")
        if epoch <= max(secrets, default=0):
            raise VaultError(VaultProblem.BAD_CONTENT, f"{path} does not hold its epochs in order")
        secrets[epoch] = Secret.take(content[start + 4 : start + _EPOCH_SIZE])
    return secrets
