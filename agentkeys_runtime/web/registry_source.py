"""The registry as HTTP services use it: the pinned one and no other, with a second look before a refusal."""

from typing import Final, Protocol

from agentkeys_core.authorisation import Authorised, authorise
from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.eip712 import Domain
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import OperatorState
from agentkeys_runtime.registry_client import RegistryStatus
from agentkeys_runtime.web.vouching import vouching

#: What a change that has just been applied elsewhere may have lifted. A revocation is never lifted.
_LIFTABLE: Final = frozenset(
    {Reason.DEVICE_ROLE_MISSING, Reason.OPERATOR_FROZEN, Reason.SERVICE_NOT_IN_SCOPE, Reason.K11_INVALID}
)


class RegistrySource(Protocol):
    """Port: what `RegistryFollower` gives. Every read fails closed with a named error when the registry is stale."""

    def lookup_device(self, device_key_hash: bytes, *, reread: bool = False) -> OperatorState | None:
        """State of the operator to which the device belongs."""

    def operator(self, operator_omni: bytes, *, reread: bool = False) -> OperatorState | None:
        """State of one operator."""

    def seen_device(self, device_key_hash: bytes) -> OperatorState | None:
        """State of the operator of that device as it was last read, however old. Asks nobody, raises nothing."""

    def seen_operator(self, operator_omni: bytes) -> OperatorState | None:
        """State of that operator as it was last read, however old. Asks nobody, raises nothing."""

    def status(self) -> RegistryStatus:
        """Registry id, K3 epoch, incarnation."""

    def apply(self, change: bytes) -> bytes:
        """Relay a signed change; returns its signed row."""


class PinnedRegistry:
    """Answers as `source` does, while that is the registry which the host pinned; refuses everything otherwise."""

    def __init__(self, source: RegistrySource, registry_id: str) -> None:
        self._source = source
        self._registry_id = registry_id

    @property
    def domain(self) -> Domain:
        """What its changes are signed for. Raises `invalid_change` where the pinned id is none of a registry."""
        return Domain.of(self._registry_id)

    def status(self) -> RegistryStatus:
        """As the source; `registry_unreachable` where another registry answers."""
        status = self._source.status()
        if status.registry_id != self._registry_id:
            raise KeyServiceError(Reason.REGISTRY_UNREACHABLE, "another registry than the configured one answers")
        return status

    def lookup_device(self, device_key_hash: bytes, *, reread: bool = False) -> OperatorState | None:
        """As the source."""
        self.status()
        return self._source.lookup_device(device_key_hash, reread=reread)

    def operator(self, operator_omni: bytes, *, reread: bool = False) -> OperatorState | None:
        """As the source."""
        self.status()
        return self._source.operator(operator_omni, reread=reread)

    def seen_device(self, device_key_hash: bytes) -> OperatorState | None:
        """As the source."""
        return self._source.seen_device(device_key_hash)

    def seen_operator(self, operator_omni: bytes) -> OperatorState | None:
        """As the source."""
        return self._source.seen_operator(operator_omni)

    def apply(self, change: bytes) -> bytes:
        """As the source. A change names its registry in what is signed; a freeze must pass while reads are stale."""
        return self._source.apply(change)


def authorise_now(cap: UncosignedCap, registry: RegistrySource, *, replacing: bool) -> Authorised:
    """Return who may do what the cap asks. What is refused by a cached state is decided by a fresh one.

    The device's signature must be verified before: refusals of a registered one are vouched for.
    Whether the signing policy wants K11 is for the signer alone to say; an assertion that came is checked here as well.

    Raises:
        KeyServiceError: as `agentkeys_core.authorisation.authorise`, and as the registry's reads.
    """
    device = cap.request.device
    state = registry.lookup_device(device)
    try:
        with vouching():
            return authorise(cap, state, replacing=replacing, policy_asks=False)
    except KeyServiceError as error:
        if error.reason not in _LIFTABLE:
            raise
    state = registry.lookup_device(device, reread=True)
    with vouching():
        return authorise(cap, state, replacing=replacing, policy_asks=False)
