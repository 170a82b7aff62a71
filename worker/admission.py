"""The worker's own checks of a cap, all of them, before the signer is asked.

Only `Admission.admit` makes an `Admitted`, and the signer can be asked with nothing else (`worker.ports.Signer`): a cap
that this worker would refuse cannot reach the signer.
"""

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Final, TypeVar

from agentkeys_core.authorisation import check_context, verify_cosign
from agentkeys_core.bodies import AuditListBody, ListBody, StoreBody, check_empty_body, request_hash
from agentkeys_core.captoken import Cap, CapRequest
from agentkeys_core.device_signature import verify_device_signature
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import Effect, ObjectClass, Op, WorkerClass, object_path
from agentkeys_runtime.web.endpoints import Known
from agentkeys_runtime.web.knowing import known_by_cap
from agentkeys_runtime.web.registry_source import RegistrySource, authorise_now

#: The longest value of a class, in bytes; where none stands, the limit of bodies alone counts.
VALUE_LIMITS: Final[Mapping[WorkerClass, int]] = MappingProxyType({WorkerClass.CREDENTIALS: 65_536})
_PROOF: Final = object()

Body = StoreBody | ListBody | AuditListBody | None
B = TypeVar("B", StoreBody, ListBody, AuditListBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that passed every check of this worker. `owner` (32 bytes) is whose data it is.

    `cap` is the canonical JSON that goes on to the signer, `body_bytes` what the request commits to, `body` the same
    parsed, None for `{}`.
    """

    cap: bytes = field(repr=False)
    request: CapRequest
    owner: bytes
    body_bytes: bytes = field(repr=False)
    body: Body = field(repr=False)
    proof: InitVar[object] = None

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("only admission admits")

    @property
    def digest(self) -> bytes:
        """The cap digest."""
        return self.request.digest

    @property
    def object_class(self) -> ObjectClass:
        """The class of the object that is asked for; `invalid_cap` where the op names none."""
        found = self.request.rule.object_class
        if found is None:
            raise KeyServiceError(Reason.INVALID_CAP, "the op names no object")
        return found

    @property
    def path(self) -> str:
        """Where the object lies, made of checked values only."""
        return object_path(self.owner, self.request.service, self.object_class)

    @property
    def store(self) -> StoreBody:
        """The body of a store or put."""
        return _expected(self.body, StoreBody)

    @property
    def page(self) -> ListBody:
        """The body of a list."""
        return _expected(self.body, ListBody)

    @property
    def audit_page(self) -> AuditListBody:
        """The body of an audit-list."""
        return _expected(self.body, AuditListBody)


def _expected(body: Body, kind: type[B]) -> B:
    if not isinstance(body, kind):
        raise KeyServiceError(Reason.INVALID_BODY, "the body of another operation")
    return body


class Admission:
    """Admits requests for one class, or refuses them with the first reason in the order of design section 4."""

    def __init__(
        self,
        *,
        worker_class: WorkerClass,
        aud: str,
        cosign_keys: Mapping[str, ES256PublicKey],
        registry: RegistrySource,
        clock: Callable[[], float],
    ) -> None:
        self._class = worker_class
        self._aud = aud
        self._cosign_keys = cosign_keys
        self._registry = registry
        self._clock = clock

    def known(self, cap: bytes) -> Known | None:
        """Whose request this cap (canonical JSON) is, for `Endpoint.known`.

        Raises:
            KeyServiceError: as `Cap.parse`, `known_by_cap`; `broker_signature_invalid`.
        """
        parsed = Cap.parse(cap)
        found = known_by_cap(parsed, self._registry, aud=self._aud, now=self._clock())
        if found is not None:
            verify_cosign(parsed, self._cosign_keys)
        return found

    def admit(self, op: Op, cap: bytes, body: bytes) -> Admitted:
        """Return the request once nothing speaks against it.

        Args:
            op: what the route is for.
            cap: canonical JSON.
            body: what the request commits to.

        Raises:
            KeyServiceError: what `Cap.parse` gives, `class_mismatch`, `invalid_cap` for another op; then for `aud`,
                window, epoch, co-signature, device signature; `invalid_body` or `too_large`; as `authorise`; registry
                reasons.
        """
        parsed = Cap.parse(cap)
        request = parsed.request
        if request.rule.worker_class is not self._class:
            raise KeyServiceError(Reason.CLASS_MISMATCH, f"{request.op} is not of this worker's class")
        if request.op is not op:
            raise KeyServiceError(Reason.INVALID_CAP, f"the cap is for {request.op}, the path for {op}")
        epoch = self._registry.status().k3_epoch
        check_context(request, aud=self._aud, now=self._clock(), current_epoch=epoch)
        verify_cosign(parsed, self._cosign_keys)
        verify_device_signature(parsed)
        found = _checked_body(request, body)
        replacing = isinstance(found, StoreBody) and found.expect is not None
        authorised = authorise_now(parsed, self._registry, replacing=replacing)
        return Admitted(cap=cap, request=request, owner=authorised.owner, body_bytes=body, body=found, proof=_PROOF)


def _checked_body(request: CapRequest, body: bytes) -> Body:
    """Return the body that the request commits to, parsed as its op says.

    Raises:
        KeyServiceError: `invalid_body`, `too_large`.
    """
    if request_hash(body) != request.request_hash:
        raise KeyServiceError(Reason.INVALID_BODY, "the request commits to another body")
    effect = request.rule.effect
    if effect is Effect.WRITE:
        return _checked_value(request, StoreBody.parse(body))
    if effect is Effect.LIST:
        return ListBody.parse(body)
    if effect is Effect.AUDIT:
        return AuditListBody.parse(body)
    check_empty_body(body)
    return None


def _checked_value(request: CapRequest, body: StoreBody) -> StoreBody:
    limit = None if request.rule.worker_class is None else VALUE_LIMITS.get(request.rule.worker_class)
    if not body.value:
        raise KeyServiceError(Reason.INVALID_BODY, "an empty value")
    if limit is not None and len(body.value) > limit:
        raise KeyServiceError(Reason.TOO_LARGE, f"a value has at most {limit} bytes")
    return body
