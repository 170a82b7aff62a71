"""A first bind of an identity that is no wallet: its evidence checked, its initial wallet's signature given.

The one release that no device of a registered actor has asked for (design §2): journalled before it leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from agentkeys_core import ids
from agentkeys_core.changes import Enrol, parse_change
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import fields, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import BindEvidence, parse_evidence
from agentkeys_core.signed_change import MAX_CHANGE_BYTES
from signer.keyring import Keyring
from signer.ports import Clock, RegistryStatus
from signer.registry_effects import Attested, Terms
from signer.registry_rules import check_terms

_BAD: Final = Reason.INVALID_CHANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What evidence proves: an identity, how well, and what must not be used for another Enrol.

    `marks` are hashes (32 bytes) that name this evidence, `keep_until` (Unix seconds) is how long it could be believed.
    """

    kind: ids.IdentityType
    value: str
    attested: Attested
    marks: tuple[bytes, ...] = ()
    keep_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A first bind whose evidence was found to be right; `digest` is the EIP-712 digest of `change`."""

    change: Enrol
    digest: bytes
    attested: Attested
    marks: tuple[bytes, ...]
    keep_until: int

    def check_epoch(self, current: int) -> None:
        """Refuse a wallet of another epoch than the current one. Raises stale_epoch, future_epoch."""
        named = self.change.wallet_epoch
        if named != current:
            reason = Reason.STALE_EPOCH if named < current else Reason.FUTURE_EPOCH
            raise KeyServiceError(reason, "walletEpoch", metadata={"current_epoch": str(current)})


class Attestations(Protocol):
    """Where it is remembered what was attested: the registry that the signer owns."""

    def status(self) -> RegistryStatus:
        """Registry id, current K3 epoch and incarnation."""
        ...

    def attest(self, attestation: Attestation, *, caller: str) -> None:
        """Remember it, durably and journalled.

        Raises:
            KeyServiceError: already_bound, invalid_evidence for evidence used before, stale_epoch, journal_unavailable.
        """
        ...


#: Evidence, the Enrol that it is for, that one's digest, Unix seconds. Raises invalid_evidence.
Verify = Callable[[BindEvidence, Enrol, bytes, int], Finding]


class Attesting:
    """The use case of `AttestEnrol`."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        registry: Attestations,
        clock: Clock,
        verify: Verify,
        domain: Domain,
        allow_software_k11: bool,
    ) -> None:
        self._keyring = keyring
        self._registry = registry
        self._clock = clock
        self._verify = verify
        self._domain = domain
        self._software_k11 = allow_software_k11

    def attest(self, change_json: bytes, evidence_json: bytes, *, caller: str) -> bytes:
        """The initial wallet's signature over the Enrol: 65 bytes r||s||v.

        Raises:
            KeyServiceError: invalid_change, change_not_authorised for a change that this registry would not take;
                invalid_evidence, also for `evm`, whose own wallet signs; stale_epoch, future_epoch; already_bound.
        """
        change = read_enrol(change_json)
        status, now = self._registry.status(), int(self._clock.now())
        check_terms(change, Terms(incarnation=status.incarnation, now=now, allow_software_k11=self._software_k11))
        digest = change.digest(self._domain)
        finding = self._verify(parse_evidence(evidence_json), change, digest, now)
        if ids.identity_omni(finding.kind, finding.value) != change.identity_omni:
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "evidence of another identity")
        attestation = Attestation(
            change=change,
            digest=digest,
            attested=finding.attested,
            marks=finding.marks,
            keep_until=finding.keep_until,
        )
        attestation.check_epoch(status.k3_epoch)
        if self._keyring.address(change.identity_omni, change.wallet_epoch) != change.wallet:
            raise KeyServiceError(_BAD, "wallet is not that of the identity")
        signature = self._keyring.wallet_sign(change.identity_omni, change.wallet_epoch, digest)
        self._registry.attest(attestation, caller=caller)
        return signature


def read_enrol(data: bytes) -> Enrol:
    """The Enrol of `{"message","type"}`, the `change` of a signed change.

    Raises:
        KeyServiceError: too_large, unknown_fields, invalid_change; invalid_evidence for an `evm` identity.
    """
    members = fields(strict_json(data, limit=MAX_CHANGE_BYTES, reason=_BAD), required=("message", "type"), reason=_BAD)
    change = parse_change(members["type"], members["message"])
    if not isinstance(change, Enrol):
        raise KeyServiceError(_BAD, "only an Enrol is attested")
    if change.is_evm:
        raise KeyServiceError(Reason.INVALID_EVIDENCE, "the user's own wallet signs")
    return change
