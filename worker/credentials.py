"""Store, fetch, list and delete: from an admitted request to the sealed answer and its signed row.

Nothing here names the class: it is the admitted request's, so a worker of another class serves its objects alike.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.audit import AuditRow, OpResult
from agentkeys_core.bodies import DeleteAnswer, StoreAnswer
from agentkeys_core.envelope import Envelope, ObjectPlaintext, seal_envelope
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.secret import Secret
from worker.admission import Admitted
from worker.ports import ObjectStore, Release, Signer

#: Reads that a concurrent store overtakes are repeated.
READ_TRIES: Final = 3
#: Pauses in seconds before an acknowledgement that got no answer is asked for again; the signer answers repeats alike.
ACKNOWLEDGE_PAUSES_S: Final = (0.1, 0.4)
MAX_UNACKNOWLEDGED: Final = 1024
#: Reasons that leave open whether the signer did what it was asked.
_UNDECIDED: Final = frozenset({Reason.SIGNER_UNREACHABLE, Reason.JOURNAL_UNAVAILABLE, Reason.INTERNAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is answered: the signed row of this operation (None for audit-list) and the plaintext to be sealed."""

    row: AuditRow | None
    plaintext: bytes = field(repr=False)


class ObjectService:
    """The operations on objects. Safe for many threads."""

    def __init__(
        self,
        *,
        signer: Signer,
        objects: ObjectStore,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._signer = signer
        self._objects = objects
        self._sleep = sleep
        self._unacknowledged = _Unacknowledged()

    def store(self, admitted: Admitted) -> Outcome:
        """Encrypt and keep the value; it is current once this returns. Asking again with the same cap is safe.

        Raises:
            KeyServiceError: the signer's refusal; `object_store_unavailable` with the signed row of the failure.
        """
        with self._objects.hold(admitted) as held:
            written = self._unacknowledged.get(admitted.digest)
            if written is not None and held.is_unchanged(written):
                return self._acknowledge(admitted, written)
            try:
                held.claim()
                release = self._signer.release_for_store(admitted)
            except KeyServiceError as error:
                return _stored(_row_of_replay(error, admitted))
            data = _sealed_object(admitted, release)
            try:
                version = held.write(data)
            except KeyServiceError as error:
                raise self._failed(admitted, error) from error
            return self._acknowledge(admitted, version)

    def fetch(self, admitted: Admitted) -> Outcome:
        """Open the current version: what the store committed to, and that store's row; `row` records this fetch.

        Raises:
            KeyServiceError: the signer's refusal; `object_not_found`, `invalid_envelope`, `unsupported_version`,
                `class_mismatch`, `object_store_unavailable`, each with the signed row of the failure.
        """
        read = self._objects.reader(admitted)
        data = self._existing(admitted, read)
        for _ in range(READ_TRIES - 1):
            try:
                return self._open(admitted, data)
            except KeyServiceError as error:
                if error.reason is not Reason.VERSION_NOT_CURRENT:
                    raise
                before, data = data, self._existing(admitted, read)
                if data == before:
                    raise
        return self._open(admitted, data)

    def delete(self, admitted: Admitted) -> Outcome:
        """Close every version, then remove the object. Nothing to remove is fine, and asking again with the same cap.

        A repeat is answered alike, but removes only the very version that the first attempt met: whoever keeps a cap
        and sends it again does not destroy what was stored since.

        Raises:
            KeyServiceError: the signer's refusal; `object_store_unavailable`: closed, but not removed yet.
        """
        with self._objects.hold(admitted) as held:
            removal = held.removal()
            try:
                row = self._signer.sign_row(admitted, OpResult.SUCCESS)
            except KeyServiceError as error:
                if error.reason not in _UNDECIDED:
                    removal.refuse()
                raise
            removal.carry_out()
        return Outcome(row=row, plaintext=DeleteAnswer(row_hash=row.row_hash).encode())

    def list(self, admitted: Admitted) -> Outcome:
        """The names that the scope grants, from the signer's own inventory."""
        page = self._signer.list_objects(admitted)
        return Outcome(row=page.row, plaintext=page.answer.encode())

    def _acknowledge(self, admitted: Admitted, version: bytes) -> Outcome:
        """Make what was written current. While no answer comes it is remembered: asking again ends it."""
        self._unacknowledged.add(admitted.digest, version)
        for pause in (*ACKNOWLEDGE_PAUSES_S, None):
            try:
                row = self._signer.sign_row(admitted, OpResult.SUCCESS)
            except KeyServiceError as error:
                if error.reason not in _UNDECIDED:
                    self._unacknowledged.drop(admitted.digest)
                    raise
                if pause is None:
                    raise
                self._sleep(pause)
            else:
                break
        self._unacknowledged.drop(admitted.digest)
        return _stored(row)

    def _open(self, admitted: Admitted, data: bytes) -> Outcome:
        try:
            envelope = _parsed(admitted, data)
        except KeyServiceError as error:
            raise self._failed(admitted, error) from error
        release = self._signer.release_for_read(admitted, epoch=envelope.epoch, salt=envelope.salt)
        try:
            with Secret.copy_of(release.key) as key:
                plaintext = envelope.decrypt(
                    key, release.commitment, owner=admitted.owner, service=admitted.request.service
                )
            ObjectPlaintext.parse(plaintext)
        except KeyServiceError as error:
            raise self._failed(admitted, error) from error
        return Outcome(row=release.row, plaintext=plaintext)

    def _existing(self, admitted: Admitted, read: Callable[[], bytes | None]) -> bytes:
        try:
            data = read()
        except KeyServiceError as error:
            raise self._failed(admitted, error) from error
        if data is None:
            raise self._failed(admitted, KeyServiceError(Reason.OBJECT_NOT_FOUND, "nothing is stored under this name"))
        return data

    def _failed(self, admitted: Admitted, error: KeyServiceError) -> KeyServiceError:
        """The refusal with the signed row that records it; without that row there is no answer but the signer's own."""
        row = self._signer.sign_row(admitted, OpResult.FAILURE)
        return KeyServiceError(error.reason, error.detail, metadata=error.metadata, row=row.encode())


class _Unacknowledged:
    """Stores that are written, and whose acknowledgement got no answer. Bounded; forgotten ones need a new request.

    By cap digest, with the version of the object written: one that was overwritten since is not acknowledged any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, digest: bytes) -> bytes | None:
        with self._lock:
            return self._versions.get(digest)

    def add(self, digest: bytes, version: bytes) -> None:
        with self._lock:
            self._versions[digest] = version
            if len(self._versions) > MAX_UNACKNOWLEDGED:
                self._versions.popitem(last=False)

    def drop(self, digest: bytes) -> None:
        with self._lock:
            self._versions.pop(digest, None)


def _row_of_replay(error: KeyServiceError, admitted: Admitted) -> AuditRow:
    """The row of a store that was acknowledged before: its answer got lost, and is given again."""
    if error.reason is not Reason.CAP_REPLAYED or error.row is None:
        raise error
    try:
        row = AuditRow.parse(error.row)
        recorded = row.content().op_body.cap
    except KeyServiceError as malformed:
        raise KeyServiceError(Reason.INTERNAL, "the signer's row is malformed") from malformed
    if recorded != admitted.digest:
        raise KeyServiceError(Reason.INTERNAL, "the signer's row is another request's")
    return row


def _stored(row: AuditRow) -> Outcome:
    return Outcome(row=row, plaintext=StoreAnswer(row_hash=row.row_hash).encode())


def _parsed(admitted: Admitted, data: bytes) -> Envelope:
    """The header, once it could be that of what was asked for; the class is the request's, never the envelope's."""
    envelope = Envelope.parse(data)
    envelope.expect_class(admitted.object_class)
    if envelope.epoch < 1:
        raise KeyServiceError(Reason.INVALID_ENVELOPE, "epoch")
    return envelope


def _sealed_object(admitted: Admitted, release: Release) -> bytes:
    plaintext = ObjectPlaintext(body=admitted.body_bytes, row=release.row).encode()
    with Secret.copy_of(release.key) as key:
        return seal_envelope(
            key,
            epoch=release.epoch,
            object_class=admitted.object_class,
            salt=release.salt,
            commitment=release.commitment,
            owner=admitted.owner,
            service=admitted.request.service,
            plaintext=plaintext,
        )
