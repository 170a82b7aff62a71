"""First binds of identities that are no wallet: what proves itself goes on to the signer."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.changes import Enrol, parse_change
from agentkeys_core.encoding import b64u_encode, canonical_json, fields, hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import MAX_EVIDENCE_BYTES, EmailEvidence, parse_evidence
from agentkeys_core.signed_change import MAX_CHANGE_BYTES
from agentkeys_runtime.web.endpoints import Call, Endpoint
from agentkeys_runtime.web.schemas import B64U, HEX16, closed
from broker.ceremonies.email_enrolment import EmailEnrolment
from broker.ports import EnrolAttester
from broker.web.session_routes import claim_of

#: The signer checks evidence, and signs.
ATTEST_PRICE: Final = 10
_BODY_LIMIT: Final = MAX_CHANGE_BYTES + MAX_EVIDENCE_BYTES
_ID_BYTES: Final = 16
_ENROL: Final = closed({"message": {"type": "object"}, "type": {"const": "Enrol"}})
_ANSWER: Final = closed({"signature": B64U})


def enrolment_endpoints(attester: EnrolAttester) -> tuple[Endpoint, ...]:
    """Return the route that relays evidence. It needs no session: the evidence binds the device's own keys."""

    def attest(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("change", "evidence"), reason=Reason.INVALID_BODY)
        change = fields(members["change"], required=("message", "type"), reason=Reason.INVALID_CHANGE)
        parse_change(change["type"], change["message"])  # what is malformed does not travel on
        evidence = canonical_json(members["evidence"])
        if isinstance(parse_evidence(evidence), EmailEvidence):
            # The broker's own word: only its ceremony may give that, once somebody has answered the letter.
            raise KeyServiceError(Reason.INVALID_EVIDENCE, "an e-mail address proves nothing by itself")
        return {"signature": b64u_encode(attester.attest_enrol(canonical_json(change), evidence))}

    return (
        Endpoint(
            method="POST",
            path="/v1/enrolments/attest",
            summary="Has an ID token or a passkey's assertion checked; answers with the initial wallet's signature.",
            handler=attest,
            price=ATTEST_PRICE,
            body_limit=_BODY_LIMIT,
            request=closed(
                {
                    "change": _ENROL,
                    "evidence": {"type": "object", "required": ["type"]},
                }
            ),
            response=_ANSWER,
        ),
    )


def email_enrolment_endpoints(desk: EmailEnrolment) -> tuple[Endpoint, ...]:
    """Return the route that turns a confirmed address into evidence."""

    def attest(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("ceremony", "change"), reason=Reason.INVALID_BODY)
        ceremony = hex_decode(members["ceremony"], length=_ID_BYTES, reason=Reason.INVALID_BODY)
        change = fields(members["change"], required=("message", "type"), reason=Reason.INVALID_CHANGE)
        enrol = parse_change(change["type"], change["message"])
        if not isinstance(enrol, Enrol):
            raise KeyServiceError(Reason.INVALID_CHANGE, "not an Enrol")
        return {"signature": b64u_encode(desk.attest(claim_of(call), ceremony, enrol))}

    return (
        Endpoint(
            method="POST",
            path="/v1/enrolments/email",
            summary="The initial wallet's signature for the device that confirmed an address (proof: request).",
            handler=attest,
            price=ATTEST_PRICE,
            proof="request",
            body_limit=MAX_CHANGE_BYTES,
            request=closed({"ceremony": HEX16, "change": _ENROL}),
            response=_ANSWER,
        ),
    )
