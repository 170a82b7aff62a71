"""A link that somebody else sent: whoever confirms must type a code that the device alone was told."""

import json
import logging
import re
from collections.abc import Callable
from urllib.parse import urlencode

import httpx
import pytest

from broker.ceremonies.codes import ALPHABET
from broker.ceremonies.steps import TYPED_TRIES
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.mail_server import MailServer
from tests.unit.broker.identity_world import IdentityWorld
from tests.unit.broker.test_email import FORM, page_reason, path_of, status
from tests.unit.broker.test_oidc import onward_of
from tests.unit.broker.test_oidc_hostile import Ceremony
from tests.unit.broker.test_passkey import REGISTER, SIGN_IN, Person, bind, enrol, made
from tests.unit.broker.visitor import Visit, reason


class Asked:
    """A page that asks, of any ceremony: its path, what the device was told, and what else its form sends."""

    def __init__(self, world: IdentityWorld, visit: Visit, path: str, begun: dict[str, str]) -> None:
        self.world, self.visit, self.path = world, visit, path
        self.device, self.id, self.code = begun["device"], begun["id"], begun["code"]
        self.answer: Callable[[], dict[str, str]] = dict

    def type(self, code: str | None) -> httpx.Response:
        form = {**self.answer(), **({} if code is None else {"code": code})}
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
    found = Asked(world, visit, person.path, person.begun.json())
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


def test_the_page_asks_for_the_code_and_tells_it_nowhere(asked: Asked, server: MailServer) -> None:
    page = asked.world.client.get(asked.path)
    assert asked.device in page.text
    field = re.search(r"<input id=\"code\"[^>]*>", page.text)
    assert field is not None
    assert all(word in field[0] for word in ('name="code"', 'autocomplete="off"', "required"))
    assert '<label for="code">' in page.text
    bare = asked.code.replace("-", "")
    for text in (page.text, asked.path, f"{page.headers}", *map(str, server.mailbox.messages)):
        assert asked.code not in text
        assert bare not in text


def test_the_code_is_told_once_and_to_its_device_alone(asked: Asked) -> None:
    assert re.fullmatch(f"[{ALPHABET}]{{3}}-[{ALPHABET}]{{3}}", asked.code)
    assert "code" not in asked.state().json()
    assert asked.type(asked.code).status_code == 200
    assert "code" not in asked.state().json()


def test_no_line_of_the_log_tells_the_code(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked.type("000000")
    asked.type(asked.code)
    told = "".join(f"{record.__dict__}" for record in caplog.records)
    assert told
    assert asked.code not in told
    assert asked.code.replace("-", "") not in told


def test_each_ceremony_has_a_code_of_its_own(world: IdentityWorld, server: MailServer) -> None:
    """One device, one person, the same address: a page that somebody kept is confirmed by its own code alone."""
    visit = world.visit()
    body = json.dumps({"address": "ada@people.test"}).encode()
    codes, paths = [], []
    for number in (1, 2):
        codes.append(visit.begin("/v1/identity/email", body).json()["code"])
        paths.append(path_of(server.mailbox.link(number)))
    assert codes[0] != codes[1]
    crossed = world.client.post(paths[0], content=urlencode({"code": codes[1]}), headers=FORM)
    assert crossed.status_code == 400
    assert world.client.post(paths[0], content=urlencode({"code": codes[0]}), headers=FORM).status_code == 200


@pytest.mark.parametrize(
    "how", [str, str.lower, lambda code: code.replace("-", ""), lambda code: f" {' '.join(code)} "]
)
def test_however_it_is_written_it_is_the_same_code(asked: Asked, how: Callable[[str], str]) -> None:
    done = asked.type(how(asked.code).replace("0", "O").replace("1", "l"))
    assert done.status_code == 200
    assert asked.state().json()["state"] == "confirmed"


@pytest.mark.parametrize("typed", ["", "-", "{0:.6}", "{0}0", "{device:.4}", "\u0660\u0660\u0660\u0660\u0660\u0660"])
def test_anything_else_brings_the_page_again_and_confirms_nothing(asked: Asked, typed: str) -> None:
    before = asked.state().json()["state"]
    again = asked.type(typed.format(asked.code, device=asked.device))
    assert again.status_code == 400
    assert 'role="alert"' in again.text
    assert asked.code not in again.text
    assert asked.state().json()["state"] == before
    assert asked.type(asked.code).status_code == 200


def test_nothing_typed_at_all_confirms_nothing(asked: Asked) -> None:
    before = asked.state().json()["state"]
    assert asked.type(None).status_code == 400
    assert asked.state().json()["state"] == before


def test_after_a_few_tries_the_ceremony_has_ended(asked: Asked) -> None:
    wrong = "000000" if asked.code != "000-000" else "111111"
    for _ in range(TYPED_TRIES - 1):
        assert 'role="alert"' in asked.type(wrong).text
    assert page_reason(asked.type(wrong)) == "ceremony_ended"
    assert page_reason(asked.type(asked.code)) == "ceremony_ended"
    assert reason(asked.state()) == "ceremony_ended"


def test_where_a_page_asks_for_no_code_none_is_told(world: IdentityWorld) -> None:
    for asks in (REGISTER, SIGN_IN):
        assert "code" not in Person(world, world.visit(), asks).begun.json()
