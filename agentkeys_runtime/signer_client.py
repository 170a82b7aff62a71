"""The signer as its callers see it: typed answers, and refusals as the `KeyServiceError` that the signer meant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import grpc

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys.signer.v1 import signer_pb2_grpc
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.ops import ObjectClass
from agentkeys_runtime.grpc_errors import from_rpc_error

Response = TypeVar("Response")

#: How long a caller waits for one answer, in seconds: well above a commit under load, below what people wait.
TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedKey:
    """The key of one version of one object. `key`, `commitment` and `salt` have 32 bytes; `row` is canonical JSON."""

    key: bytes = field(repr=False)
    commitment: bytes
    salt: bytes
    epoch: int
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSession:
    """A cloud session of 900 s and the row that records it; `expires_at` in Unix seconds."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: int
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """One name (what follows the colon) and the 32-byte cap digest of its current store."""

    name: str
    store: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPage:
    """One page of an inventory; `next` is the name to ask on after, None at the end."""

    names: tuple[ListedObject, ...]
    next: str | None
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPage:
    """Audit rows as signed, canonical JSON each; `next` is the sequence to ask on after, None at the end."""

    rows: tuple[bytes, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HashPage:
    """Hashes (32 bytes) of rows in the order of writing; all rows there are, and those of the last checkpoint."""

    hashes: tuple[bytes, ...]
    total: int
    checkpoint_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedSignature:
    """A wallet's signature that only the device can open, and the row that records it (canonical JSON)."""

    sealed: bytes = field(repr=False)
    row: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class K10Verdict:
    """Whether a device signature is valid; `reason` says why not, `binding` is the device key hash when it is."""

    valid: bool
    reason: str
    binding: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class K11Verdict:
    """Whether an assertion is valid; `reason` says why not."""

    valid: bool
    reason: str
    sign_count: int


class SignerClient:
    """Calls over a channel that its owner closes. Safe for many threads.

    Every method raises `KeyServiceError` with the signer's own reason, metadata and row, or `signer_unreachable` where
    no answer came. Asking again is safe: the signer's answers to the same cap are idempotent or say `cap_replayed`.
    """

    def __init__(self, channel: grpc.Channel, *, timeout_s: float = TIMEOUT_S) -> None:
        self._stub = signer_pb2_grpc.SignerStub(channel)
        self._timeout_s = timeout_s

    def _call(self, call: Callable[[float], Response]) -> Response:
        try:
            return call(self._timeout_s)
        except grpc.RpcError as exc:
            raise from_rpc_error(exc) from exc

    def derive_address(self, omni: bytes, *, epoch: int) -> bytes:
        """The 20-byte address of K4(omni)."""
        request = pb.DeriveAddressRequest(omni=omni, epoch=epoch)
        return self._call(lambda timeout: self._stub.DeriveAddress(request, timeout=timeout)).address

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        """The initial wallet's 65-byte signature over an Enrol change (JSON), against evidence (JSON)."""
        request = pb.AttestEnrolRequest(change=change, evidence=evidence)
        return self._call(lambda timeout: self._stub.AttestEnrol(request, timeout=timeout)).signature

    def wallet_address(self, actor_omni: bytes) -> tuple[bytes, int]:
        """Address (20 bytes) and epoch of an actor's managed wallet."""
        request = pb.DeriveAddressRequest(omni=actor_omni, wallet=True)
        answer = self._call(lambda timeout: self._stub.DeriveAddress(request, timeout=timeout))
        return answer.address, answer.epoch

    def derive_cred_kek(
        self, cap: bytes, *, epoch: int = 0, salt: bytes = b"", expect: bytes | None = None
    ) -> ReleasedKey:
        """The key of one version of one object.

        Args:
            cap: canonical JSON.
            epoch: reads: the envelope's epoch.
            salt: reads: the envelope's 32-byte salt.
            expect: stores and puts: the body's `expect`.
        """
        request = pb.DeriveCredKekRequest(cap=cap, epoch=epoch, salt=salt, expect=expect or b"")
        answer = self._call(lambda timeout: self._stub.DeriveCredKek(request, timeout=timeout))
        return released_key(answer)

    def sts_credentials(self, cap: bytes, *, role_arn: str) -> CloudSession:
        """A cloud session that opens what the cap names and nothing else."""
        request = pb.StsCredentialsRequest(cap=cap, role_arn=role_arn)
        answer = self._call(lambda timeout: self._stub.StsCredentials(request, timeout=timeout))
        return CloudSession(
            access_key_id=answer.access_key_id,
            secret_access_key=answer.secret_access_key,
            session_token=answer.session_token,
            expires_at=answer.expires_at,
            row=answer.row,
        )

    def sign_audit_row(self, cap: bytes, *, result: int) -> bytes:
        """The signed row (canonical JSON); result 0 success, 1 failure, 2 not permitted."""
        request = pb.SignAuditRowRequest(cap=cap, result=result)
        return self._call(lambda timeout: self._stub.SignAuditRow(request, timeout=timeout)).row

    def list_objects(self, cap: bytes, *, after: str | None, limit: int) -> ObjectPage:
        """One page of the names that the cap's scope grants."""
        request = pb.ListObjectsRequest(cap=cap, after=after, limit=limit)
        answer = self._call(lambda timeout: self._stub.ListObjects(request, timeout=timeout))
        return ObjectPage(
            names=tuple(ListedObject(name=entry.name, store=entry.store) for entry in answer.names),
            next=answer.next if answer.HasField("next") else None,
            row=answer.row,
        )

    def get_audit_rows(self, cap: bytes, *, after: int | None, limit: int) -> RowPage:
        """One page of audit rows."""
        request = pb.GetAuditRowsRequest(cap=cap, after=after, limit=limit)
        answer = self._call(lambda timeout: self._stub.GetAuditRows(request, timeout=timeout))
        return RowPage(rows=tuple(answer.rows), next=answer.next if answer.HasField("next") else None)

    def row_hashes(self, *, after: int, limit: int) -> HashPage:
        """Hashes of all audit rows in the order of writing, after the first `after`."""
        request = pb.GetRowHashesRequest(after=after, limit=limit)
        answer = self._call(lambda timeout: self._stub.GetRowHashes(request, timeout=timeout))
        hashes = tuple(answer.hashes[start : start + 32] for start in range(0, len(answer.hashes), 32))
        return HashPage(hashes=hashes, total=answer.total, checkpoint_size=answer.checkpoint_size)

    def sign_checkpoint(self, *, size: int, root: bytes, proof: Sequence[bytes]) -> bytes:
        """The signed note over the first `size` rows."""
        request = pb.SignCheckpointRequest(tree_size=size, root=root, consistency_proof=proof)
        return self._call(lambda timeout: self._stub.SignCheckpoint(request, timeout=timeout)).checkpoint

    def rewrap(self, *, object_class: ObjectClass, owner: bytes, service: str, envelope: bytes) -> bytes:
        """The envelope under the current epoch, while the signer's host lets it."""
        request = pb.RewrapRequest(owner=owner, service=service, envelope=envelope)
        setattr(request, "class", int(object_class))  # a keyword of this language
        return self._call(lambda timeout: self._stub.Rewrap(request, timeout=timeout)).envelope

    def sign_siwe(self, cap: bytes, *, message: str) -> SealedSignature:
        """A sign-in message signed by the actor's wallet."""
        request = pb.SignSiweRequest(cap=cap, message=message)
        answer = self._call(lambda timeout: self._stub.SignSiwe(request, timeout=timeout))
        return SealedSignature(sealed=answer.sealed, row=answer.row)

    def sign_typed_data(self, cap: bytes, *, body: bytes) -> SealedSignature:
        """Typed data signed by the actor's wallet; `body` is the request's canonical body."""
        request = pb.SignTypedDataRequest(cap=cap, typed_data=body)
        answer = self._call(lambda timeout: self._stub.SignTypedData(request, timeout=timeout))
        return SealedSignature(sealed=answer.sealed, row=answer.row)

    def verify_k10_sig(
        self,
        *,
        public_key: bytes,
        payload: bytes,
        signature: bytes,
        scheme: pb.SignatureScheme,
        purpose: str = "",
    ) -> K10Verdict:
        """Whether a device signature is valid under one of the proto's schemes; `purpose` for K10_V2 only."""
        request = pb.VerifyK10SigRequest(
            public_key=public_key, payload=payload, signature=signature, scheme=scheme, purpose=purpose
        )
        answer = self._call(lambda timeout: self._stub.VerifyK10Sig(request, timeout=timeout))
        return K10Verdict(valid=answer.valid, reason=answer.reason, binding=answer.binding or None)

    def verify_k11_assertion(self, assertion: K11Assertion, *, expected_challenge: bytes) -> K11Verdict:
        """Whether an assertion of a registered K11 key is valid for this 32-byte challenge."""
        request = pb.VerifyK11AssertionRequest(
            credential_id=assertion.credential_id,
            expected_challenge=expected_challenge,
            authenticator_data=assertion.authenticator_data,
            client_data_json=assertion.client_data_json,
            signature=assertion.signature,
        )
        answer = self._call(lambda timeout: self._stub.VerifyK11Assertion(request, timeout=timeout))
        return K11Verdict(valid=answer.valid, reason=answer.reason, sign_count=answer.sign_count)


def released_key(answer: pb.DeriveCredKekResponse) -> ReleasedKey:
    """The answer of DeriveCredKek as a value."""
    return ReleasedKey(
        key=answer.key, commitment=answer.commitment, salt=answer.salt, epoch=answer.epoch, row=answer.row
    )
