"""The signer's use cases. Each method is one RPC of design section 5, after the guard let its caller in.

The order of checks is that of section 4 and stands in `admission` (class to K11), then in `releases` and
`acknowledgements` (burn, version rule, derivation, row and journal line in one transaction). What is refused is
recorded here.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.ops import Effect
from agentkeys_runtime.identity import CallerIdentity
from signer.admission import OBJECT_EFFECTS, Admission, Attempt, ServicePolicy
from signer.attesting import Attesting
from signer.batches import Batch, Outcome
from signer.calls import Calls
from signer.checkpoints import Checkpoints, RowHashes
from signer.gate import Gate
from signer.keyring import Keyring
from signer.ledger import Burn, Glance, Journalist, Snapshot
from signer.limits import Limits
from signer.listings import AuditPage, ListPage, check_audit_body, check_list_body, list_names, read_rows
from signer.ports import Clock, RegistryReader, StsExchange
from signer.preparing import KeyRequest, Preparing, RowRequest, check_empty_body
from signer.refusals import Refusals
from signer.releases import KeyRelease, release_list, write_line
from signer.rewrapping import Rewrapping
from signer.sessions import SessionRelease, Sessions
from signer.signing import SignedSiwe, SignedTypedData, Signing, WalletAddress
from signer.verification import K10Question, K10Verdict, K11Verdict, verify_k10, verify_k11

_OMNI_LENGTH: Final = 32

T = TypeVar("T")


class SignerService:
    """Everything that K3 makes possible. Safe for many threads; opened after a fork."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        journalist: Journalist,
        snapshot: Snapshot,
        glance: Glance,
        registry: RegistryReader,
        clock: Clock,
        policy: ServicePolicy,
        limits: Limits,
        refusals: Refusals,
        sts: StsExchange | None = None,
        gate: Gate | None = None,
        attesting: Attesting | None = None,
    ) -> None:
        self._keyring = keyring
        self._journalist = journalist
        self._snapshot = snapshot
        self._registry = registry
        self._attesting = attesting
        self._calls = Calls(journalist=journalist, clock=clock, limits=limits, refusals=refusals)
        self._admission = Admission(registry=registry, policy=policy, limits=limits, clock=clock, glance=glance)
        self._preparing = Preparing(admission=self._admission, keyring=keyring, glance=glance)
        self._sessions = Sessions(
            keyring=keyring,
            journalist=journalist,
            clock=clock,
            snapshot=snapshot,
            policy=policy.sts,
            exchange=sts,
        )
        self._checkpoints = Checkpoints(keyring=keyring, journalist=journalist, snapshot=snapshot, registry=registry)
        self._rewrapping = Rewrapping(
            keyring=keyring, journalist=journalist, snapshot=snapshot, registry=registry, gate=gate or Gate()
        )
        self._signing = Signing(
            keyring=keyring,
            journalist=journalist,
            registry=registry,
            clock=clock,
            admission=self._admission,
            policy=policy.signing,
        )

    def derive_address(self, caller: CallerIdentity, omni: bytes, epoch: int) -> bytes:
        """The 20-byte address of K4(omni). Raises invalid_omni, epoch_not_held, sealed."""

        def work(_: Attempt) -> bytes:
            if len(omni) != _OMNI_LENGTH:
                raise KeyServiceError(Reason.INVALID_OMNI, f"an omni has {_OMNI_LENGTH} bytes")
            if epoch > self._registry.status().k3_epoch:  # prepared at most: nothing is derived from it yet
                raise KeyServiceError(Reason.EPOCH_NOT_HELD, f"epoch {epoch} is not current yet")
            return self._keyring.address(omni, epoch)

        return self._call(caller, "DeriveAddress", work)

    def wallet_address(self, caller: CallerIdentity, actor_omni: bytes) -> WalletAddress:
        """The address of an actor's managed wallet. Raises as `Signing.address`."""
        return self._call(caller, "DeriveAddress", lambda _: self._signing.address(actor_omni))

    def derive_cred_kek(
        self, caller: CallerIdentity, cap: bytes, *, epoch: int = 0, salt: bytes = b"", expect: bytes = b""
    ) -> KeyRelease:
        """The key of one version of one object: for reads the one that `epoch` and `salt` name, else a new one.

        `expect` is empty for null. Stores and puts take neither epoch nor salt, reads no `expect`.

        Raises:
            KeyServiceError: see design section 4 and 5.
        """
        asked = KeyRequest(cap=cap, epoch=epoch, salt=salt, expect=expect)
        return self._call(
            caller, "DeriveCredKek", lambda attempt: self._journalist.run(self._preparing.key(attempt, asked))
        )

    def derive_cred_kek_batch(self, caller: CallerIdentity, batch: Batch[KeyRequest]) -> list[Outcome[KeyRelease]]:
        """The answers to many `derive_cred_kek`, in order, by one commit. Raises what `Batch.check` does."""
        return self._calls.together(
            caller, "DeriveCredKek", batch, lambda attempt, _, asked: self._preparing.key(attempt, asked)
        )

    def sts_credentials(self, caller: CallerIdentity, cap: bytes, role_arn: str) -> SessionRelease:
        """A cloud session of 900 s that opens the cap's object for the cap's verb, and the row that records it.

        Raises:
            KeyServiceError: role_arn_not_allowed, sts_unreachable, else see design sections 4 and 5.
        """

        def work(attempt: Attempt) -> SessionRelease:
            parsed = self._admission.parse(attempt, cap, OBJECT_EFFECTS)
            self._sessions.check_role(caller, role_arn)
            check_empty_body(parsed.request)
            return self._sessions.open(
                attempt, lambda: self._admission.admit(attempt, parsed, burn=Burn.STS_CREDENTIALS), role_arn
            )

        return self._call(caller, "StsCredentials", work)

    def sign_audit_row(self, caller: CallerIdentity, cap: bytes, result: int) -> bytes:
        """The signed row that stands for this cap and result (0 success, 1 failure, 2 not permitted). Idempotent.

        Raises:
            KeyServiceError: cap_replayed with the row of another result; version_not_current, invalid_body; for a cap
                that was not released here also everything of design section 4.
        """
        asked = RowRequest(cap=cap, result=result)

        def work(attempt: Attempt) -> bytes:
            return self._journalist.run(self._preparing.row(attempt, lambda _: None, asked))

        return self._call(caller, "SignAuditRow", work)

    def sign_audit_row_batch(self, caller: CallerIdentity, batch: Batch[RowRequest]) -> list[Outcome[bytes]]:
        """The answers to many `sign_audit_row`, in order. Raises what `Batch.check` does.

        They share one commit, but for a cap that comes again: what it is answered with depends on the first time's.
        """
        return self._calls.together(caller, "SignAuditRow", batch, self._preparing.row)

    def list_objects(self, caller: CallerIdentity, cap: bytes, *, after: str | None, limit: int) -> ListPage:
        """Names from the signer's own inventory that the scope grants, in order after the name `after`.

        Raises:
            KeyServiceError: invalid_body where the request commits to another page, else see design sections 4 and 5.
        """

        def work(attempt: Attempt) -> ListPage:
            parsed = self._admission.parse(attempt, cap, frozenset({Effect.LIST}))
            check_list_body(parsed.request, after=after, limit=limit)
            admitted = self._admission.admit(attempt, parsed)
            with self._snapshot() as ledger:
                names, following = list_names(ledger, admitted, after=after, limit=limit)
            row = self._journalist.run(lambda tx: release_list(tx, attempt, admitted))
            return ListPage(names=names, next=following, row=row)

        return self._call(caller, "ListObjects", work)

    def get_audit_rows(self, caller: CallerIdentity, cap: bytes, *, after: int | None, limit: int) -> AuditPage:
        """Audit rows as signed, after a position: the actor's own chain, or for `audit:tree` the whole operator's.

        Raises:
            KeyServiceError: invalid_body where the request commits to another page, else see design sections 4 and 5.
        """

        def work(attempt: Attempt) -> AuditPage:
            parsed = self._admission.parse(attempt, cap, frozenset({Effect.AUDIT}))
            check_audit_body(parsed.request, after=after, limit=limit)
            admitted = self._admission.admit(attempt, parsed)
            with self._snapshot() as ledger:
                page = read_rows(ledger, admitted, after=after, limit=limit)
            self._journalist.run(lambda tx: write_line(tx, attempt, admitted.digest))
            return page

        return self._call(caller, "GetAuditRows", work)

    def get_row_hashes(self, caller: CallerIdentity, *, after: int, limit: int) -> RowHashes:
        """Hashes of all rows in the order of writing. Raises as `Checkpoints.hashes`."""
        return self._call(
            caller, "GetRowHashes", lambda attempt: self._checkpoints.hashes(attempt, after=after, limit=limit)
        )

    def sign_checkpoint(self, caller: CallerIdentity, *, size: int, root: bytes, proof: Sequence[bytes]) -> bytes:
        """The signed note over the first `size` rows. Raises as `Checkpoints.sign`."""
        return self._call(
            caller, "SignCheckpoint", lambda attempt: self._checkpoints.sign(attempt, size=size, root=root, proof=proof)
        )

    def rewrap(
        self, caller: CallerIdentity, *, object_class: int, owner: bytes, service: str, envelope: bytes
    ) -> bytes:
        """The envelope under the current epoch, while the host's window is open. Raises as `Rewrapping.rewrap`."""

        def work(attempt: Attempt) -> bytes:
            return self._rewrapping.rewrap(
                attempt, object_class=object_class, owner=owner, service=service, envelope=envelope
            )

        return self._call(caller, "Rewrap", work)

    def sign_siwe(self, caller: CallerIdentity, cap: bytes, message: str) -> SignedSiwe:
        """A sign-in message signed by the actor's wallet, sealed to the device. Raises as `Signing.siwe`."""
        return self._call(caller, "SignSiwe", lambda attempt: self._signing.siwe(attempt, cap, message))

    def sign_typed_data(self, caller: CallerIdentity, cap: bytes, body: bytes) -> SignedTypedData:
        """Typed data signed by the actor's wallet, sealed to the device. Raises as `Signing.typed_data`."""
        return self._call(caller, "SignTypedData", lambda attempt: self._signing.typed_data(attempt, cap, body))

    def verify_k10_sig(
        self,
        caller: CallerIdentity,
        *,
        public_key: bytes,
        payload: bytes,
        signature: bytes,
        scheme: int,
        purpose: str = "",
    ) -> K10Verdict:
        """Whether the device key signed the payload in that scheme. Raises too_large, invalid_encoding."""
        asked = K10Question(public_key=public_key, payload=payload, signature=signature, scheme=scheme, purpose=purpose)
        return self._call(caller, "VerifyK10Sig", lambda _: verify_k10(asked))

    def verify_k10_sig_batch(self, caller: CallerIdentity, batch: Batch[K10Question]) -> list[Outcome[K10Verdict]]:
        """The answers to many `verify_k10_sig`, in order. Raises what `Batch.check` does."""
        return self._calls.each(caller, "VerifyK10Sig", batch, verify_k10)

    def verify_k11_assertion(
        self, caller: CallerIdentity, assertion: K11Assertion, *, expected_challenge: bytes
    ) -> K11Verdict:
        """Whether a registered K11 approved that challenge. Raises invalid_encoding, too_large, registry reasons."""
        return self._call(
            caller,
            "VerifyK11Assertion",
            lambda _: verify_k11(self._registry, assertion, challenge=expected_challenge),
        )

    def attest_enrol(self, caller: CallerIdentity, change: bytes, evidence: bytes) -> bytes:
        """The initial wallet's 65-byte signature over a first bind, against evidence. Raises as `Attesting.attest`."""
        attesting = self._attesting
        if attesting is None:
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "no evidence is taken here")
        return self._call(
            caller, "AttestEnrol", lambda attempt: attesting.attest(change, evidence, caller=attempt.name)
        )

    def _call(self, caller: CallerIdentity, method: str, work: Callable[[Attempt], T]) -> T:
        """What `work` returns; a refusal is recorded before it goes on to the caller."""
        return self._calls.one(caller, method, work)
