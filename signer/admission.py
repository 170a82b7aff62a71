"""The order of checks of design section 4, from the caller's class to K11: what stands before burn and version rule."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.authorisation import authorise, check_context, verify_cosign
from agentkeys_core.captoken import Cap, CapRequest
from agentkeys_core.device_signature import verify_device_signature
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import Effect, K11Rule, ObjectClass, WorkerClass, k11_required, owner_of
from agentkeys_core.registry import DeviceRecord, OperatorState
from agentkeys_runtime.identity import CallerIdentity
from signer.ledger import Burn, Glance, LedgerReader, ObjectRef, Transaction
from signer.limits import Limits
from signer.ports import Clock, RegistryReader
from signer.signing_policy import SigningPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class StsPolicy:
    """What cloud sessions may be about: the token's issuer and audience, the bucket, and each class's role ARNs."""

    issuer: str
    audience: str
    bucket: str
    role_arns: Mapping[WorkerClass, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePolicy:
    """What the host configured: the registry id of caps, the broker keys pinned by `kid`, sessions, wallets."""

    aud: str
    cosign_keys: Mapping[str, ES256PublicKey]
    sts: StsPolicy | None = None
    signing: SigningPolicy = field(default_factory=SigningPolicy)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One call, as its refusal would be recorded.

    `device_verified` is the cap digest once a device's signature over it was verified; until then it proves nothing.
    """

    caller: CallerIdentity
    method: str
    device_verified: bytes | None = None

    @property
    def name(self) -> str:
        """The certificate, as journal lines name it."""
        return self.caller.fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that passed every check but burn and version rule."""

    request: CapRequest
    device: DeviceRecord
    owner: bytes
    operator: OperatorState
    k11_verified: bool
    at: float
    """When the registry was asked, in Unix seconds."""

    @property
    def digest(self) -> bytes:
        """The cap digest."""
        return self.request.digest

    @property
    def object_class(self) -> ObjectClass:
        """The class of the object that is asked for; audit requests have none."""
        found = self.request.rule.object_class
        if found is None:
            raise KeyServiceError(Reason.INVALID_CAP, "the op names no object")
        return found

    @property
    def ref(self) -> ObjectRef:
        """The object that is asked for."""
        return ObjectRef(owner=self.owner, object_class=self.object_class, service=self.request.service.text)


#: How old an admission may be when its release is recorded, in seconds.
MAX_WAIT_S: Final = 0.5
OBJECT_EFFECTS: Final = frozenset({Effect.WRITE, Effect.READ, Effect.DELETE})


class Admission:
    """Admits requests, or refuses them with the first reason in the order of design section 4."""

    def __init__(
        self, *, registry: RegistryReader, policy: ServicePolicy, limits: Limits, clock: Clock, glance: Glance
    ) -> None:
        self._registry = registry
        self._policy = policy
        self._limits = limits
        self._clock = clock
        self._glance = glance

    def parse(self, attempt: Attempt, data: bytes, effects: frozenset[Effect]) -> Cap:
        """The cap, whose op belongs to the caller's class and whose effect is one of `effects`.

        Raises:
            KeyServiceError: what `Cap.parse` gives, class_mismatch, invalid_cap.
        """
        cap = Cap.parse(data)
        rule = cap.request.rule
        if rule.worker_class is not attempt.caller.worker_class:  # None for the broker, and for what it asks
            raise KeyServiceError(Reason.CLASS_MISMATCH, f"{rule.op} is not of the caller's class")
        if rule.effect not in effects:
            raise KeyServiceError(Reason.INVALID_CAP, f"{rule.op} is not for this call")
        return cap

    def admit(self, attempt: Attempt, cap: Cap, *, burn: Burn = Burn.NONE, policy_asks: bool = True) -> Admitted:
        """Everything after size and shape: `aud`, window, epoch, signatures, registry, scope, K11.

        `burn` is what the call would use the cap up for, `policy_asks` whether the signing policy wants K11 for it.

        Raises:
            KeyServiceError: the first that fails.
        """
        request = cap.request
        at = self._clock.now()
        status = self._registry.status()
        check_context(request, aud=self._policy.aud, now=at, current_epoch=status.k3_epoch)
        if request.issued_at <= status.caps_after:  # it may have been used up in what a restore has lost
            raise KeyServiceError(Reason.CAP_EXPIRED, "issued before a restore", metadata={"server_time": str(int(at))})
        verify_cosign(cap, self._policy.cosign_keys)
        verify_device_signature(cap)
        if attempt.device_verified is None:  # a session is admitted twice and charged once
            attempt.device_verified = request.digest
            self._limits.charge_device(request.device, request.digest)
        operator = self._registry.lookup_device(request.device)
        replacing = self._is_replacing(request, burn)
        authorised = authorise(cap, operator, replacing=replacing, policy_asks=policy_asks)
        if operator is None:  # `authorise` has refused it already; this tells the type checker
            raise KeyServiceError(Reason.DEVICE_UNKNOWN)
        return Admitted(
            request=request,
            device=authorised.device,
            owner=authorised.owner,
            operator=operator,
            k11_verified=authorised.k11_verified,
            at=at,
        )

    def _is_replacing(self, request: CapRequest, burn: Burn) -> bool:
        """Whether another store is current under that name.

        A cap that was used up replaces nothing: a device that lost the answer must hear `cap_replayed`, not that its
        first store would now need K11.
        """
        rule = request.rule
        if rule.k11 is not K11Rule.REPLACING or rule.object_class is None:
            return False
        owner = owner_of(rule, request.operator_omni, request.actor_omni)
        ref = ObjectRef(owner=owner, object_class=rule.object_class, service=request.service.text)
        with self._glance() as ledger:
            used = ledger.cap(request.digest)
            if used is not None and burn and burn in used.burned:
                return False
            return replaces_another(ledger, ref, request.digest)


def replaces_another(ledger: LedgerReader, ref: ObjectRef, digest: bytes) -> bool:
    """Whether a store of that object other than the one with this cap digest is current."""
    known = ledger.versions(ref)
    return known is not None and known.store not in (None, digest)


def recheck(tx: Transaction, admitted: Admitted) -> None:
    """Check again, inside the transaction, what may have changed since `admit`: the epoch, and what K11 depends on.

    What waited long for the file is refused: a revocation committed meanwhile must hold within a second.

    Raises:
        KeyServiceError: journal_unavailable, stale_epoch, k11_required.
    """
    request = admitted.request
    if tx.at - admitted.at > MAX_WAIT_S:
        raise KeyServiceError(Reason.JOURNAL_UNAVAILABLE, "the request waited too long for the journal")
    if tx.epoch != request.k3_epoch:
        raise KeyServiceError(Reason.STALE_EPOCH, metadata={"current_epoch": str(tx.epoch), "server_time": str(tx.now)})
    rule = request.rule
    if rule.k11 is K11Rule.REPLACING and not admitted.k11_verified:
        replacing = replaces_another(tx.ledger, admitted.ref, request.digest)
        if k11_required(rule, tier=admitted.device.tier, replacing=replacing):
            raise KeyServiceError(Reason.K11_REQUIRED, "another store became current meanwhile")
