"""The signer over gRPC, asked with admitted requests only. What it answers is parsed here, once.

Calls of many requests travel together, so each answer is held against the request that it is for.
"""

from collections.abc import Sequence

from agentkeys_core.audit import AuditRow, OpResult
from agentkeys_core.bodies import ListAnswer, ListedName
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.merkle import HASH_BYTES
from agentkeys_runtime.signer_client import ReleasedKey, SignerClient
from worker.admission import Admitted
from worker.ports import CloudSession, HashPage, ListPage, Release, RowPage


class AdmittedSigner:
    """Implements `worker.ports.Signer`."""

    def __init__(self, client: SignerClient) -> None:
        self._client = client

    def release_for_store(self, admitted: Admitted) -> Release:
        """See the port."""
        return _release(self._client.derive_cred_kek(admitted.cap, expect=admitted.store.expect), admitted)

    def release_for_read(self, admitted: Admitted, *, epoch: int, salt: bytes) -> Release:
        """See the port."""
        return _release(self._client.derive_cred_kek(admitted.cap, epoch=epoch, salt=salt), admitted)

    def open_session(self, admitted: Admitted, *, role_arn: str) -> CloudSession:
        """See the port."""
        found = self._client.sts_credentials(admitted.cap, role_arn=role_arn)
        return CloudSession(
            access_key_id=found.access_key_id,
            secret_access_key=found.secret_access_key,
            session_token=found.session_token,
        )

    def sign_row(self, admitted: Admitted, result: OpResult) -> AuditRow:
        """See the port."""
        return _own_row(self._client.sign_audit_row(admitted.cap, result=int(result)), admitted)

    def list_objects(self, admitted: Admitted) -> ListPage:
        """See the port."""
        body = admitted.page
        page = self._client.list_objects(admitted.cap, after=body.after, limit=body.limit)
        names = tuple(ListedName(name=entry.name, store=entry.store) for entry in page.names)
        return ListPage(answer=ListAnswer(names=names, next=page.next), row=_own_row(page.row, admitted))

    def audit_rows(self, admitted: Admitted) -> RowPage:
        """See the port."""
        body = admitted.audit_page
        page = self._client.get_audit_rows(admitted.cap, after=body.after, limit=body.limit)
        return RowPage(rows=tuple(_row(row) for row in page.rows), next=page.next)


class TreeSigner:
    """Implements `worker.checkpoints.CheckpointSigner`."""

    def __init__(self, client: SignerClient) -> None:
        self._client = client

    def row_hashes(self, *, after: int, limit: int) -> HashPage:
        """See the port."""
        found = self._client.row_hashes(after=after, limit=limit)
        if any(len(each) != HASH_BYTES for each in found.hashes):
            raise KeyServiceError(Reason.INTERNAL, "the signer's hashes are malformed")
        return HashPage(hashes=found.hashes, total=found.total, checkpoint_size=found.checkpoint_size)

    def sign_checkpoint(self, *, size: int, root: bytes, proof: Sequence[bytes]) -> bytes:
        """See the port."""
        return self._client.sign_checkpoint(size=size, root=root, proof=proof)


def _release(found: ReleasedKey, admitted: Admitted) -> Release:
    row = _own_row(found.row, admitted)
    return Release(key=found.key, commitment=found.commitment, salt=found.salt, epoch=found.epoch, row=row)


def _own_row(data: bytes, admitted: Admitted) -> AuditRow:
    """The row, which must record this very request: another one's answer must never be sealed to this device."""
    row = _row(data)
    if _cap_of(row) != admitted.digest:
        raise KeyServiceError(Reason.INTERNAL, "the signer's answer is for another request")
    return row


def _cap_of(row: AuditRow) -> bytes | None:
    try:
        return row.content().op_body.cap
    except KeyServiceError as error:
        raise KeyServiceError(Reason.INTERNAL, "the signer's row is malformed") from error


def _row(data: bytes) -> AuditRow:
    try:
        return AuditRow.parse(data)
    except KeyServiceError as error:
        raise KeyServiceError(Reason.INTERNAL, "the signer's row is malformed") from error
