"""The backend's Signer service: one method an RPC, all under one lock, in memory."""

from typing import Any, Final

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.audit import OpResult
from agentkeys_core.captoken import Cap
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ops import Effect, ObjectClass
from tests.conformance.backend.attest import Attester
from tests.conformance.backend.batches import batch
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.checks import Asked, Checks, ref_of
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.memory import Memory, Used, Version
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.refused import refuse
from tests.conformance.backend.rewrap import Rewrapper
from tests.conformance.backend.sts import Sts
from tests.conformance.backend.tree import Tree
from tests.conformance.backend.verdicts import Verdicts
from tests.conformance.backend.wallets import Wallets

# Method names are those of the protocol.

MAX_PAGE: Final = 1000
OBJECTS: Final = frozenset({Effect.WRITE, Effect.READ, Effect.DELETE})


class Signer:
    """Implements the Signer service."""

    def __init__(
        self,
        *,
        keys: Keys,
        memory: Memory,
        checks: Checks,
        verdicts: Verdicts,
        wallets: Wallets,
        attester: Attester,
        rewrapper: Rewrapper,
        tree: Tree,
        sts: Sts,
        broken: Broken,
    ) -> None:
        self._keys = keys
        self._memory = memory
        self._checks = checks
        self._verdicts = verdicts
        self._sts = sts
        self._wallets = wallets
        self._broken = broken
        self.VerifyK10Sig = verdicts.k10
        self.VerifyK11Assertion = verdicts.k11
        self.AttestEnrol = attester.attest
        self.GetRowHashes = tree.hashes
        self.Rewrap = rewrapper.rewrap
        self.SignCheckpoint = tree.sign
        self.SignSiwe = wallets.siwe
        self.SignTypedData = wallets.typed
        self.DeriveCredKekBatch = batch(self.DeriveCredKek, pb.DeriveCredKekBatchResponse, broken)
        self.SignAuditRowBatch = batch(self.SignAuditRow, pb.SignAuditRowBatchResponse, broken)
        self.VerifyK10SigBatch = batch(self.VerifyK10Sig, pb.VerifyK10SigBatchResponse, broken)

    def DeriveAddress(self, asked: pb.DeriveAddressRequest, _peer: Peer) -> pb.DeriveAddressResponse:
        if len(asked.omni) != 32:
            refuse(Reason.INVALID_OMNI)
        if asked.wallet:
            epoch, address = self._wallets.address(asked.omni)
            return pb.DeriveAddressResponse(address=address, epoch=epoch)
        if not self._keys.holds(asked.epoch):
            refuse(Reason.EPOCH_NOT_HELD)
        return pb.DeriveAddressResponse(address=self._keys.address(asked.epoch, asked.omni), epoch=asked.epoch)

    def DeriveCredKek(self, asked: pb.DeriveCredKekRequest, peer: Peer) -> pb.DeriveCredKekResponse:
        cap = self._checks.parse(asked.cap, peer, frozenset({Effect.WRITE, Effect.READ}))
        if cap.request.rule.effect is Effect.READ:
            return self._read(asked, cap)
        return self._write(asked, cap)

    def _read(self, asked: pb.DeriveCredKekRequest, cap: Cap) -> pb.DeriveCredKekResponse:
        if len(asked.salt) != 32 or asked.epoch < 1:
            refuse(Reason.INVALID_ENCODING)
        if asked.expect or cap.request.request_hash != sha256(b"{}"):
            refuse(Reason.INVALID_BODY)
        admitted = self._checks.admit(cap, replacing=False)
        version = self._open_version(admitted, asked)
        answer = self._answer(admitted, version)
        used = self._memory.used[cap.digest]
        used.spent.add("read")
        used.row = answer.row
        return answer

    def _open_version(self, admitted: Asked, asked: pb.DeriveCredKekRequest) -> Version:
        stored = self._memory.objects.get(admitted.ref)
        version = None if stored is None else stored.find(asked.salt)
        if "ignore-version-rule" in self._broken and stored is not None and version is None:
            version = next((found for found in stored.versions if found.salt == asked.salt), None)
        if stored is None or version is None:
            refuse(Reason.VERSION_NOT_CURRENT)
        if not self._keys.holds(asked.epoch):
            refuse(Reason.EPOCH_NOT_HELD)
        if version.epoch != asked.epoch:
            refuse(Reason.VERSION_NOT_CURRENT)
        if version is not stored.current and not version.closed:
            guarded = version.rewrapped or admitted.request.rule.object_class is ObjectClass.CREDENTIALS
            if guarded and version.expect != stored.store:
                refuse(Reason.VERSION_NOT_CURRENT)
            self._memory.check_free(admitted.ref, version.store)
            self._memory.check_nothing_under_way(admitted.ref, version.store)
            self._make_current(stored, version)
        return version

    def _make_current(self, stored: Any, version: Version) -> None:
        stored.make_current(version)
        used = self._memory.used[version.store]
        if used.outcome is None:
            used.outcome, used.outcome_row = int(OpResult.SUCCESS), used.row

    def _write(self, asked: pb.DeriveCredKekRequest, cap: Cap) -> pb.DeriveCredKekResponse:
        if asked.epoch or asked.salt:
            refuse(Reason.INVALID_BODY)
        if len(asked.expect) not in (0, 32):
            refuse(Reason.INVALID_ENCODING)
        ref, used = ref_of(cap.request), self._memory.used.get(cap.digest, Used())
        stored = self._memory.objects.get(ref)
        current = None if stored is None else stored.store
        admitted = self._checks.admit(cap, replacing="key" not in used.spent and current not in (None, cap.digest))
        if ("key" in used.spent or used.outcome is not None) and "no-burn" not in self._broken:
            raise _replayed(used)
        if (asked.expect or None) != current and "ignore-version-rule" not in self._broken:
            refuse(Reason.VERSION_NOT_CURRENT)
        version = self._memory.issue(ref, store=cap.digest, expect=asked.expect or None)
        answer = self._answer(admitted, version)
        used = self._memory.used[cap.digest]
        used.spent.add("key")
        used.row, used.version = answer.row, version
        self._memory.begin(ref, cap.digest)
        return answer

    def _answer(self, admitted: Asked, version: Version) -> pb.DeriveCredKekResponse:
        owner, kind, service = admitted.ref
        key, commitment = self._keys.object_key(version.epoch, kind, owner, service, version.salt)
        return pb.DeriveCredKekResponse(
            key=key,
            commitment=commitment,
            salt=version.salt,
            epoch=version.epoch,
            row=self._memory.record(admitted.request, version=version),
        )

    def SignAuditRow(self, asked: pb.SignAuditRowRequest, peer: Peer) -> pb.SignAuditRowResponse:
        cap = self._checks.parse(asked.cap, peer, OBJECTS | {Effect.LIST})
        if asked.result not in tuple(OpResult):
            refuse(Reason.INVALID_BODY)
        result, used = OpResult(asked.result), self._memory.used.get(cap.digest)
        deleting = cap.request.rule.effect is Effect.DELETE
        if used is not None and (used.outcome is not None or (used.spent and not deleting)):
            return pb.SignAuditRowResponse(row=self._outcome(cap, used, result))
        if result is OpResult.SUCCESS and not deleting:
            refuse(Reason.INVALID_BODY)
        self._empty_body(cap)
        admitted = self._checks.admit(cap, replacing=self._replaces(cap))
        if result is OpResult.SUCCESS:
            self._memory.objects.pop(admitted.ref, None)
            self._memory.dropped.add(admitted.ref)
        row = self._memory.record(cap.request, result=result)
        used = self._memory.used[cap.digest]
        used.row = used.outcome_row = row
        used.outcome = int(result)
        return pb.SignAuditRowResponse(row=row)

    def _replaces(self, cap: Cap) -> bool:
        stored = self._memory.objects.get(ref_of(cap.request))
        return stored is not None and stored.store not in (None, cap.digest)

    def _outcome(self, cap: Cap, used: Used, result: OpResult) -> bytes:
        if used.outcome is not None and used.outcome_row is not None:
            if used.outcome != result:
                raise KeyServiceError(Reason.CAP_REPLAYED, row=used.outcome_row)
            if cap.request.rule.effect is Effect.DELETE:
                self._memory.let_go(ref_of(cap.request), cap.digest)
            if "fresh-row-on-repeat" in self._broken:
                return self._memory.record(cap.request, result=result)
            return used.outcome_row
        if result is not OpResult.SUCCESS:
            row = self._memory.record(cap.request, result=result)
            if "session" in used.spent and "key" not in used.spent:
                self._memory.let_go(ref_of(cap.request), cap.digest)
        else:
            if used.row is None:
                refuse(Reason.INVALID_BODY)
            if cap.request.rule.effect is Effect.WRITE:
                self._acknowledge(cap, used)
            row = used.row
        used.outcome, used.outcome_row = int(result), row
        return row

    def _acknowledge(self, cap: Cap, used: Used) -> None:
        if used.version is None:
            refuse(Reason.INVALID_BODY)
        ref = ref_of(cap.request)
        stored, holder = self._memory.objects.get(ref), self._memory.holds.get(ref, (cap.digest, 0.0))[0]
        if "session" in used.spent and holder != cap.digest:
            refuse(Reason.VERSION_NOT_CURRENT)
        if stored is None or used.version not in stored.versions or used.version.closed:
            refuse(Reason.VERSION_NOT_CURRENT)
        if used.version.expect != stored.store:
            refuse(Reason.VERSION_NOT_CURRENT)
        stored.make_current(used.version)
        self._memory.let_go(ref, cap.digest)

    def _empty_body(self, cap: Cap) -> None:
        """The body of reads and deletes is `{}`."""
        if cap.request.rule.effect in {Effect.READ, Effect.DELETE} and cap.request.request_hash != sha256(b"{}"):
            refuse(Reason.INVALID_BODY)

    def StsCredentials(self, asked: pb.StsCredentialsRequest, peer: Peer) -> pb.StsCredentialsResponse:
        cap = self._checks.parse(asked.cap, peer, OBJECTS)
        self._sts.check_role(peer.kind, asked.role_arn)
        self._empty_body(cap)
        request, used = cap.request, self._memory.used.get(cap.digest, Used())
        effect, carried_out = request.rule.effect, used.outcome == OpResult.SUCCESS
        again = effect is Effect.DELETE and carried_out
        spent = not again and ("session" in used.spent or (effect is Effect.WRITE and used.outcome is not None))
        admitted = self._checks.admit(cap, replacing=not spent and self._replaces(cap))
        if request.rule.once:
            if spent:
                raise _replayed(used)
            if again and admitted.ref in self._memory.objects:
                refuse(Reason.VERSION_NOT_CURRENT)
            self._memory.check_free(admitted.ref, cap.digest)
        session = self._sts.exchange(admitted, asked.role_arn)
        row = self._memory.record(request)
        used = self._memory.used[cap.digest]
        if request.rule.once:
            self._memory.hold(admitted.ref, cap.digest)
        used.spent.add("session" if request.rule.once else "read")
        used.row = row if used.row is None or not request.rule.once else used.row
        session.row = row
        return session

    def ListObjects(self, asked: pb.ListObjectsRequest, peer: Peer) -> pb.ListObjectsResponse:
        cap = self._checks.parse(asked.cap, peer, frozenset({Effect.LIST}))
        after = asked.after if asked.HasField("after") else None
        self._page(cap, after, asked.limit)
        admitted = self._checks.admit(cap, replacing=False)
        kind, prefix = cap.request.rule.object_class, f"{cap.request.rule.prefix}:"
        owner = admitted.owner
        found = {
            service.removeprefix(prefix): stored.store
            for (holder, of_kind, service), stored in self._memory.objects.items()
            if (holder, of_kind) == (owner, kind) and stored.store is not None
        }
        if not admitted.device.is_master and "leak-scope-in-list" not in self._broken:
            scope = admitted.operator.scopes.get(admitted.device.actor, set())
            found = {name: store for name, store in found.items() if prefix + name in scope}
        names = sorted(name for name in found if after is None or name > after)
        shown = names[: asked.limit]
        row = self._memory.record(cap.request)
        self._memory.used[cap.digest].spent.add("read")
        self._memory.used[cap.digest].row = row
        return pb.ListObjectsResponse(
            names=[pb.ListObjectsResponse.Entry(name=name, store=found[name]) for name in shown],
            next=shown[-1] if len(names) > len(shown) else None,
            row=row,
        )

    def _page(self, cap: Cap, after: object, limit: int) -> None:
        """The request commits to this very page."""
        body = canonical_json({"after": after, "limit": limit})
        if not 1 <= limit <= MAX_PAGE or cap.request.request_hash != sha256(body):
            refuse(Reason.INVALID_BODY)

    def GetAuditRows(self, asked: pb.GetAuditRowsRequest, peer: Peer) -> pb.GetAuditRowsResponse:
        cap = self._checks.parse(asked.cap, peer, frozenset({Effect.AUDIT}))
        after = asked.after if asked.HasField("after") else None
        self._page(cap, after, asked.limit)
        self._checks.admit(cap, replacing=False)
        request, first = cap.request, 0 if after is None else after + 1
        if request.service.text == "audit:tree":
            places = [
                (place, row)
                for place, (operator, row) in enumerate(self._memory.log)
                if place >= first and operator == request.operator_omni
            ]
        else:
            chain = self._memory.chains.get(request.actor_omni, [])
            places = list(enumerate(chain))[first:]
        shown = places[: asked.limit]
        more = len(places) > len(shown)
        return pb.GetAuditRowsResponse(rows=[row.encode() for _, row in shown], next=shown[-1][0] if more else None)


def _replayed(used: Used) -> KeyServiceError:
    """Of an acknowledged store the refusal carries the row."""
    row = used.outcome_row if used.outcome == OpResult.SUCCESS else None
    return KeyServiceError(Reason.CAP_REPLAYED, row=row)
