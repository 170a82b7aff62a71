"""What the broker tells a master of its user's devices, beside what the registry says."""

from collections.abc import Mapping

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.endpoints import Call, Endpoint, always
from agentkeys_runtime.web.schemas import HEX32, SECONDS, closed
from agentkeys_runtime.web.vouching import vouching
from broker.last_use import LastUse
from broker.sessions import SessionDesk, Visitor
from broker.web.session_routes import claim_of, known_by_proof


def device_endpoints(sessions: SessionDesk, last_use: LastUse) -> tuple[Endpoint, ...]:
    """Return the route of last uses."""

    def uses(call: Call) -> Mapping[str, object]:
        visitor = sessions.visitor(claim_of(call))
        with vouching():
            _check_master(visitor)
        found = last_use.of_operator(visitor.operator.operator_omni)
        return {"uses": [{"device": device.hex(), "used_at": found[device]} for device in sorted(found)]}

    return (
        Endpoint(
            method="GET",
            path="/v1/devices/uses",
            summary="When the broker last co-signed for each of a master's devices, to the minute.",
            handler=uses,
            proof="request",
            session=True,
            given_back=always,
            known=known_by_proof(sessions, "request"),
            response=closed(
                {"uses": {"type": "array", "items": closed({"device": HEX32, "used_at": SECONDS})}},
            ),
        ),
    )


def _check_master(visitor: Visitor) -> None:
    """When its user is at work is nothing that an agent needs to know."""
    if not visitor.device.is_master:
        raise KeyServiceError(Reason.DEVICE_ROLE_MISSING, "only a master is told when devices were used")
