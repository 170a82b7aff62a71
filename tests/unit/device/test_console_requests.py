"""What an agent wants signed, approved in the console: shown first, and its own master's agents' alone."""

import json
from collections.abc import Callable, Iterator

import pytest

from agentkeys_core.captoken import UncosignedCap
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op, Service
from agentkeys_core.signing_bodies import TypedDataBody
from agentkeys_core.webauthn_check import verify_assertion
from device.approval import ApprovalRequest, parse_approval
from device.client import prepare
from device.home import Home
from device.session import Device
from device.show import Show
from tests.fakes.signing_policy import POLICY_ID, permit
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.deployment import Deployment
from tests.unit.device.persons import Person


@pytest.fixture
def visitor(master: Person) -> Iterator[Visitor]:
    with console_at(master.home) as made:
        yield made


def asked_by(agent: Person, op: Op = Op.TYPED_DATA_SIGN, service: str = f"sign:{POLICY_ID}") -> ApprovalRequest:
    """What the agent's command prints."""
    body = TypedDataBody(typed_data=permit(DeviceKey.generate().address)).encode()
    with Home.open(agent.home) as home, Device.open(home, Show(as_json=True, yes=True)) as device:
        cap = prepare(device, op, Service.parse(service, op), body, epoch=1, k11=False).cap
    bare = UncosignedCap(
        request=cap.request, device_public_key=cap.device_public_key, device_signature=cap.device_signature, k11=None
    )
    return ApprovalRequest(cap=bare, body=body)


def test_it_is_shown_and_the_line_given_back_is_for_it_alone(
    visitor: Visitor, agent: Person, deployment: Deployment
) -> None:
    asked = asked_by(agent)
    assert visitor.send("/do", what="request", request=f" {asked.encode()}\n") == {"go": "job"}
    shown = visitor.get("/page/job").text
    assert "Sign typed data with the wallet" in shown
    assert "Permit" in shown
    assert asked.cap.request.digest.hex() in shown
    assert "Give this line back" in visitor.agree()
    assertion = parse_approval(visitor.file().text)
    (state,) = deployment.states.values()
    public = state.masters()[0].k11
    assert public is not None
    verify_assertion(assertion, challenge=cap_challenge(asked.cap.request.digest), public=public)


def test_who_declines_gives_nothing_back(visitor: Visitor, agent: Person) -> None:
    visitor.send("/do", what="request", request=asked_by(agent).encode())
    visitor.answer("declined")
    assert "declined" in visitor.get("/page/job").text
    assert visitor.file().status_code == 404


@pytest.mark.parametrize("line", ["", "junk", "e30", "a" * 1000])
def test_a_line_that_is_none_is_refused_by_name(visitor: Visitor, line: str) -> None:
    assert visitor.send("/do", what="request", request=line)["reason"] == "bad_file"
    assert visitor.console._job is None


def test_nothing_else_is_approved(visitor: Visitor, agent: Person, person: Callable[[str], Person]) -> None:
    asked = asked_by(agent)
    members = json.loads(b64u_decode(asked.encode()))
    swapped = b64u_encode(canonical_json({**members, "body": "e30"}))
    members["cap"]["device_signature"] = "A" * 86
    forged = b64u_encode(canonical_json(members))
    other_kind = asked_by(agent, Op.CRED_FETCH, "cred:openrouter").encode()
    for line, reason in ((swapped, "usage"), (forged, "device_signature_invalid"), (other_kind, "usage")):
        assert visitor.send("/do", what="request", request=line) == {"go": "job"}
        assert f"<code>{reason}</code>" in visitor.get("/page/job").text
    stranger = person("stranger")
    assert stranger.init().code == 0
    with console_at(stranger.home) as other:
        other.send("/do", what="request", request=asked.encode())
        assert "of another user" in other.get("/page/job").text
