"""The broker's HTTP edge: every route, whatever bytes come."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.encoding import address_encode
from agentkeys_core.errors import KeyServiceError, Reason
from tests.fakes.services_kit import Services

KNOWN = {str(reason) for reason in Reason} - {"internal"}
HOSTILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
POSTS = ["/v1/caps", "/v1/derive-address", "/v1/registry/changes", "/v1/sign/siwe", "/v1/sign/typed-data"]
OMNI = "ab" * 32


def post(services: Services, path: str, content: bytes) -> Any:
    return services.broker.post(path, content=content, headers={"Content-Type": "application/json"})


def test_an_address_is_derived_at_the_current_or_the_named_epoch(services: Services) -> None:
    def asked(body: dict[str, object]) -> dict[str, object]:
        found: dict[str, object] = services.broker.post("/v1/derive-address", json=body).json()
        return found

    def address(epoch: int) -> dict[str, object]:
        derived = services.world.keyring.address(bytes.fromhex(OMNI), epoch)
        return {"address": address_encode(derived), "epoch": epoch}

    assert asked({"omni": OMNI}) == address(1)
    assert asked({"omni": OMNI, "epoch": 2})["reason"] == "epoch_not_held"  # prepared, and not begun
    services.world.registry.set_epoch(2)
    assert asked({"omni": OMNI}) == address(2)
    assert asked({"omni": OMNI, "epoch": 1}) == address(1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "invalid_body"),
        ({"omni": "AB" * 32}, "invalid_omni"),
        ({"omni": OMNI[:-2]}, "invalid_omni"),
        ({"omni": 1}, "invalid_omni"),
        ({"omni": OMNI, "epoch": 0}, "invalid_body"),
        ({"omni": OMNI, "epoch": True}, "invalid_body"),
        ({"omni": OMNI, "epoch": 2**32}, "invalid_body"),
        ({"omni": OMNI, "more": 1}, "unknown_fields"),
        ({"omni": OMNI, "wallet": 1}, "invalid_body"),
        ({"omni": OMNI, "wallet": True, "epoch": 1}, "invalid_body"),
        ([], "invalid_body"),
    ],
)
def test_a_malformed_address_request_does_not_reach_the_signer(services: Services, body: Any, reason: str) -> None:
    answer = services.broker.post("/v1/derive-address", json=body)
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)
    assert services.broker_signer.calls == []


def test_the_signers_refusals_pass_through(services: Services) -> None:
    answer = services.broker.post("/v1/derive-address", json={"omni": OMNI, "epoch": 9})
    assert (answer.status_code, answer.json()["reason"]) == (409, "epoch_not_held")

    def down(name: str) -> None:
        raise KeyServiceError(Reason.SIGNER_UNREACHABLE)

    services.broker_signer.before = down
    answer = services.broker.post("/v1/derive-address", json={"omni": OMNI})
    assert (answer.status_code, answer.json()["reason"]) == (503, "signer_unreachable")


@pytest.mark.parametrize("path", ["/dev/derive-address", "/dev/sign-message"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_the_daemon_edge_is_gone_for_every_method(services: Services, path: str, method: str) -> None:
    answer = services.broker.request(method, path, headers={"Authorization": "Bearer token"})
    assert answer.status_code == 410
    assert answer.json()["reason"] == "gone"
    expected = "/v1/derive-address" if path.endswith("address") else "POST /v1/sign/siwe"
    assert expected in answer.json()["instead"]
    assert "signer-protocol.md" in answer.json()["see"]
    assert services.broker_signer.calls == []


def test_any_spacing_and_order_of_a_cap_is_taken(services: Services) -> None:
    members = services.names().uncosigned.to_json()
    loose = json.dumps(dict(reversed(members.items())), indent=3).encode()
    assert post(services, "/v1/caps", loose).status_code == 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "invalid_body"),
        (b"null", "invalid_cap"),
        (b"{}", "invalid_cap"),
        (b'{"a":1}', "unknown_fields"),
        (b'{"k11":null,"k11":null}', "invalid_body"),
        (b'{"k11":1.0}', "invalid_body"),
        (b"[" * 50, "invalid_body"),
        (b"\xff\xfe", "invalid_body"),
        (b'{"k11":"\\ud800"}', "invalid_body"),
    ],
)
def test_a_body_that_is_no_cap_has_its_reason(services: Services, content: bytes, reason: str) -> None:
    answer = post(services, "/v1/caps", content)
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)


def test_a_co_signed_cap_is_not_taken(services: Services) -> None:
    assert post(services, "/v1/caps", services.names().cap).json()["reason"] == "unknown_fields"


@HOSTILE
@given(content=st.binary(max_size=300), path=st.sampled_from(POSTS))
def test_random_bytes_get_a_named_refusal(services: Services, content: bytes, path: str) -> None:
    answer = post(services, path, content)
    assert answer.status_code == 400
    assert answer.json()["reason"] in KNOWN
    assert services.followed.applied == []


@HOSTILE
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_caps_get_a_named_refusal_or_a_co_signature(services: Services, changes: list[tuple[int, int]]) -> None:
    content = bytearray(services.names().uncosigned.encode())
    for at, byte in changes:
        content[at % len(content)] = byte
    answer = post(services, "/v1/caps", bytes(content))
    assert answer.status_code < 500, answer.text
    assert answer.status_code == 200 or answer.json()["reason"] in KNOWN


@HOSTILE
@given(part=st.text(max_size=80))
def test_any_path_gets_a_named_refusal_or_a_state(services: Services, part: str) -> None:
    path = "".join(f"%{byte:02x}" for byte in part.encode("utf-8", "surrogatepass"))
    for prefix in ("/v1/registry/operators/", "/v1/registry/devices/", "/"):
        answer = services.broker.get(prefix + path)
        assert answer.status_code in {200, 400, 404, 405, 410}


@pytest.mark.parametrize("epoch", [None, 0, "1", 1.0, True, 2**32])
def test_an_epoch_that_is_named_is_one(services: Services, epoch: object) -> None:
    answer = services.broker.post("/v1/derive-address", json={"omni": OMNI, "epoch": epoch})
    assert answer.json()["reason"] == "invalid_body"
