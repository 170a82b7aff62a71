"""Unsealing by a passphrase through Argon2id (RFC 9106)."""

import os
from dataclasses import dataclass
from typing import Final, cast

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from agentkeys_core.secret import Secret
from signer.ports import SealParameters, UnsealMethod, VaultError, VaultProblem
from signer.vault import SALT_LENGTH

KEY_LENGTH: Final = 32
#: The longest passphrase read from a file or descriptor, in bytes.
MAX_PASSPHRASE: Final = 4096
#: The shortest one that a new vault takes, in bytes.
MIN_PASSPHRASE: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Argon2Cost:
    """Cost of one derivation. The default is RFC 9106's second recommended choice."""

    iterations: int = 3
    lanes: int = 4
    memory_kib: int = 64 * 1024


#: What a header may ask for: a changed one must not allocate a terabyte or run for a year.
MAX_COST: Final = Argon2Cost(iterations=16, lanes=16, memory_kib=1024 * 1024)
_LEAST_MEMORY_PER_LANE_KIB: Final = 8  # RFC 9106, 3.1


class PassphraseUnsealer:
    """Owns a passphrase until it is collected or `wipe` is called; prints nothing."""

    def __init__(self, passphrase: Secret, cost: Argon2Cost | None = None) -> None:
        self._passphrase = passphrase
        self._cost = cost or Argon2Cost()

    def parameters(self) -> SealParameters:
        """This provider's cost with a fresh salt. Raises VaultError(bad_secret) where the passphrase is too short."""
        if len(self._passphrase) < MIN_PASSPHRASE:
            raise VaultError(VaultProblem.BAD_SECRET, f"a passphrase has at least {MIN_PASSPHRASE} bytes")
        cost = self._cost
        return SealParameters(
            method=UnsealMethod.PASSPHRASE,
            iterations=cost.iterations,
            lanes=cost.lanes,
            memory_kib=cost.memory_kib,
            salt=os.urandom(SALT_LENGTH),
        )

    def key(self, parameters: SealParameters) -> Secret:
        """The AEAD key. Raises VaultError: wrong_method; bad_parameters, before any memory is taken."""
        if parameters.method is not UnsealMethod.PASSPHRASE:
            raise VaultError(VaultProblem.WRONG_METHOD, "this vault is not sealed by a passphrase")
        bounded = (
            1 <= parameters.iterations <= MAX_COST.iterations
            and 1 <= parameters.lanes <= MAX_COST.lanes
            and _LEAST_MEMORY_PER_LANE_KIB * parameters.lanes <= parameters.memory_kib <= MAX_COST.memory_kib
        )
        if not bounded:
            raise VaultError(VaultProblem.BAD_PARAMETERS, "the vault's header asks for impossible Argon2id costs")
        key = bytearray(KEY_LENGTH)
        Argon2id(
            salt=parameters.salt,
            length=KEY_LENGTH,
            iterations=parameters.iterations,
            lanes=parameters.lanes,
            memory_cost=parameters.memory_kib,
        ).derive_into(cast("bytes", self._passphrase.view()), key)  # it takes any buffer, its stub only bytes
        return Secret.take(key)

    def wipe(self) -> None:
        """Forget the passphrase."""
        self._passphrase.wipe()

    def __repr__(self) -> str:
        return "<PassphraseUnsealer>"


def passphrase_secret(content: bytearray) -> Secret:
    """The passphrase in what was read from a file, descriptor or prompt: one trailing line end is not part of it."""
    end = len(content)
    if content[end - 1 : end] == b"\n":
        end -= 1
    if content[end - 1 : end] == b"\r":
        end -= 1
    passphrase = Secret.take(content[:end])
    content[:] = bytes(len(content))
    return passphrase
