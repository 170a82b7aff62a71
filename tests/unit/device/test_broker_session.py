"""A device's session at the real routes of the broker: begun once, kept fresh, begun anew, and closed to liars."""

from collections.abc import Iterator
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from device.broker_session import BrokerSession
from device.errors import DeviceError, Trouble
from device.home import Home
from device.session import Device
from device.show import Show
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment


@pytest.fixture
def device(master: Person) -> Iterator[Device]:
    with Home.open(master.home) as home, Device.open(home, Show()) as opened:
        yield opened


def asked(deployment: Deployment) -> list[str]:
    return [path for part, path in deployment.seen if part == "broker" and "session" in path]


def sessions(session: BrokerSession) -> list[Any]:
    told: Any = session.ask("GET", "/v1/sessions")
    found: list[Any] = told["sessions"]
    return found


def test_signs_in_once_and_asks_on(deployment: Deployment, device: Device) -> None:
    deployment.seen.clear()
    session = BrokerSession(device)
    assert [entry["device"] for entry in sessions(session)] == [device.k10.key_hash.hex()]
    sessions(session)
    assert asked(deployment) == ["/v1/session/challenge", "/v1/session", "/v1/sessions", "/v1/sessions"]


def test_a_token_that_ends_soon_is_exchanged(deployment: Deployment, device: Device) -> None:
    session = BrokerSession(device)
    first = sessions(session)
    deployment.identity.ahead_s = 590
    device.clock = deployment.identity.clock
    deployment.seen.clear()
    assert sessions(session) == first  # the same session
    assert asked(deployment) == ["/v1/session/refresh", "/v1/sessions"]


def test_a_session_that_was_ended_is_begun_anew(deployment: Deployment, device: Device) -> None:
    session = BrokerSession(device)
    (first,) = sessions(session)
    assert session.ask("POST", "/v1/session/end", {"id": first["id"]}) == {"ended": True}
    (second,) = sessions(session)
    assert second["id"] != first["id"]


def test_a_session_that_is_over_is_begun_anew(deployment: Deployment, device: Device) -> None:
    session = BrokerSession(device)
    (first,) = sessions(session)
    deployment.identity.ahead_s = 13 * 3600
    device.clock = deployment.identity.clock
    (second,) = sessions(session)
    assert second["id"] != first["id"]


def test_asks_again_once_only(deployment: Deployment, device: Device) -> None:
    refused = (401, {"reason": "session_invalid", "status": 401})
    deployment.hooks["broker", "/v1/sessions"] = lambda _: refused
    deployment.seen.clear()
    with pytest.raises(KeyServiceError) as caught:
        BrokerSession(device).ask("GET", "/v1/sessions")
    assert caught.value.reason is Reason.SESSION_INVALID
    assert asked(deployment).count("/v1/sessions") == 2


def test_another_refusal_is_final(deployment: Deployment, device: Device) -> None:
    deployment.seen.clear()
    with pytest.raises(KeyServiceError) as caught:
        BrokerSession(device).ask("POST", "/v1/session/end", {"id": "none"})
    assert caught.value.reason is Reason.INVALID_BODY
    assert asked(deployment).count("/v1/session/end") == 1


@pytest.mark.parametrize("nonce", [None, 7, "", "ab" * 55, "AB" * 56, "\r\n" * 56, "\u00e4" * 112])
def test_signs_no_challenge_that_is_none(deployment: Deployment, device: Device, nonce: object) -> None:
    """What the broker has us sign is a nonce, not text of its choice."""
    deployment.hooks["broker", "/v1/session/challenge"] = lambda _: (200, {"expires_at": 1, "nonce": nonce})
    deployment.seen.clear()
    with pytest.raises(DeviceError) as caught:
        sessions(BrokerSession(device))
    assert caught.value.reason is Trouble.ANSWER_NOT_TRUSTED
    assert asked(deployment) == ["/v1/session/challenge"]


@pytest.mark.parametrize("token", [None, "", "a\r\nHost: evil", "\u00e4", "a" * 4097, "a b"])
def test_a_token_that_is_none_goes_into_no_header(deployment: Deployment, device: Device, token: object) -> None:
    grant = {"session": {}, "token": token, "token_expires_at": 1}
    deployment.hooks["broker", "/v1/session"] = lambda _: (200, grant)
    with pytest.raises(DeviceError) as caught:
        sessions(BrokerSession(device))
    assert caught.value.reason is Trouble.ANSWER_NOT_TRUSTED


@pytest.mark.parametrize("grant", [[], {}, {"token": "a"}, {"session": {}, "token": "a", "token_expires_at": "soon"}])
def test_an_answer_that_is_no_session_is_not_trusted(deployment: Deployment, device: Device, grant: object) -> None:
    deployment.hooks["broker", "/v1/session"] = lambda _: (200, grant)
    with pytest.raises(DeviceError) as caught:
        sessions(BrokerSession(device))
    assert caught.value.reason is Trouble.ANSWER_NOT_TRUSTED


def test_a_token_shows_in_no_repr(device: Device) -> None:
    session = BrokerSession(device)
    sessions(session)
    assert "token" not in repr(session._grant)
