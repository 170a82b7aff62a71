"""A confirmed address becomes evidence for the first bind of the very device that asked, and for one Enrol alone."""

from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import EmailEvidence
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import IdentityType, device_key_hash, identity_omni
from broker.ceremonies.steps import Steps, detail_of
from broker.ports import Ceremony, CeremonyKind, CeremonyState, EnrolAttester
from broker.proofs import Claim


class EmailEnrolment:
    """Gives the broker's word to the signer. It is all that such a bind rests on, so it is given to the letter."""

    def __init__(self, *, steps: Steps, attester: EnrolAttester) -> None:
        self._steps = steps
        self._attester = attester

    def attest(self, claim: Claim, ceremony_id: bytes, enrol: Enrol) -> bytes:
        """The initial wallet's 65-byte signature over `enrol`, for the device that made `claim` (purpose request).

        Asking again for the same Enrol is safe, as an answer may be lost.

        Raises:
            KeyServiceError: as `Steps.mine`; `not_found` for a ceremony of another kind; `invalid_evidence` before the
                address is confirmed; `invalid_change` for an Enrol of another device or identity; `ceremony_ended` for
                another Enrol than the first one that was asked for; the signer's refusal.
        """
        found = self._steps.mine(claim, ceremony_id)
        if found.kind is not CeremonyKind.EMAIL:
            raise KeyServiceError(Reason.NOT_FOUND, "no such ceremony of this device")
        if found.state is not CeremonyState.CONFIRMED:
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "nobody has confirmed the address yet")
        address = detail_of(found)["address"]
        if device_key_hash(enrol.device) != found.device:
            raise KeyServiceError(Reason.INVALID_CHANGE, "the Enrol is another device's")
        if enrol.identity_omni != identity_omni(IdentityType.EMAIL, address):
            raise KeyServiceError(Reason.INVALID_CHANGE, "the Enrol is of another address")
        change = canonical_json({"message": enrol.to_message(), "type": enrol.type})
        self._spend(found, sha256(change).hex())
        return self._attester.attest_enrol(change, EmailEvidence(address=address).encode())

    def _spend(self, ceremony: Ceremony, change: str) -> None:
        """Tie the ceremony to the first Enrol that it is used for; two that come at once cannot both be first."""
        spent = detail_of(ceremony).get("enrol")
        if spent is None:
            self._steps.move(ceremony, CeremonyState.CONFIRMED, enrol=change)
        elif spent != change:
            raise KeyServiceError(Reason.CEREMONY_ENDED, "it was used for another Enrol")
