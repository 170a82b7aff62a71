"""The signer's client of workers: concurrent `DeriveCredKek` and `SignAuditRow` calls travel in batches."""

import time
from collections.abc import Sequence

import grpc

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.errors import KeyServiceError
from agentkeys_runtime.gatherer import Gatherer
from agentkeys_runtime.grpc_errors import from_item_error
from agentkeys_runtime.signer_client import TIMEOUT_S, ReleasedKey, SignerClient, released_key


class GatheringSignerClient(SignerClient):
    """As `SignerClient`; what several threads ask at once goes in one call, and each gets its own answer or refusal."""

    def __init__(self, channel: grpc.Channel, *, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(channel, timeout_s=timeout_s)
        self._keys: Gatherer[pb.DeriveCredKekRequest, pb.DeriveCredKekResponse] = Gatherer(
            one=self._key, many=self._many_keys, size=pb.DeriveCredKekRequest.ByteSize
        )
        self._rows: Gatherer[pb.SignAuditRowRequest, pb.SignAuditRowResponse] = Gatherer(
            one=self._row, many=self._many_rows, size=pb.SignAuditRowRequest.ByteSize
        )

    def derive_cred_kek(
        self, cap: bytes, *, epoch: int = 0, salt: bytes = b"", expect: bytes | None = None
    ) -> ReleasedKey:
        """See `SignerClient`."""
        request = pb.DeriveCredKekRequest(cap=cap, epoch=epoch, salt=salt, expect=expect or b"")
        return released_key(self._keys.ask(request, deadline=self._deadline()))

    def sign_audit_row(self, cap: bytes, *, result: int) -> bytes:
        """See `SignerClient`."""
        request = pb.SignAuditRowRequest(cap=cap, result=result)
        return self._rows.ask(request, deadline=self._deadline()).row

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s

    def _key(self, request: pb.DeriveCredKekRequest, deadline: float) -> pb.DeriveCredKekResponse:
        return self._call(lambda _: self._stub.DeriveCredKek(request, timeout=_left(deadline)))

    def _many_keys(
        self, requests: Sequence[pb.DeriveCredKekRequest], deadline: float
    ) -> list[pb.DeriveCredKekResponse | KeyServiceError]:
        batch = pb.DeriveCredKekBatchRequest(items=requests)
        answer = self._call(lambda _: self._stub.DeriveCredKekBatch(batch, timeout=_left(deadline)))
        return [item.response if item.HasField("response") else from_item_error(item.error) for item in answer.items]

    def _row(self, request: pb.SignAuditRowRequest, deadline: float) -> pb.SignAuditRowResponse:
        return self._call(lambda _: self._stub.SignAuditRow(request, timeout=_left(deadline)))

    def _many_rows(
        self, requests: Sequence[pb.SignAuditRowRequest], deadline: float
    ) -> list[pb.SignAuditRowResponse | KeyServiceError]:
        batch = pb.SignAuditRowBatchRequest(items=requests)
        answer = self._call(lambda _: self._stub.SignAuditRowBatch(batch, timeout=_left(deadline)))
        return [item.response if item.HasField("response") else from_item_error(item.error) for item in answer.items]


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
