"""The worker's routes, made from one table a class: shapes in, admission, one call, sealed answer out."""

from collections.abc import Callable, Mapping
from typing import Final

from agentkeys_core.bodies import MAX_BODY_BYTES
from agentkeys_core.captoken import MAX_CAP_BYTES
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields
from agentkeys_core.errors import Reason
from agentkeys_core.ops import OPS, Op
from agentkeys_core.sealing import seal
from agentkeys_runtime.web.endpoints import Call, Endpoint, Known, always
from agentkeys_runtime.web.schemas import B64U, CAP, HEX32, ROW, closed
from agentkeys_runtime.web.vouching import vouching
from worker.admission import Admission, Admitted
from worker.credentials import Outcome

#: The largest body in base64, and a cap of the largest size written with any spacing.
REQUEST_LIMIT: Final = MAX_BODY_BYTES * 4 // 3 + 4 * MAX_CAP_BYTES
_REQUEST: Final = closed({"body": B64U, "cap": CAP})
_ANSWER: Final = closed({"cap_digest": HEX32, "row": {"oneOf": [ROW, {"type": "null"}]}, "sealed": B64U})

Operation = Callable[[Admitted], Outcome]


def operation_endpoints(admission: Admission, operations: Mapping[Op, Operation]) -> tuple[Endpoint, ...]:
    """Return one POST route for each operation: /v1/<class>/<what the op's name says after its first hyphen>."""
    return tuple(_endpoint(admission, op, operation) for op, operation in operations.items())


def _endpoint(admission: Admission, op: Op, operation: Operation) -> Endpoint:
    def members_of(call: Call) -> Mapping[str, object]:
        return fields(call.json(), required=("body", "cap"), reason=Reason.INVALID_BODY)

    def known(call: Call) -> Known | None:
        return admission.known(canonical_json(members_of(call)["cap"]))

    def handler(call: Call) -> Mapping[str, object]:
        members = members_of(call)
        body = b64u_decode(members["body"], reason=Reason.INVALID_BODY)
        admitted = admission.admit(op, canonical_json(members["cap"]), body)
        with vouching():
            outcome = operation(admitted)
        return {
            "cap_digest": admitted.digest.hex(),
            "row": None if outcome.row is None else outcome.row.to_json(),
            "sealed": b64u_encode(seal(admitted.request.reply_key, admitted.digest, outcome.plaintext)),
        }

    return Endpoint(
        method="POST",
        path=f"/v1/{OPS[op].worker_class}/{op.value.partition('-')[2]}",
        summary=f"{op}: a co-signed cap and the body that it commits to; the answer is sealed to the cap's reply_key.",
        handler=handler,
        given_back=always,
        known=known,
        body_limit=REQUEST_LIMIT,
        request=_REQUEST,
        response=_ANSWER,
    )
