"""What the signer's logic asks of the world. Adapters implement these; nothing here does I/O."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

from agentkeys_core.registry import DeviceRecord, OperatorState
from agentkeys_core.secret import Secret


class Clock(Protocol):
    """Source of the time that decisions are taken at."""

    def now(self) -> float:
        """Unix seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKey:
    """What opens one version of one object: AES-256 key and key commitment, 32 bytes each. The key never prints."""

    key: bytes = field(repr=False)
    commitment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryStatus:
    """The registry's own counters; `registry_id` is the `aud` of capability requests.

    Requests issued at `caps_after` (Unix seconds) or earlier count no more: the state was restored about then.
    """

    registry_id: str
    k3_epoch: int
    incarnation: int
    caps_after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletRef:
    """A managed wallet: K4(`omni`) at `epoch`. Both were fixed when the actor was registered."""

    omni: bytes
    epoch: int


class RegistryReader(Protocol):
    """The truth about devices, scopes and the current epoch.

    Reads raise `registry_unreachable`, `registry_stale` or `registry_rolled_back`, and never answer empty instead.
    """

    def lookup_device(self, device_key_hash: bytes) -> OperatorState | None:
        """State of the operator to which the device belongs; None for a key hash never registered."""
        ...

    def operator(self, operator_omni: bytes) -> OperatorState | None:
        """State of one operator; None where no such operator is registered."""
        ...

    def k11_by_credential(self, credential_id_hash: bytes) -> DeviceRecord | None:
        """The master device whose K11 credential has this keccak256; None for an unknown one."""
        ...

    def wallet(self, actor_omni: bytes) -> WalletRef | None:
        """Where the actor's wallet comes from; None for an `evm` master, who has a wallet of its own.

        Raises:
            KeyServiceError: actor_binding_mismatch for an actor that was never registered.
        """
        ...

    def status(self) -> RegistryStatus:
        """Registry id, current K3 epoch and incarnation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StsSession:
    """One cloud session; `expires_at` in Unix seconds. Its secret halves never print."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: int


class StsExchange(Protocol):
    """Exchanges a web identity token for a cloud session."""

    def assume_role(self, *, role_arn: str, session_name: str, token: str, policy: str) -> StsSession:
        """A session of 900 s under the inline `policy`. Raises KeyServiceError(sts_unreachable)."""
        ...


class UnsealMethod(IntEnum):
    """How the vault's key comes about; the number stands in the vault's header."""

    PASSPHRASE = 1
    KEY_FILE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SealParameters:
    """What an unseal provider reads of a vault's header: the costs of Argon2id, else 0, and a salt of 16 bytes."""

    method: UnsealMethod
    iterations: int
    lanes: int
    memory_kib: int
    salt: bytes


class Unsealer(Protocol):
    """An unseal provider: turns what only the host has into the key of the vault."""

    def parameters(self) -> SealParameters:
        """Parameters for a new seal, with a fresh salt."""
        ...

    def key(self, parameters: SealParameters) -> Secret:
        """The 32-byte AEAD key under `parameters`. Raises VaultError: wrong_method, bad_parameters."""
        ...


class HostRefusedError(Exception):
    """A host action was refused; `reason` is the stable name that the host reads, the text says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class VaultProblem(StrEnum):
    """Why a vault, or a file that unseals it, was refused."""

    NOT_FOUND = "not_found"
    EXISTS = "exists"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    WRONG_OWNER = "wrong_owner"
    LOOSE_MODE = "loose_mode"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    NOT_A_VAULT = "not_a_vault"
    TRUNCATED = "truncated"
    UNSUPPORTED_VERSION = "unsupported_version"
    WRONG_METHOD = "wrong_method"
    BAD_PARAMETERS = "bad_parameters"
    CANNOT_OPEN = "cannot_open"
    BAD_CONTENT = "bad_content"
    BAD_SECRET = "bad_secret"  # noqa: S105 (the name of a problem)
    EPOCH_EXISTS = "epoch_exists"


class VaultError(Exception):
    """A vault or an unseal file was refused; `problem` says why, the text names the file and never its content."""

    def __init__(self, problem: VaultProblem, detail: str) -> None:
        super().__init__(f"{problem}: {detail}")
        self.problem = problem
