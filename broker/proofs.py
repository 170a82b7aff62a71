"""A device's claim to one HTTP request: the header `AgentKeys-Proof`, checked against the request that carried it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.proof import SessionProof
from broker.challenges import Challenge, Challenges
from broker.ports import Redemptions

CLOCK_SKEW_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One HTTP request with what it claims: the header `AgentKeys-Proof`, the bearer token where there is one.

    `client` is the address that it came from.
    """

    method: str
    path: str
    body: bytes = field(repr=False)
    proof: str = field(repr=False)
    token: str = field(default="", repr=False)
    client: str = ""


class Proofs:
    """Checks proofs and uses them up. Whether the device is registered is its caller's question."""

    def __init__(
        self, *, origin: str, challenge_keys: Sequence[bytes], redemptions: Redemptions, clock: Callable[[], float]
    ) -> None:
        self._origin = origin
        self._redemptions = redemptions
        self._clock = clock
        self._challenges = Challenges(challenge_keys, redemptions, clock)

    def challenge(self) -> Challenge:
        """A nonce for one proof of purpose sign-in."""
        return self._challenges.issue()

    def check(self, claim: Claim, purpose: str) -> SessionProof:
        """The proof, made for this very request by the key that it names. It is not used up yet.

        Raises:
            KeyServiceError: `proof_invalid`, also for a header that is no proof at all; `device_signature_invalid`.
        """
        try:
            proof = SessionProof.parse(claim.proof)
        except KeyServiceError as error:  # what cannot be read proves nothing: to its sender, the same as none
            raise _invalid(f"the proof cannot be read: {error}") from error
        now = self._clock()
        if proof.purpose != purpose:
            raise _invalid(f"the proof is for {proof.purpose}, this is a {purpose}")
        if proof.aud != self._origin:
            raise _invalid("the proof is for another origin")
        if (proof.method, proof.path) != (claim.method, claim.path):
            raise _invalid("the proof is for another request")
        if proof.body_hash != sha256(claim.body):
            raise _invalid("the proof is for another body")
        if not proof.issued_at - CLOCK_SKEW_S <= now < proof.expires_at + CLOCK_SKEW_S:
            raise KeyServiceError(Reason.PROOF_INVALID, "the proof is too old", metadata={"server_time": str(int(now))})
        proof.verify()
        return proof

    def check_challenge(self, proof: SessionProof) -> None:
        """Return where the nonce of a sign-in is a challenge of ours. Raises as `Challenges.check`."""
        self._challenges.check(proof.nonce)

    def redeem(self, proof: SessionProof) -> None:
        """Use up the challenge of a sign-in. Raises as `Challenges.redeem`."""
        self._challenges.redeem(proof.nonce)

    def use_up(self, proof: SessionProof) -> None:
        """A proof is good for one request: whoever copies it on its way cannot send it again.

        Raises:
            KeyServiceError: `proof_invalid` for one that was seen before; `overloaded`.
        """
        value = b"proof:" + proof.device + sha256(proof.nonce.encode())
        expires_at = proof.expires_at + CLOCK_SKEW_S
        if not self._redemptions.redeem(value, expires_at=expires_at, now=int(self._clock())):
            raise _invalid("the proof was used before")


def _invalid(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.PROOF_INVALID, detail)
