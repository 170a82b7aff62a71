"""Pairing a machine as an agent: a code for people to carry, and a hash for them to compare.

What the machine asks for is inert and names no master. A master claims it by its code, and from the machine's key
computes the hash that the machine itself shows: a broker that swaps the key is caught there. Only after that does the
machine learn who claims it, and sign the `Pair` that names this operator. All that the broker could check of a `Pair`
the master's program and the registry check again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentkeys_core.changes import SignedPair
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import address_of, check_label
from agentkeys_core.ops import Service
from agentkeys_core.shapes import sequence, text
from broker.ceremonies.codes import ALPHABET, code_read, new_code
from broker.ceremonies.steps import Steps, detail_of
from broker.ports import Ceremony, CeremonyKind, CeremonyState, Counters
from broker.proofs import Claim, Proofs
from broker.rates import HOUR_S, Rates
from broker.sessions import Visitor

#: 40 bits, good once and for ten minutes.
CODE_LENGTH: Final = 8
#: Codes that one user may try in an hour, right or wrong, and pairings that one client may begin.
CLAIMS_PER_USER: Final = 20
BEGUN_PER_CLIENT: Final = 60
MAX_SERVICES: Final = 64
_CODE_TAG: Final = b"agentkeys.pairing-code.v1\x00"
_PROFILE_HASH: Final = 32
_PAIR_LIMIT: Final = 4096
_BAD: Final = Reason.INVALID_BODY


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingRequest:
    """What a machine asks for: a label and services that it proposes, and the hash (32 bytes) of its profile."""

    label: str | None
    services: tuple[str, ...]
    profile_hash: bytes

    @classmethod
    def of(cls, *, label: object, services: object, profile_hash: object) -> "PairingRequest":
        """Check the members of a body. Raises `invalid_body`."""
        names = [text(name, "service", reason=_BAD) for name in sequence(services, "services", reason=_BAD)]
        if len(names) > MAX_SERVICES:
            raise KeyServiceError(_BAD, f"at most {MAX_SERVICES} services")
        try:
            checked = tuple(sorted({Service.parse(name).text for name in names}))
            if label is not None:
                check_label(text(label, "label", reason=_BAD))
        except KeyServiceError as error:
            raise KeyServiceError(_BAD, error.detail) from error
        return cls(
            label=None if label is None else str(label),
            services=checked,
            profile_hash=b64u_decode(profile_hash, length=_PROFILE_HASH, reason=_BAD),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """A pairing as its two sides see it. `public_key` has 33 bytes, `operator` (who claimed it) 32, or is empty.

    `pair` is the machine's signed `Pair`, None until it signed one.
    """

    ceremony: Ceremony
    public_key: bytes
    request: PairingRequest
    operator: bytes = b""
    pair: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingBegun:
    """A new pairing and its code."""

    pairing: Pairing
    code: str = field(repr=False)


class PairingDesk:
    """Takes both sides through a pairing."""

    def __init__(self, *, proofs: Proofs, steps: Steps, counters: Counters, clock: Callable[[], float]) -> None:
        self._proofs = proofs
        self._steps = steps
        self._rates = Rates(counters, clock)

    def begin(self, claim: Claim, request: PairingRequest) -> PairingBegun:
        """Begin for the machine that signed `claim` over a challenge of ours (purpose sign-in).

        Raises:
            KeyServiceError: as `Proofs.check`; `rate_limited`.
        """
        proof = self._proofs.check(claim, "sign-in")
        self._proofs.redeem(proof)
        name = b"pairing-client:" + claim.client.encode()
        self._rates.charge(name, limit=BEGUN_PER_CLIENT, window_s=HOUR_S, what="too many pairings begun in this hour")
        code = new_code(CODE_LENGTH)
        detail = {
            "label": request.label or "",
            "profile_hash": b64u_encode(request.profile_hash),
            "public_key": b64u_encode(proof.public_key),
            "services": " ".join(request.services),
        }
        begun = self._steps.begin(proof.device, CeremonyKind.PAIRING, detail, secret=_CODE_TAG + code.encode())
        return PairingBegun(pairing=_pairing(begun.ceremony), code=code)

    def claim(self, visitor: Visitor, code: str) -> Pairing:
        """Take a pairing for the visitor's user; its code is used up.

        Raises:
            KeyServiceError: `device_role_missing` for an agent; `rate_limited`, charged before the code is looked at;
                `ceremony_ended` for a code that was used, is over, or never was.
        """
        operator = _master(visitor)
        name = b"pairing-claims:" + operator
        self._rates.charge(name, limit=CLAIMS_PER_USER, window_s=HOUR_S, what="too many codes tried in this hour")
        written = code_read(code)
        if len(written) != CODE_LENGTH or not set(written) <= set(ALPHABET):
            raise KeyServiceError(_BAD, f"a code has {CODE_LENGTH} letters and digits")
        found = self._steps.shown_raw(_CODE_TAG + written.encode(), CeremonyKind.PAIRING, CeremonyState.PENDING)
        self._steps.move(found, CeremonyState.CLAIMED, operator=operator.hex())
        return _pairing(self._steps.known(found.id, CeremonyKind.PAIRING))

    def of_machine(self, claim: Claim, pairing_id: bytes) -> Pairing:
        """The pairing, for the machine that began it. Raises as `Steps.mine`."""
        found = self._steps.mine(claim, pairing_id)
        if found.kind is not CeremonyKind.PAIRING:
            raise KeyServiceError(Reason.NOT_FOUND, "no such pairing")
        return _pairing(found)

    def sign(self, claim: Claim, pairing_id: bytes, pair: object) -> Pairing:
        """Keep the `Pair` by which the machine agrees to the operator that claimed it.

        Raises:
            KeyServiceError: as `of_machine`; `invalid_body` for a `Pair` of another operator or device;
                `ceremony_ended` where nobody claimed it yet, or it was signed already.
        """
        found = self.of_machine(claim, pairing_id)
        try:
            message = SignedPair.from_json(pair).message
        except KeyServiceError as error:
            raise KeyServiceError(_BAD, error.detail) from error
        if found.ceremony.state is not CeremonyState.CLAIMED:
            raise KeyServiceError(Reason.CEREMONY_ENDED, "nobody claimed it yet, or it was signed already")
        if (message.operator_omni, message.device) != (found.operator, address_of(found.public_key)):
            raise KeyServiceError(_BAD, "the Pair names another operator or device")
        self._steps.move(found.ceremony, CeremonyState.CONFIRMED, pair=canonical_json(pair).decode())
        return _pairing(self._steps.known(pairing_id, CeremonyKind.PAIRING))

    def of_master(self, visitor: Visitor, pairing_id: bytes) -> Pairing:
        """The pairing, for the user who claimed it. Raises `not_found`, also for another user's; `ceremony_ended`."""
        found = _pairing(self._steps.known(pairing_id, CeremonyKind.PAIRING))
        if found.operator != _master(visitor):
            raise KeyServiceError(Reason.NOT_FOUND, "no such pairing of this user")
        return found


def _master(visitor: Visitor) -> bytes:
    if not visitor.device.is_master:
        raise KeyServiceError(Reason.DEVICE_ROLE_MISSING, "only a master pairs machines")
    return visitor.operator.operator_omni


def _pairing(ceremony: Ceremony) -> Pairing:
    detail = detail_of(ceremony)
    services: Sequence[str] = detail["services"].split()
    pair = detail.get("pair")
    return Pairing(
        ceremony=ceremony,
        public_key=b64u_decode(detail["public_key"]),
        request=PairingRequest(
            label=detail["label"] or None,
            services=tuple(services),
            profile_hash=b64u_decode(detail["profile_hash"]),
        ),
        operator=bytes.fromhex(detail.get("operator", "")),
        pair=None if pair is None else strict_json(pair.encode(), limit=_PAIR_LIMIT, reason=Reason.INTERNAL),
    )
