"""A link that somebody else sent: whoever confirms must type what only their own terminal shows."""

import json
import re
from collections.abc import Callable
from urllib.parse import urlencode

import httpx
import pytest

from broker.ceremonies.steps import TYPED_TRIES
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.mail_server import MailServer
from tests.unit.broker.identity_world import IdentityWorld
from tests.unit.broker.test_email import FORM, page_reason, path_of, status
from tests.unit.broker.test_oidc import onward_of
from tests.unit.broker.test_oidc_hostile import Ceremony
from tests.unit.broker.test_passkey import Person, bind, enrol, made
from tests.unit.broker.visitor import Visit, reason


class Asked:
    """A page that asks, of any ceremony: its path, the device of the ceremony, and what else its form sends."""

    def __init__(self, world: IdentityWorld, visit: Visit, path: str, begun: dict[str, str]) -> None:
        self.world, self.visit, self.path, self.device, self.id = world, visit, path, begun["device"], begun["id"]
        self.answer: Callable[[], dict[str, str]] = dict

    def type(self, device: str | None) -> httpx.Response:
        form = {**self.answer(), **({} if device is None else {"device": device})}
        return self.world.client.post(self.path, content=urlencode(form), headers=FORM)

    def state(self) -> httpx.Response:
        return status(self.visit, self.id)


def by_email(world: IdentityWorld, server: MailServer, provider: HostileProvider) -> Asked:
    visit = world.visit()
    begun = visit.begin("/v1/identity/email", json.dumps({"address": "ada@people.test"}).encode()).json()
    return Asked(world, visit, path_of(server.mailbox.link()), begun)


def by_provider(world: IdentityWorld, server: MailServer, provider: HostileProvider) -> Asked:
    ceremony = Ceremony(world, provider)
    return Asked(world, ceremony.visit, onward_of(ceremony.back()), ceremony.begun.json())


def by_passkey(world: IdentityWorld, server: MailServer, provider: HostileProvider) -> Asked:
    visit = world.visit()
    passkey = made(world, visit)
    person = Person(world, visit, bind(enrol(visit, passkey), passkey))
    found = Asked(world, visit, person.path, {"device": person.told()["device"], "id": person.id})
    challenge = person.challenge

    def answer() -> dict[str, str]:
        passkey.count += 1
        return {"answer": passkey.asserted(challenge)}

    found.answer = answer
    return found


@pytest.fixture(params=[by_email, by_provider, by_passkey])
def asked(request: pytest.FixtureRequest, world: IdentityWorld, server: MailServer, provider: HostileProvider) -> Asked:
    found: Asked = request.param(world, server, provider)
    return found


def test_the_page_leaves_out_how_the_device_begins_and_asks_for_it(asked: Asked, server: MailServer) -> None:
    page = asked.world.client.get(asked.path).text
    assert f"____{asked.device[4:]}" in page
    assert asked.device not in page
    field = re.search(r"<input id=\"device\"[^>]*>", page)
    assert field is not None
    assert all(word in field[0] for word in ('name="device"', 'autocomplete="off"', "required"))
    assert '<label for="device">' in page
    for message in server.mailbox.messages:
        assert asked.device not in str(message.get_payload())


@pytest.mark.parametrize("how", ["{0}", " {0} ", "{0} {1}", "{0}{1}"], ids=["four", "spaces", "groups", "more"])
def test_whoever_sees_the_device_types_it(asked: Asked, how: str) -> None:
    groups = asked.device.split()
    done = asked.type(how.format(*groups).upper())
    assert done.status_code == 200
    assert asked.device not in done.text
    assert asked.state().json()["state"] == "confirmed"


@pytest.mark.parametrize("typed", ["", "{0:.3}", "____", "{1}", "{0}{0}", "\u0660\u0660\u0660\u0660"])
def test_anything_else_brings_the_page_again_and_confirms_nothing(asked: Asked, typed: str) -> None:
    before = asked.state().json()["state"]
    again = asked.type(typed.format(*asked.device.split()))
    assert again.status_code == 400
    assert 'role="alert"' in again.text
    assert f"____{asked.device[4:]}" in again.text
    assert asked.device not in again.text
    assert asked.state().json()["state"] == before
    assert asked.type(asked.device[:4]).status_code == 200


def test_nothing_typed_at_all_confirms_nothing(asked: Asked) -> None:
    before = asked.state().json()["state"]
    assert asked.type(None).status_code == 400
    assert asked.state().json()["state"] == before


def test_after_a_few_tries_the_ceremony_has_ended(asked: Asked) -> None:
    wrong = "0000" if asked.device[:4] != "0000" else "1111"
    for _ in range(TYPED_TRIES - 1):
        assert 'role="alert"' in asked.type(wrong).text
    assert page_reason(asked.type(wrong)) == "ceremony_ended"
    assert page_reason(asked.type(asked.device[:4])) == "ceremony_ended"
    assert reason(asked.state()) == "ceremony_ended"
