"""What was sent once is worth nothing twice, and what moves one kind of ceremony on moves no other."""

import json
from collections.abc import Mapping

import pytest

from agentkeys_core.encoding import b64u_encode
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.mail_server import MailServer
from tests.unit.broker.identity_world import NONCE, IdentityWorld
from tests.unit.broker.test_email import FORM, page_reason, path_of, status
from tests.unit.broker.test_passkey import REGISTER, Person, bind, enrol, made, soft
from tests.unit.broker.visitor import reason


def beginnings(provider: HostileProvider) -> Mapping[str, Mapping[str, object]]:
    return {
        "/v1/identity/email": {"address": "ada@people.test"},
        "/v1/identity/oidc": {"issuer": provider.issuer, "nonce": NONCE},
        "/v1/identity/passkey": REGISTER,
    }


@pytest.mark.parametrize("path", ["/v1/identity/email", "/v1/identity/oidc", "/v1/identity/passkey"])
def test_a_challenge_begins_one_ceremony(world: IdentityWorld, provider: HostileProvider, path: str) -> None:
    visit, body = world.visit(), json.dumps(beginnings(provider)[path]).encode()
    nonce = visit.nonce()
    assert visit.begin(path, body, {"nonce": nonce}).status_code == 200
    assert reason(visit.begin(path, body, {"nonce": nonce})) == "proof_invalid"


def test_a_copied_proof_tells_nothing_of_a_ceremony(world: IdentityWorld) -> None:
    person = Person(world, world.visit(), REGISTER)
    path = f"/v1/identity/ceremonies/{person.id}"
    proof = person.visit.proof("request", "GET", path, b"")
    assert person.visit.ask("request", "GET", path, b"", proof=proof).status_code == 200
    assert reason(person.visit.ask("request", "GET", path, b"", proof=proof)) == "proof_invalid"


def test_a_secret_of_one_kind_opens_no_page_of_another(
    world: IdentityWorld, server: MailServer, provider: HostileProvider
) -> None:
    """Else a link to make a passkey, which shows no address, would confirm one."""
    visit, secrets, ids = world.visit(), dict[str, str](), dict[str, str]()
    for path, asked in beginnings(provider).items():
        begun = visit.begin(path, json.dumps(asked).encode()).json()
        kind = path.rpartition("/")[2]
        page = begun.get("page") or server.mailbox.link()
        secrets[kind], ids[kind] = page.rpartition("/")[2], begun["id"]
    assert path_of(server.mailbox.link()).endswith(secrets["email"])
    for page in secrets:
        for kind, secret in secrets.items():
            answer = world.client.get(f"/identity/{page}/{secret}")
            assert (answer.status_code == 200) == (kind == page)
            if page not in {kind, "oidc"}:
                content = "answer={}" if page == "passkey" else "code=000000"
                posted = world.client.post(f"/identity/{page}/{secret}", content=content, headers=FORM)
                assert page_reason(posted) == "ceremony_ended"
    assert {status(visit, one).json()["state"] for one in ids.values()} == {"pending"}


def test_an_answer_that_names_another_passkey_binds_nothing(world: IdentityWorld) -> None:
    """The name is not signed: the evidence would name a passkey that did not sign it."""
    visit = world.visit()
    passkey = made(world, visit)
    person = Person(world, visit, bind(enrol(visit, passkey), passkey))
    passkey.count += 1
    answer = json.loads(passkey.asserted(person.challenge))
    other = b64u_encode(soft().credential_id)
    assert page_reason(person.answer(json.dumps({**answer, "id": other, "rawId": other}))) == "invalid_evidence"
    assert person.answer(json.dumps(answer)).status_code == 200
