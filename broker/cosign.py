"""A checked request becomes a co-signature by K1. Nothing outside this room can make one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkeys_core.authorisation import check_context
from agentkeys_core.captoken import MAX_CAP_BYTES, UncosignedCap
from agentkeys_core.device_signature import verify_device_signature
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import es256_sign
from agentkeys_runtime.web.endpoints import Known
from agentkeys_runtime.web.knowing import known_by_cap
from agentkeys_runtime.web.registry_source import RegistrySource, authorise_now
from broker.keys import K1Keys
from broker.last_use import LastUse
from broker.quota import Quota

_NO_COSIGN: Final = bytes(64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignature:
    """What joins a cap: ES256 by K1, 64 bytes, and the thumbprint by which signer and workers pin K1."""

    cosign: bytes
    kid: str


class Cosigner:
    """Co-signs what signer and workers would admit now, as far as the broker can know; policy and quota end here."""

    def __init__(
        self,
        *,
        keys: K1Keys,
        registry: RegistrySource,
        quota: Quota,
        last_use: LastUse,
        clock: Callable[[], float],
        aud: str,
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._quota = quota
        self._last_use = last_use
        self._clock = clock
        self._aud = aud

    def __repr__(self) -> str:
        return f"<Cosigner {self._keys.kid}>"

    def known(self, cap: UncosignedCap) -> Known | None:
        """Whose request this is, for `Endpoint.known`. Raises as `known_by_cap`."""
        return known_by_cap(cap, self._registry, aud=self._aud, now=self._clock())

    def cosign(self, cap: UncosignedCap) -> Cosignature:
        """Return the co-signature of a well-formed cap. The first check that fails decides.

        Whether a store replaces something is not known here: that K11 then approves is checked by worker and signer.

        Raises:
            KeyServiceError: `too_large` where it leaves no room for the co-signature; then as `check_context`,
                `device_signature_invalid`, `device_unknown`, `rate_limited`, as `authorise`; registry reasons.
        """
        if len(cap.cosigned(_NO_COSIGN, self._keys.kid).encode()) > MAX_CAP_BYTES:
            raise KeyServiceError(Reason.TOO_LARGE, f"a cap has at most {MAX_CAP_BYTES} bytes")
        request = cap.request
        epoch = self._registry.status().k3_epoch
        check_context(request, aud=self._aud, now=self._clock(), current_epoch=epoch)
        verify_device_signature(cap)
        operator = self._registry.lookup_device(request.device)
        if operator is None:
            raise KeyServiceError(Reason.DEVICE_UNKNOWN)  # not counted: anybody can make keys without end
        self._quota.charge_device(request.device)
        authorise_now(cap, self._registry, replacing=False)
        # Only now: a revoked or wayward device uses up its own minute, not its user's.
        self._quota.charge_user(operator.operator_omni)
        self._last_use.note(request.device, operator.operator_omni)
        return Cosignature(cosign=es256_sign(self._keys.active, cap.cosign_message()), kid=self._keys.kid)
