"""First binds of identities that are no wallet: what proves itself goes on to the signer."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.changes import parse_change
from agentkeys_core.encoding import b64u_encode, canonical_json, fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import MAX_EVIDENCE_BYTES, EmailEvidence, parse_evidence
from agentkeys_core.signed_change import MAX_CHANGE_BYTES
from agentkeys_runtime.web.endpoints import Call, Endpoint
from agentkeys_runtime.web.schemas import B64U, closed
from broker.ports import EnrolAttester

_BODY_LIMIT: Final = MAX_CHANGE_BYTES + MAX_EVIDENCE_BYTES


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
            body_limit=_BODY_LIMIT,
            request=closed(
                {
                    "change": closed({"message": {"type": "object"}, "type": {"const": "Enrol"}}),
                    "evidence": {"type": "object", "required": ["type"]},
                }
            ),
            response=closed({"signature": B64U}),
        ),
    )
