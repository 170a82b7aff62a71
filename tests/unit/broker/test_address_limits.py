"""What strangers at one address may ask of broker and workers, and that nobody else ever pays for it."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.keys import DeviceKey
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.registry_routes import CHANGE_PRICE
from agentkeys_runtime.web.second_look import OF_A_DEVICE
from broker.quota import QuotaLimits
from broker.web.ceremony_shapes import POLL_PRICE
from tests.fakes.app_client import AppClient
from tests.fakes.services_kit import Asked, Services, services_in
from tests.unit.broker.visitor import Visit

#: Nothing comes back while a test runs.
BURST = 20
LIMITS = AddressLimits(per_second=1e-6, burst=BURST)
HERE, THERE = "192.0.2.1", "2001:db8:1:2::1"
Door = Callable[[str, str], AppClient]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    quota = QuotaLimits(device_per_minute=1000, user_per_minute=1000)
    with services_in(tmp_path, addresses=LIMITS, limits=quota) as made:
        yield made


@pytest.fixture
def door(services: Services) -> Iterator[Door]:
    """A client of a service, at an address."""
    with ExitStack() as stack:
        apps = {"broker": services.broker.app, "worker": services.worker.app}
        yield lambda service, address: stack.enter_context(AppClient(apps[service], address))


def caps(client: AppClient, asked: Asked, **changed: object) -> httpx.Response:
    cap = dataclasses.replace(asked.uncosigned, **changed)  # type: ignore[arg-type]  # the tests say what they change
    return client.post("/v1/caps", content=cap.encode(), headers={"Content-Type": "application/json"})


def reasons(ask: Callable[[], httpx.Response], times: int = 2 * BURST) -> list[str]:
    """Why so many requests, one after the other, were refused; "ok" for those that were not."""
    return [answer.json().get("reason", "ok") for answer in (ask() for _ in range(times))]


def strangers_cap(services: Services) -> Asked:
    """A request whose key nobody registered, and whose signature is good."""
    return services.names(key=DeviceKey.generate())


STRANGERS: dict[str, tuple[str, Callable[[AppClient, Services], httpx.Response]]] = {
    "a device nobody registered": ("device_unknown", lambda client, s: caps(client, strangers_cap(s))),
    "a bad signature in a victim's name": (
        "device_signature_invalid",
        lambda client, s: caps(client, s.names(), device_signature=bytes(64)),
    ),
    "noise": (
        "invalid_body",
        lambda client, _: client.post("/v1/caps", content=b"{", headers={"Content-Type": "application/json"}),
    ),
    "reads of what is nobody": (
        "ok",
        lambda client, _: client.get(f"/v1/registry/devices/{DeviceKey.generate().key_hash.hex()}"),
    ),
    "addresses": ("ok", lambda client, _: client.post("/v1/derive-address", json={"omni": "ab" * 32})),
    "challenges": ("ok", lambda client, _: client.get("/v1/session/challenge")),
    "sessions without a proof": ("proof_invalid", lambda client, _: client.get("/v1/sessions")),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_strangers_are_bounded_by_address(services: Services, door: Door, what: str) -> None:
    expected, ask = STRANGERS[what]
    here = door("broker", HERE)
    assert reasons(lambda: ask(here, services)) == [expected] * BURST + ["rate_limited"] * BURST
    calls = len(services.broker_signer.calls)
    assert int(ask(here, services).headers["retry-after"]) > 0
    assert len(services.broker_signer.calls) == calls, "what is refused costs the signer nothing"
    there = door("broker", THERE)
    assert reasons(lambda: ask(there, services), BURST) == [expected] * BURST


def test_a_registered_device_is_never_short_and_pays_for_nobody(services: Services, door: Door) -> None:
    """Strangers may name it as often as they like: neither its quota nor its address is charged for what they send."""
    here, there = door("broker", HERE), door("broker", THERE)
    assert set(reasons(lambda: caps(there, services.names(), device_signature=bytes(64)))) == {
        "device_signature_invalid",
        "rate_limited",
    }
    assert reasons(lambda: caps(here, services.names()), 5 * BURST) == ["ok"] * 5 * BURST
    known = services.world.user.master.key_hash.hex()
    assert reasons(lambda: here.get(f"/v1/registry/devices/{known}"), 5 * BURST) == ["ok"] * 5 * BURST
    wayward = reasons(
        lambda: caps(here, services.fetch(key=services.world.user.agent, service="cred:another")), 5 * BURST
    )
    assert wayward == ["service_not_in_scope"] * 5 * BURST


def test_a_device_beyond_its_quota_is_a_stranger_again(tmp_path: Path) -> None:
    quota = QuotaLimits(device_per_minute=5, user_per_minute=1000)
    with (
        services_in(tmp_path, addresses=LIMITS, limits=quota) as services,
        AppClient(services.broker.app, HERE) as here,
    ):
        times = 2 * BURST + int(OF_A_DEVICE.burst)  # for it is known, and has a bucket of its own besides
        details = [caps(here, services.names()).json().get("detail", "ok") for _ in range(times)]
    assert details[:5] == ["ok"] * 5
    assert details[5].startswith("a device has")
    assert details[-1].startswith("too many requests from this address")


def test_a_session_is_somebody(services: Services, door: Door) -> None:
    here = door("broker", HERE)
    visit = Visit(here, services.world.clock, services.world.user.master)
    assert visit.sign_in().status_code == 200
    assert reasons(visit.sessions, 3 * BURST) == ["ok"] * 3 * BURST
    assert reasons(lambda: visit.sessions(token="x.y.z")) == ["session_invalid"] * (BURST - 1) + ["rate_limited"] * (
        BURST + 1
    )


def test_machines_that_pair_are_counted_at_each_step(services: Services, door: Door) -> None:
    """They are strangers until a master has added them: asking how far it is costs little, and not nothing."""
    here = door("broker", HERE)
    visit = Visit(here, services.world.clock, DeviceKey.generate())
    body = json.dumps({"label": "x", "profile_hash": b64u_encode(bytes(32)), "services": []}).encode()
    pairing = visit.begin("/v1/pairings", body).json()["id"]
    path = f"/v1/pairings/{pairing}"
    polls = int((BURST - 2) / POLL_PRICE)  # its challenge, and the pairing itself, cost 1
    found = reasons(lambda: visit.ask("request", "GET", path, b""), polls + 5)
    assert found[: polls - 1] == ["ok"] * (polls - 1)
    assert found[-4:] == ["rate_limited"] * 4


def test_changes_cost_more_at_the_worker_as_well(services: Services, door: Door) -> None:
    """Whatever became of them: anybody can make the keys for an Enrol of their own, and send an old change again."""
    change = json.dumps(
        {
            "change": {
                "type": "Freeze",
                "message": {"operatorOmni": "0x" + "ab" * 32, "incarnation": 1, "freezeNonce": 0},
            },
            "signatures": {"k10": b64u_encode(bytes(65)), "k11": []},
        }
    ).encode()
    headers = {"Content-Type": "application/json"}
    for service in ("broker", "worker"):
        client = door(service, HERE)
        found = reasons(lambda client=client: client.post("/v1/registry/changes", content=change, headers=headers))  # type: ignore[misc]
        assert found.count("rate_limited") == 2 * BURST - BURST // CHANGE_PRICE
    assert len(services.followed.applied) <= 2 * BURST // CHANGE_PRICE


def test_a_worker_counts_who_has_no_cap(services: Services, door: Door) -> None:
    here = door("worker", HERE)
    forged = services.names().json()
    forged["cap"]["cosign"] = b64u_encode(bytes(64))
    path = "/v1/credentials/list"
    assert (
        reasons(lambda: here.post(path, json=forged)) == ["broker_signature_invalid"] * BURST + ["rate_limited"] * BURST
    )
    there = door("worker", THERE)
    assert reasons(lambda: there.post(path, json=services.names().json()), 2 * BURST) == ["ok"] * 2 * BURST
