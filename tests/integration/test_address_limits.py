"""Limits of an address, at every route of every service as it wires itself, and at a process over TLS."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.addresses import LEAST_BURST, AddressLimits
from broker.web.ceremony_shapes import POLL_PRICE
from device import credentials
from device.agents import freeze, revoke_device
from tests.adversarial.town import OPENROUTER, Town, town_in
from tests.fakes.app_client import AppClient
from tests.integration.routes import operations
from tests.integration.wired import WORKERS, Wired

#: Nothing comes back while a test runs.
LIMITS = AddressLimits(per_second=1e-6, burst=LEAST_BURST)
#: Requests of the lowest price that use up such a burst.
CHEAPEST = int(LEAST_BURST / POLL_PRICE)
#: What strangers may have as often as they like: it costs next to nothing. Every other route is limited.
FREE = {
    "GET /openapi.json",
    "GET /healthz",
    "GET /identity/style.css",
    "GET /identity/passkey.js",
    "GET /v1/identity/oidc/issuers",
    "GET /v1/profile",
}


@pytest.mark.parametrize("service", ["broker", *WORKERS])
def test_every_route_is_limited_but_those_that_are_named_here(wired: Wired, service: str) -> None:
    with wired.limited(service, LIMITS) as app:
        found = {}
        with AppClient(app) as client:
            every = [operation for operation in operations(client) if not operation.path.startswith("/dev/")]
        for number, operation in enumerate(every):
            with AppClient(app, f"198.51.100.{number}") as client:
                path = operation.at("00" * 32)
                first = client.request(operation.method, path, **operation.junk())
                assert first.status_code != 429, f"{operation.name} costs more than a whole burst"
                asked = (client.request(operation.method, path, **operation.junk()) for _ in range(CHEAPEST))
                found[operation.name] = any(answer.status_code == 429 for answer in asked)
    assert {name for name, limited in found.items() if not limited} == FREE & set(found)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A deployment whose broker and worker believe a proxy at 127.0.0.9."""
    few = f'[addresses]\nper_second = 0.001\nburst = {LEAST_BURST}\nproxies = ["127.0.0.9"]\n'
    settings = {"broker": few, "credentials": few}
    folder = tmp_path_factory.mktemp("limited") / "stack"
    with town_in(folder, "issuer", "signer", *settings, settings=settings) as made:
        yield made


def read(town: Town, part: str, source: str, **headers: str) -> httpx.Response:
    """Ask for a device that nobody registered, from one of loopback's many addresses."""
    context = ssl.create_default_context(cafile=str(town.stack.ca))
    with httpx.Client(transport=httpx.HTTPTransport(verify=context, local_address=source)) as client:
        return client.get(f"{town.stack.origin(part)}/v1/registry/devices/{'00' * 32}", headers=headers)


@pytest.mark.parametrize("part", ["broker", "credentials"])
def test_a_process_counts_by_address_and_believes_its_proxy_alone(town: Town, part: str) -> None:
    forged = {"X-Forwarded-For": "127.0.0.3"}
    for _ in range(LEAST_BURST):
        assert read(town, part, "127.0.0.2", **forged).status_code == 200
    refused = read(town, part, "127.0.0.2", **forged)
    assert (refused.status_code, refused.json()["reason"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) > 0
    for _ in range(LEAST_BURST):  # all of the victim's own requests are still there
        assert read(town, part, "127.0.0.3").status_code == 200
    assert read(town, part, "127.0.0.9", **forged).status_code == 429
    assert read(town, part, "127.0.0.9", **{"X-Forwarded-For": "127.0.0.3, 127.0.0.4"}).status_code == 200


def test_a_neighbour_floods_and_a_master_goes_on(tmp_path: Path) -> None:
    """Over real processes, which learn of the registry by its stream: reads, a freeze, a revocation, a cap."""
    few = "[addresses]\nper_second = 0.001\nburst = 100\n"
    settings = {"broker": few, "credentials": few}
    with town_in(tmp_path / "stack", "issuer", "signer", *settings, settings=settings) as town:
        master = town.master()
        agent = town.agent(master, OPENROUTER)
        credentials.put(master.device, "openrouter", b"before")  # each of them has seen the master by now
        for part in settings:
            while read(town, part, "127.0.0.1").status_code != 429:
                pass
        assert credentials.get(master.device, "openrouter").value == b"before"
        freeze(master.device)
        with pytest.raises(KeyServiceError) as caught:
            credentials.get(master.device, "openrouter")
        assert caught.value.reason is Reason.OPERATOR_FROZEN
        revoke_device(master.device, agent.key.key_hash)
        for part in settings:
            assert read(town, part, "127.0.0.1").status_code == 429
