"""A master's K11 for an agent's request: the agent's command asks, the master's shows it and approves.

Each is a line of text. The request is signed by the agent's device and lives for five minutes; the approval is good
for it alone.
"""

import hmac
from dataclasses import dataclass, field
from typing import Final, Self

from agentkeys_core.bodies import request_hash
from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.device_signature import verify_device_signature
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11Assertion
from agentkeys_core.ops import Op
from agentkeys_core.signing_bodies import TypedDataBody
from device.errors import DeviceError, Trouble
from device.intent import request_intent
from device.session import Device
from device.signing import typed_lines

MAX_TEXT: Final = 3 * 1024 * 1024
_BAD: Final = Reason.INVALID_ENCODING


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """What an agent asks a master to approve: its request, signed by the agent's device, and the request's body."""

    cap: UncosignedCap
    body: bytes = field(repr=False)

    def encode(self) -> str:
        """One line of text."""
        return b64u_encode(canonical_json({"body": b64u_encode(self.body), "cap": self.cap.to_json()}))

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read `encode`'s text. Raises `bad_file`."""
        try:
            data = parse_canonical(b64u_decode(line.strip()), limit=MAX_TEXT, not_canonical=_BAD)
            members = fields(data, required=("body", "cap"), reason=_BAD)
            return cls(cap=UncosignedCap.from_json(members["cap"]), body=b64u_decode(members["body"]))
        except KeyServiceError as exc:
            raise DeviceError(Trouble.BAD_FILE, f"not a request for approval: {exc}") from exc


def approve(device: Device, asked: ApprovalRequest) -> K11Assertion:
    """This master's K11 over the agent's request, after it was shown and the person agreed.

    Raises:
        DeviceError: `usage` for a request of another user, op or body, `declined`, or as the authenticator.
        KeyServiceError: `device_signature_invalid`, `invalid_typed_data`.
    """
    request = asked.cap.request
    if request.operator_omni != device.identity().operator_omni or request.aud != device.profile.aud:
        raise DeviceError(Trouble.USAGE, "the request is of another user or deployment")
    if request.op is not Op.TYPED_DATA_SIGN:
        raise DeviceError(Trouble.USAGE, f"{request.op} is not approved this way")
    if not hmac.compare_digest(request_hash(asked.body), request.request_hash):
        raise DeviceError(Trouble.USAGE, "the request commits to another body")
    verify_device_signature(asked.cap)
    intent = request_intent(request, details=typed_lines(TypedDataBody.parse(asked.body).content()))
    device.show.signing(intent)
    device.show.confirm("Approve this with K11?")
    authenticator, record = device.k11()
    return authenticator.approve(record, device.k10.sign_request(request), intent)


def parse_approval(line: str) -> K11Assertion:
    """Read the line that a master's command printed. Raises `bad_file`."""
    try:
        data = parse_canonical(b64u_decode(line.strip()), limit=MAX_TEXT, not_canonical=_BAD)
        return K11Assertion.parse(data)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"not an approval: {exc}") from exc


def encode_approval(assertion: K11Assertion) -> str:
    """One line of text."""
    return b64u_encode(canonical_json(assertion.encode()))
