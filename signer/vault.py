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

from agentkeys_core.secret import Secret
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
_EPOCH_SIZE: Final = 4 + 32
_LIMIT: Final = _HEADER.size + _COUNT.size + MAX_EPOCHS * _EPOCH_SIZE + _TAG_LENGTH


class Vault:
    """One sealed file. Opening never changes it; writing replaces it whole, durably, with mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, unsealer: Unsealer, secrets: Mapping[int, Secret]) -> None:
        """Write a new vault with `secrets` by epoch. Raises VaultError(exists) where the name is taken."""
        write_private(self.path, _sealed(unsealer, secrets), replace=False)

    def open(self, unsealer: Unsealer) -> dict[int, Secret]:
        """The secret of each held epoch.

        Raises:
            VaultError: not_found, not_a_regular_file, wrong_owner, loose_mode, too_large, not_a_vault, truncated,
                unsupported_version, wrong_method, bad_parameters, bad_content; cannot_open for a wrong passphrase or
                key, and for a changed file.
        """
        data = bytes(read_private(self.path, limit=_LIMIT))
        parameters, nonce = _parse_header(data, self.path)
        content = bytearray(len(data) - _HEADER.size - _TAG_LENGTH)
        try:
            with unsealer.key(parameters) as key:
                AESGCM(key.view()).decrypt_into(nonce, data[_HEADER.size :], data[: _HEADER.size], content)
            return _parse_content(content, self.path)
        except InvalidTag as exc:
            detail = f"{self.path} does not open: the passphrase or key is wrong, or the file was changed"
            raise VaultError(VaultProblem.CANNOT_OPEN, detail) from exc
        finally:
            content[:] = bytes(len(content))

    def add(self, unsealer: Unsealer, epoch: int, secret: Secret) -> None:
        """Hold one more epoch, sealed with fresh salt and nonce. Raises VaultError(epoch_exists), and as `open`."""
        held = self.open(unsealer)
        try:
            if epoch in held:
                raise VaultError(
                    VaultProblem.EPOCH_EXISTS, f"epoch {epoch} is held already and is never generated anew"
                )
            write_private(self.path, _sealed(unsealer, {**held, epoch: secret}), replace=True)
        finally:
            for old in held.values():
                old.wipe()


def _sealed(unsealer: Unsealer, secrets: Mapping[int, Secret]) -> bytes:
    parameters = unsealer.parameters()
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
        with unsealer.key(parameters) as key:
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
