"""What `DeriveCredKek` and `SignAuditRow` check before the journal's turn, ending in the unit that it will run.

Single calls and items of batches come through here alike.
"""

from dataclasses import dataclass
from typing import Final

from agentkeys_core.audit import OpResult
from agentkeys_core.bodies import EMPTY_BODY, request_hash
from agentkeys_core.captoken import CapRequest
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Effect
from signer.acknowledgements import acknowledge, check_can_be_new, is_known
from signer.admission import OBJECT_EFFECTS, Admission, Attempt
from signer.batches import Unit
from signer.calls import Settle
from signer.keyring import Keyring
from signer.ledger import Burn, Glance
from signer.releases import SALT_LENGTH, KeyRelease, release_read, release_write

_DIGEST_LENGTH: Final = 32
_EMPTY_HASH: Final = request_hash(EMPTY_BODY)
_KEY_EFFECTS: Final = frozenset({Effect.WRITE, Effect.READ})
_ROW_EFFECTS: Final = OBJECT_EFFECTS | {Effect.LIST}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A `DeriveCredKek`: `epoch` and `salt` for reads, `expect` (empty for null) for stores and puts."""

    cap: bytes
    epoch: int = 0
    salt: bytes = b""
    expect: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    """A `SignAuditRow`: `result` as it came."""

    cap: bytes
    result: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """Checks requests in the order of design section 4 up to burn and version rule, which are the unit's."""

    admission: Admission
    keyring: Keyring
    glance: Glance

    def key(self, attempt: Attempt, asked: KeyRequest) -> Unit[KeyRelease]:
        """The unit that releases the key of one version of one object.

        Raises:
            KeyServiceError: see design section 4 and 5.
        """
        parsed = self.admission.parse(attempt, asked.cap, _KEY_EFFECTS)
        if parsed.request.rule.effect is Effect.READ:
            _check_read_shape(parsed.request, asked)
            admitted = self.admission.admit(attempt, parsed)
            return lambda tx: release_read(tx, attempt, admitted, self.keyring, epoch=asked.epoch, salt=asked.salt)
        _check_write_shape(asked)
        admitted = self.admission.admit(attempt, parsed, burn=Burn.DERIVE_CRED_KEK)
        return lambda tx: release_write(tx, attempt, admitted, self.keyring, expect=asked.expect or None)

    def row(self, attempt: Attempt, settle: Settle, asked: RowRequest) -> Unit[bytes]:
        """The unit that answers with the row of this cap and result.

        Raises:
            KeyServiceError: invalid_body; for a cap that was not released here everything of design section 4.
        """
        parsed = self.admission.parse(attempt, asked.cap, _ROW_EFFECTS)
        outcome = _outcome(asked.result)
        request = parsed.request
        settle(request.digest)
        with self.glance() as ledger:
            known = is_known(ledger.cap(request.digest), request.rule.effect)
        if known:  # the digest proves that these very bytes were authorised here
            attempt.device_verified = request.digest
            admitted = None
        else:
            check_can_be_new(request, outcome)
            check_empty_body(request)
            admitted = self.admission.admit(attempt, parsed)
        return lambda tx: acknowledge(tx, attempt, request, admitted, result=outcome)


def check_empty_body(request: CapRequest) -> None:
    """Return unless the op has the body `{}` and the request commits to another; only workers see what stores hold.

    Raises:
        KeyServiceError: invalid_body.
    """
    if request.rule.effect in (Effect.READ, Effect.DELETE) and request.request_hash != _EMPTY_HASH:
        raise KeyServiceError(Reason.INVALID_BODY, "the request commits to a body that is not {}")


def _outcome(result: int) -> OpResult:
    try:
        return OpResult(result)
    except ValueError as exc:
        raise KeyServiceError(Reason.INVALID_BODY, "result is not 0, 1 or 2") from exc


def _check_read_shape(request: CapRequest, asked: KeyRequest) -> None:
    if len(asked.salt) != SALT_LENGTH or asked.epoch < 1:
        raise KeyServiceError(Reason.INVALID_ENCODING, "a read names an epoch and a salt of 32 bytes")
    if asked.expect:
        raise KeyServiceError(Reason.INVALID_BODY, "a read expects nothing")
    check_empty_body(request)


def _check_write_shape(asked: KeyRequest) -> None:
    if asked.epoch or asked.salt:
        raise KeyServiceError(Reason.INVALID_BODY, "the signer draws the salt of a store")
    if len(asked.expect) not in (0, _DIGEST_LENGTH):
        raise KeyServiceError(Reason.INVALID_ENCODING, "expect is not a cap digest of 32 bytes")
