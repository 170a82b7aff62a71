"""The `Signer` service: each method reads a message, calls the service once and writes the answer. No policy here."""

from contextlib import AbstractContextManager
from typing import Protocol

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.k11 import K11Assertion
from agentkeys_runtime.identity import CallerIdentity
from signer.rpc import batches
from signer.service import SignerService

# Method names are those of the protocol, so that the guard finds them by their descriptor.
# ruff: noqa: N802


class CallContext(Protocol):
    """What these methods ask of a call's context (see `rpc.guard`)."""

    @property
    def caller(self) -> CallerIdentity:
        """Whose certificate it is."""
        ...

    def room(self, items: int, /) -> AbstractContextManager[int]:
        """Count the items of a batch as calls in flight; gives for how many of them there is room."""
        ...


class SignerServicer:
    """Thin: refusals leave as `KeyServiceError`, and the guard turns them into statuses."""

    def __init__(self, service: SignerService) -> None:
        self._service = service

    def DeriveAddress(self, request: pb.DeriveAddressRequest, context: CallContext) -> pb.DeriveAddressResponse:
        """Address of K4(omni), or of an actor's wallet."""
        if request.wallet:
            found = self._service.wallet_address(context.caller, request.omni)
            return pb.DeriveAddressResponse(address=found.address, epoch=found.epoch)
        address = self._service.derive_address(context.caller, request.omni, request.epoch)
        return pb.DeriveAddressResponse(address=address, epoch=request.epoch)

    def DeriveCredKek(self, request: pb.DeriveCredKekRequest, context: CallContext) -> pb.DeriveCredKekResponse:
        """Key of one version of one object."""
        found = self._service.derive_cred_kek(
            context.caller, request.cap, epoch=request.epoch, salt=request.salt, expect=request.expect
        )
        return batches.released(found)

    def StsCredentials(self, request: pb.StsCredentialsRequest, context: CallContext) -> pb.StsCredentialsResponse:
        """Cloud session of one cap."""
        found = self._service.sts_credentials(context.caller, request.cap, request.role_arn)
        return pb.StsCredentialsResponse(
            access_key_id=found.session.access_key_id,
            secret_access_key=found.session.secret_access_key,
            session_token=found.session.session_token,
            expires_at=found.session.expires_at,
            row=found.row,
        )

    def SignAuditRow(self, request: pb.SignAuditRowRequest, context: CallContext) -> pb.SignAuditRowResponse:
        """Row that stands for a cap and its result."""
        return pb.SignAuditRowResponse(row=self._service.sign_audit_row(context.caller, request.cap, request.result))

    def ListObjects(self, request: pb.ListObjectsRequest, context: CallContext) -> pb.ListObjectsResponse:
        """Names from the signer's own inventory."""
        after = request.after if request.HasField("after") else None
        page = self._service.list_objects(context.caller, request.cap, after=after, limit=request.limit)
        names = [pb.ListObjectsResponse.Entry(name=found.name, store=found.store) for found in page.names]
        return pb.ListObjectsResponse(names=names, next=page.next, row=page.row)

    def GetAuditRows(self, request: pb.GetAuditRowsRequest, context: CallContext) -> pb.GetAuditRowsResponse:
        """Audit rows as signed."""
        after = request.after if request.HasField("after") else None
        page = self._service.get_audit_rows(context.caller, request.cap, after=after, limit=request.limit)
        return pb.GetAuditRowsResponse(rows=page.rows, next=page.next)

    def GetRowHashes(self, request: pb.GetRowHashesRequest, context: CallContext) -> pb.GetRowHashesResponse:
        """Hashes of all rows in the order of writing."""
        found = self._service.get_row_hashes(context.caller, after=request.after, limit=request.limit)
        return pb.GetRowHashesResponse(
            hashes=b"".join(found.hashes), total=found.total, checkpoint_size=found.checkpoint_size
        )

    def SignCheckpoint(self, request: pb.SignCheckpointRequest, context: CallContext) -> pb.SignCheckpointResponse:
        """Signed note over the first rows of all chains."""
        note = self._service.sign_checkpoint(
            context.caller, size=request.tree_size, root=request.root, proof=tuple(request.consistency_proof)
        )
        return pb.SignCheckpointResponse(checkpoint=note)

    def Rewrap(self, request: pb.RewrapRequest, context: CallContext) -> pb.RewrapResponse:
        """Envelope of a held epoch, or a legacy one, under the current epoch."""
        envelope = self._service.rewrap(
            context.caller,
            object_class=getattr(request, "class"),  # a keyword of this language
            owner=request.owner,
            service=request.service,
            envelope=request.envelope,
        )
        return pb.RewrapResponse(envelope=envelope)

    def SignSiwe(self, request: pb.SignSiweRequest, context: CallContext) -> pb.SignSiweResponse:
        """Signature over a sign-in message."""
        found = self._service.sign_siwe(context.caller, request.cap, request.message)
        return pb.SignSiweResponse(sealed=found.sealed, row=found.row)

    def SignTypedData(self, request: pb.SignTypedDataRequest, context: CallContext) -> pb.SignTypedDataResponse:
        """Signature over typed data."""
        found = self._service.sign_typed_data(context.caller, request.cap, request.typed_data)
        return pb.SignTypedDataResponse(
            sealed=found.sealed,
            digest=found.hashes.digest,
            type_hash=found.hashes.type_hash,
            domain_separator=found.hashes.domain_separator,
            intent=found.intent,
            row=found.row,
        )

    def VerifyK10Sig(self, request: pb.VerifyK10SigRequest, context: CallContext) -> pb.VerifyK10SigResponse:
        """Verdict on a device signature."""
        found = self._service.verify_k10_sig(
            context.caller,
            public_key=request.public_key,
            payload=request.payload,
            signature=request.signature,
            scheme=request.scheme,
            purpose=request.purpose,
        )
        return batches.verdict(found)

    def VerifyK11Assertion(
        self, request: pb.VerifyK11AssertionRequest, context: CallContext
    ) -> pb.VerifyK11AssertionResponse:
        """Verdict on a K11 assertion."""
        found = self._service.verify_k11_assertion(
            context.caller, _assertion(request), expected_challenge=request.expected_challenge
        )
        return pb.VerifyK11AssertionResponse(valid=found.valid, reason=found.reason, sign_count=found.sign_count)

    def AttestEnrol(self, request: pb.AttestEnrolRequest, context: CallContext) -> pb.AttestEnrolResponse:
        """Initial wallet's signature over a first bind."""
        signature = self._service.attest_enrol(context.caller, request.change, request.evidence)
        return pb.AttestEnrolResponse(signature=signature)

    def DeriveCredKekBatch(
        self, request: pb.DeriveCredKekBatchRequest, context: CallContext
    ) -> pb.DeriveCredKekBatchResponse:
        """Many DeriveCredKek, each answered by itself."""
        with context.room(len(request.items)) as room:
            found = self._service.derive_cred_kek_batch(context.caller, batches.key_requests(request, room))
        return batches.keys_released(found)

    def SignAuditRowBatch(
        self, request: pb.SignAuditRowBatchRequest, context: CallContext
    ) -> pb.SignAuditRowBatchResponse:
        """Many SignAuditRow, each answered by itself."""
        with context.room(len(request.items)) as room:
            found = self._service.sign_audit_row_batch(context.caller, batches.row_requests(request, room))
        return batches.rows_signed(found)

    def VerifyK10SigBatch(
        self, request: pb.VerifyK10SigBatchRequest, context: CallContext
    ) -> pb.VerifyK10SigBatchResponse:
        """Many VerifyK10Sig, each answered by itself."""
        with context.room(len(request.items)) as room:
            found = self._service.verify_k10_sig_batch(context.caller, batches.questions(request, room))
        return batches.verdicts(found)


def _assertion(request: pb.VerifyK11AssertionRequest) -> K11Assertion:
    return K11Assertion(
        authenticator_data=request.authenticator_data,
        client_data_json=request.client_data_json,
        credential_id=request.credential_id,
        signature=request.signature,
    )
