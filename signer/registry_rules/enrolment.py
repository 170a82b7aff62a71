"""The first bind: K10 and K11 of the new device, and the initial wallet, all over the same digest."""

from agentkeys_core import ids
from agentkeys_core.audit import OpKind
from agentkeys_core.changes import Enrol
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, OperatorState, Tier
from signer.registry_effects import Attested, Effects, Enrolment, Taken, Terms
from signer.registry_proofs import Proofs
from signer.registry_rules.terms import check_deadline, check_incarnation, check_origin, refusal

#: An `evm` identity is the wallet itself, and its signature stands beside the change.
_WALLET: Attested = Attested(evidence=Evidence.WALLET, assurance=Assurance.HIGH)


def check_terms(change: Enrol, terms: Terms) -> None:
    """Refuse a first bind that this registry would not take now, whoever signed it."""
    check_incarnation(change.incarnation, terms)
    check_deadline(change.deadline, terms.now)
    if change.nonce != 0:
        raise refusal("the nonce of a first bind is 0")
    if change.roles != ALL_ROLES:
        raise refusal("the first master has every role")
    check_origin(change, terms)


def check_free(change: Enrol, *, bound: bool, taken: Taken) -> None:
    """Refuse an identity, operator or device that is registered already, but for what the host has annulled.

    Raises:
        KeyServiceError: already_bound.
    """
    owner = change.operator_omni if taken.annulled else None
    if (bound and not taken.annulled) or taken.identity or taken.held or taken.actor_owner != owner:
        raise KeyServiceError(Reason.ALREADY_BOUND, "identity, operator or device is registered already")


def enrol(change: Enrol, proofs: Proofs, *, state: OperatorState | None, taken: Taken, terms: Terms) -> Effects:
    """Bind a user's tree to its first master."""
    key_hash = ids.device_key_hash(change.device)
    check_terms(change, terms)
    if proofs.k10 != key_hash:
        raise refusal("K10 of the new device has not signed")
    if [k11.device_key_hash for k11 in proofs.k11] != [key_hash]:
        raise refusal("K11 of the new device, and only that, must sign")
    if proofs.wallet != change.wallet:
        raise refusal("the initial wallet has not signed")
    attested = _WALLET if change.is_evm else taken.attested
    if attested is None:
        raise KeyServiceError(Reason.INVALID_EVIDENCE, "nobody has attested that identity")
    check_free(change, bound=state is not None, taken=taken)
    device = DeviceRecord(
        device_key_hash=key_hash,
        operator_omni=change.operator_omni,
        actor_omni=change.operator_omni,
        address=change.device,
        tier=Tier.MASTER,
        roles=ALL_ROLES,
        revoked=False,
        registered_at=terms.now,
        k11=change.k11,
        sign_count=proofs.k11[0].sign_count,
        evidence=attested.evidence,
        assurance=attested.assurance,
    )
    return Effects(
        kind=OpKind.DEVICE_ADD,
        # What was annulled had counters of its own: nothing that was signed for those may fit again.
        nonce=1 if state is None else state.nonce + 1,
        freeze_nonce=0 if state is None else state.freeze_nonce + 1,
        frozen=False,
        threshold=1,
        enrolment=Enrolment(identity_omni=change.identity_omni, wallet=change.wallet, wallet_epoch=change.wallet_epoch),
        added=device,
        actor=change.operator_omni,
    )
