"""Ceremonies are strangers': each of their steps costs their address something, and an office can enrol all the same."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.registry_routes import CHANGE_PRICE
from broker.adapters.store.engine import database_url
from broker.ceremonies import email, oidc, pairing, passkey
from broker.ceremonies.oidc import CALLBACK, way_back
from broker.web.ceremony_shapes import POLL_PRICE
from broker.web.enrolment_routes import ATTEST_PRICE
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.mail_server import MailServer
from tests.unit.broker.identity_world import IdentityWorld, identity_world, mail_settings
from tests.unit.broker.test_email import FORM, path_of, status
from tests.unit.broker.test_oidc_hostile import Ceremony
from tests.unit.broker.test_passkey import REGISTER, Person
from tests.unit.broker.test_typed_code import Asked, by_email, by_passkey, by_provider

BURST = 40
#: People behind one address who all begin in the same minute, and end in it: slower ones have more.
PEOPLE = 20
MINUTE_S = 60
_DEFAULT = AddressLimits()
#: What each of them may spend. Nothing comes back while a test runs: it has been counted here.
SHARE = (_DEFAULT.burst + MINUTE_S * _DEFAULT.per_second) / PEOPLE
#: The rest of a first bind: its attestation and its Enrol, a challenge, and a few reads and addresses.
REST = int(ATTEST_PRICE + CHANGE_PRICE + 7)


@contextmanager
def world_with(burst: float, tmp_path: Path, server: MailServer, provider: HostileProvider) -> Iterator[IdentityWorld]:
    limits = AddressLimits(per_second=1e-6, burst=burst)
    at = time.time()
    mail, database = mail_settings(server), database_url(None, tmp_path)
    with identity_world(database, mail=mail, provider=provider.settings, at=at, addresses=limits) as found:
        yield found


def times(ask: Callable[[], httpx.Response]) -> int:
    """How often it is answered before the address has nothing left."""
    for count in range(10 * BURST):
        if ask().status_code == 429:
            return count
    return 10 * BURST


def begun_passkey(world: IdentityWorld) -> Person:
    return Person(world, world.visit(), REGISTER)


def declined(world: IdentityWorld, evil: HostileProvider) -> Callable[[], httpx.Response]:
    """The way back from the provider, where the person said no: it stays open until the ceremony ends."""
    query = urlencode({"error": "access_denied", "state": Ceremony(world, evil).state})
    return lambda: world.client.get(f"{CALLBACK}{way_back(evil.issuer)}?{query}")


def asked_by_mail(world: IdentityWorld, server: MailServer) -> Asked:
    visit = world.visit()
    begun = visit.begin("/v1/identity/email", json.dumps({"address": "ada@people.test"}).encode()).json()
    return Asked(world, visit, path_of(server.mailbox.link()), begun)


def test_every_step_of_a_stranger_costs_something(
    tmp_path: Path, server: MailServer, provider: HostileProvider
) -> None:
    """Although they hold a secret of ours: whoever begins a ceremony gets one."""
    steps: dict[str, Callable[[IdentityWorld], Callable[[], httpx.Response]]] = {
        "a poll": lambda world: asked_by_mail(world, server).state,
        "a page": lambda world: partial(world.client.get, asked_by_mail(world, server).path),
        "a form": lambda world: partial(asked_by_mail(world, server).type, None),
        "a form of another site": lambda world: cross_site(asked_by_mail(world, server)),
        "a person who declines": lambda world: declined(world, provider),
        "the page before the provider": lambda world: partial(world.client.get, Ceremony(world, provider).page),
        "the page of a passkey": lambda world: begun_passkey(world).page,
        "an answer of no passkey": lambda world: partial(begun_passkey(world).answer, "x"),
    }
    for number, (what, step) in enumerate(steps.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with world_with(BURST, folder, server, provider) as world:
            found = times(step(world))
            most = BURST / POLL_PRICE if what == "a poll" else BURST
            assert 0 < found < most, what


def cross_site(asked: Asked) -> Callable[[], httpx.Response]:
    headers = {**FORM, "Sec-Fetch-Site": "cross-site"}
    return lambda: asked.world.client.post(asked.path, content=urlencode({"code": "000000"}), headers=headers)


@pytest.mark.parametrize("ceremony", [by_email, by_provider, by_passkey])
def test_an_office_enrols_at_once(
    tmp_path: Path,
    server: MailServer,
    provider: HostileProvider,
    ceremony: Callable[[IdentityWorld, MailServer, HostileProvider], Asked],
) -> None:
    """Twenty at one address: each has a twentieth of what it may ask for in a minute, and polls for all of it."""
    with world_with(SHARE, tmp_path, server, provider) as world:
        asked = ceremony(world, server, provider)
        for _ in range(MINUTE_S):
            assert asked.state().status_code == 200
        assert world.client.get(asked.path).status_code == 200
        assert asked.type(asked.code).status_code == 200
        assert asked.state().json()["state"] == "confirmed"
        for _ in range(REST):
            assert world.client.get("/v1/session/challenge").status_code == 200


def test_nor_is_an_office_too_many_for_what_one_client_may_begin() -> None:
    assert min(email.PER_CLIENT, oidc.PER_CLIENT, pairing.BEGUN_PER_CLIENT) >= PEOPLE
    assert passkey.PER_CLIENT >= 2 * PEOPLE


def test_a_poll_about_nothing_writes_nothing(tmp_path: Path, server: MailServer, provider: HostileProvider) -> None:
    """The proof of whoever has no ceremony is not used up: there is nothing that a copy of it would learn."""
    with world_with(BURST, tmp_path, server, provider) as world:
        visit = world.visit()
        proof = visit.proof("request", "GET", f"/v1/identity/ceremonies/{'ab' * 16}", b"")
        for _ in range(2):
            answer = visit.ask("request", "GET", f"/v1/identity/ceremonies/{'ab' * 16}", b"", proof=proof)
            assert answer.json()["reason"] == "not_found"
        asked = asked_by_mail(world, server)
        path = f"/v1/identity/ceremonies/{asked.id}"
        proof = asked.visit.proof("request", "GET", path, b"")
        assert asked.visit.ask("request", "GET", path, b"", proof=proof).status_code == 200
        assert asked.visit.ask("request", "GET", path, b"", proof=proof).json()["reason"] == "proof_invalid"
        assert status(asked.visit, asked.id).status_code == 200
