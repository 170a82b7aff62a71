"""Rotation of K3 in two steps (design, section 7): prepare an epoch, let the host publish its keys, commit it.

A crash at any point leaves a vault that opens and one current epoch: until the commit nothing uses what was prepared,
and the commit is one transaction. An epoch that was prepared is never generated anew; preparing again returns it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey
from signer import oidc
from signer.derivation import Es256Purpose, k3_check
from signer.epoch_board import EpochBoard, take_up
from signer.gate import Gate
from signer.keyring import Keyring
from signer.ports import Clock, HostRefusedError
from signer.vault import Vault, VaultKey, new_k3

#: Between two rotations: every part and device must have met the first before there is a second.
SPACING_S: Final = 3600
#: How long every process may take to hold an epoch that was announced; they look ten times a second.
TAKE_UP_S: Final = 5.0
_POLL_S: Final = 0.02
_SERVED: Final[Mapping[Es256Purpose, str]] = {"oidc": oidc.JWKS, "audit": oidc.AUDIT_JWKS}


class RotationProblem(StrEnum):
    """Why a step of a rotation was refused."""

    TOO_SOON = "too_soon"  # less than an hour after the last one
    NOTHING_PREPARED = "nothing_prepared"
    NO_ISSUER = "no_issuer"  # no origin is configured at which the keys could be looked for
    ISSUER_UNREACHABLE = "issuer_unreachable"
    NOT_PUBLISHED = "not_published"  # the issuer's origin does not serve every held key
    NOT_HELD_EVERYWHERE = "not_held_everywhere"  # a serving process does not hold the epoch
    VAULT_CHANGED = "vault_changed"  # the file is not the one that this signer opened


class RotationError(HostRefusedError):
    """A step of a rotation was refused, and changed nothing."""

    def __init__(self, problem: RotationProblem, detail: str = "") -> None:
        super().__init__(problem.value, detail)
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """What the registry has recorded: the current epoch, each one's K3 check, when it advanced last (Unix seconds)."""

    current: int
    checks: Mapping[int, bytes]
    rotated_at: int | None


class EpochRegistry(Protocol):
    """The registry, as far as a rotation needs it. Implemented by `adapters.epoch_store.EpochStore`."""

    def record(self) -> EpochRecord:
        """What is recorded now."""
        ...

    def note(self, method: str) -> None:
        """Append a journal line of a host action, durably."""
        ...

    def advance(self, epoch: int, check: bytes) -> None:
        """Make `epoch` the current one, all or nothing."""
        ...


#: Reads a JWKS below the issuer's origin: keys by kid. Raises RotationError: no_issuer, issuer_unreachable.
ServedKeys = Callable[[str], Mapping[str, ES256PublicKey]]


def check_spacing(record: EpochRecord, *, now: float) -> None:
    """Return unless the last rotation is less than an hour ago. Raises RotationError: too_soon."""
    if record.rotated_at is not None and now - record.rotated_at < SPACING_S:
        raise RotationError(RotationProblem.TOO_SOON, "at most one rotation an hour")


class Rotation:
    """Both steps, one at a time, for the process that answers the host."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        vault: Vault,
        key: VaultKey,
        board: EpochBoard,
        registry: EpochRegistry,
        served: ServedKeys,
        gate: Gate,
        clock: Clock,
    ) -> None:
        self._keyring = keyring
        self._vault = vault
        self._key = key
        self._board = board
        self._registry = registry
        self._served = served
        self._gate = gate
        self._clock = clock
        self._lock = threading.Lock()

    def prepare(self) -> Mapping[str, object]:
        """Generate the next epoch unless that was done before; answers its number and the key documents to publish.

        Raises:
            RotationError: too_soon, vault_changed, not_held_everywhere.
            VaultError: the file cannot be read or written.
            KeyServiceError: k3_mismatch, sealed, journal_unavailable, clock_behind.
        """
        with self._lock:
            self._gate.check()
            record = self._registry.record()
            check_spacing(record, now=self._clock.now())
            self._check_vault()
            epoch = record.current + 1
            if not self._keyring.holds(epoch):
                self._generate(epoch, record)
            self._board.announce(epoch, self._keyring.k3_check(epoch))
            self._await_all(epoch)
            files = {path: data.decode() for path, data in oidc.documents(self._keyring, None).items()}
            return {"epoch": epoch, "files": files}

    def commit(self) -> Mapping[str, object]:
        """Make the prepared epoch the current one, once the issuer's origin serves its keys and all processes hold it.

        Raises:
            RotationError: any of its problems.
            KeyServiceError: k3_mismatch, sealed, journal_unavailable, clock_behind.
        """
        with self._lock:
            self._gate.check()
            record = self._registry.record()
            epoch = record.current + 1
            if not self._keyring.holds(epoch):
                raise RotationError(RotationProblem.NOTHING_PREPARED, f"epoch {record.current} is current")
            check_spacing(record, now=self._clock.now())
            self._check_vault()
            check = self._keyring.k3_check(epoch)
            self._board.announce(epoch, check)
            self._await_all(epoch)
            self._check_published()
            self._registry.advance(epoch, check)
            return {"epoch": epoch}

    def _generate(self, epoch: int, record: EpochRecord) -> None:
        if epoch in record.checks:  # recorded once, lost since: another K3 under its number would fork the deployment
            raise KeyServiceError(Reason.K3_MISMATCH, f"epoch {epoch} is recorded and not held")
        self._registry.note("rotate-prepare")
        with new_k3() as fresh:
            check = k3_check(fresh.view())
            self._vault.add(self._key, epoch, fresh)
        take_up(self._keyring, self._vault, self._key, epoch, check)  # what was written is what is held

    def _check_vault(self) -> None:
        """Return if the file holds exactly the epochs that this process holds: it may have been put back meanwhile."""
        held = self._vault.reopen(self._key)
        try:
            same = tuple(held) == self._keyring.epochs and all(
                k3_check(secret.view()) == self._keyring.k3_check(epoch) for epoch, secret in held.items()
            )
        finally:
            for secret in held.values():
                secret.wipe()
        if not same:
            raise RotationError(RotationProblem.VAULT_CHANGED, "the vault does not hold what this signer holds")

    def _await_all(self, epoch: int) -> None:
        deadline = time.monotonic() + TAKE_UP_S
        while self._board.held_by_all() < epoch:
            if time.monotonic() > deadline:
                raise RotationError(RotationProblem.NOT_HELD_EVERYWHERE, "a serving process does not hold the epoch")
            time.sleep(_POLL_S)

    def _check_published(self) -> None:
        """Return if the issuer's origin serves the public keys of every held epoch, those of the new one among them."""
        for purpose, path in _SERVED.items():
            served = self._served(path)
            for epoch in self._keyring.epochs:
                key = self._keyring.public_key(purpose, epoch)
                found = served.get(key.kid)
                if found is None or found.jwk() != key.jwk():
                    detail = f"{path} does not serve the key of epoch {epoch}"
                    raise RotationError(RotationProblem.NOT_PUBLISHED, detail)
