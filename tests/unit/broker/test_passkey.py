"""Passkeys as identities: made, found again, and signing an Enrol; and everything that must not count as that."""

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import URL

from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.evidence import PasskeyEvidence, parse_evidence
from agentkeys_core.ids import IdentityType, identity_omni, operator_omni, passkey_value
from agentkeys_core.keys import DeviceKey
from agentkeys_core.webauthn_check import verify_passkey
from broker.adapters.store.passkey_table import KEPT_S, SqlPasskeys
from broker.ceremonies.passkey import PER_CLIENT
from broker.ceremonies.steps import LIFETIME_S
from broker.ports import Passkey
from tests.fakes.passkey import AT, UP, UV, SoftPasskey
from tests.fakes.services_kit import BROKER_ORIGIN
from tests.unit.broker.identity_world import DOMAIN, IdentityWorld, identity_world
from tests.unit.broker.test_email import FORM, page_reason, status
from tests.unit.broker.test_store import at_once
from tests.unit.broker.visitor import Visit, reason, typed
from tests.unit.core.material import SoftwareK11

RP_ID = "service.test"
REGISTER, SIGN_IN = {"action": "register"}, {"action": "sign-in"}


@pytest.fixture
def world(database: URL) -> Iterator[IdentityWorld]:
    with identity_world(database) as made:
        yield made


def soft(**changed: Any) -> SoftPasskey:
    return SoftPasskey(**{"rp_id": RP_ID, "origin": BROKER_ORIGIN, **changed})


def begin(visit: Visit, asked: Mapping[str, object]) -> httpx.Response:
    return visit.begin("/v1/identity/passkey", json.dumps(asked).encode())


class Person:
    """Somebody at the page of one ceremony."""

    def __init__(self, world: IdentityWorld, visit: Visit, asked: Mapping[str, object]) -> None:
        begun = begin(visit, asked)
        assert begun.status_code == 200, begun.text
        self.world, self.visit, self.id, self.begun = world, visit, begun.json()["id"], begun
        self.path = begun.json()["page"].removeprefix(BROKER_ORIGIN)

    def page(self) -> httpx.Response:
        return self.world.client.get(self.path)

    def options(self) -> Any:
        found = re.search(r'data-options="([^"]+)"', self.page().text)
        assert found is not None
        return json.loads(html.unescape(found[1]))

    @property
    def challenge(self) -> bytes:
        return b64u_decode(self.options()["challenge"])

    def answer(self, answer: str) -> httpx.Response:
        return self.world.client.post(self.path, content=typed(self.begun, answer=answer), headers=FORM)

    def told(self) -> Any:
        return status(self.visit, self.id).json()


def made(world: IdentityWorld, visit: Visit) -> SoftPasskey:
    """A passkey that this broker knows."""
    passkey, person = soft(), Person(world, visit, REGISTER)
    assert person.answer(passkey.created(person.challenge)).status_code == 200
    return passkey


def enrol(visit: Visit, passkey: SoftPasskey, **changed: Any) -> Enrol:
    wallet, k11 = DeviceKey.generate().address, SoftwareK11().public
    members: dict[str, Any] = {
        "identity_omni": identity_omni(IdentityType.PASSKEY, passkey_value(*passkey.xy)),
        "operator_omni": operator_omni(wallet),
        "wallet": wallet,
        "wallet_epoch": 1,
        "device": visit.key.address,
        "k11_cred_id": k11.credential_id_hash,
        "k11_x": int.from_bytes(k11.x, "big"),
        "k11_y": int.from_bytes(k11.y, "big"),
        "k11_rp_id_hash": k11.rp_id_hash,
        "k11_origin_hash": k11.origin_hash,
        "roles": 7,
        "incarnation": 1,
        "nonce": 0,
        "deadline": visit.now + 600,
    }
    return Enrol(**(members | changed))


def bind(change: Enrol, passkey: SoftPasskey) -> dict[str, object]:
    asked = {"type": "Enrol", "message": change.to_message()}
    return {"action": "bind", "change": asked, "credential_id": b64u_encode(passkey.credential_id)}


def test_a_passkey_is_made_and_the_device_learns_its_public_half(world: IdentityWorld) -> None:
    visit, passkey = world.visit(), soft()
    person = Person(world, visit, REGISTER)
    assert person.told()["state"] == "pending"
    assert person.options()["rp"]["id"] == RP_ID
    assert person.options()["authenticatorSelection"]["userVerification"] == "required"
    assert person.answer(passkey.created(person.challenge)).status_code == 200
    told = person.told()
    assert told["state"] == "confirmed"
    x, y = passkey.xy
    public = {"credential_id": b64u_encode(passkey.credential_id), "x": b64u_encode(x), "y": b64u_encode(y)}
    assert told["passkey"] == public
    assert "evidence" not in told


def test_a_passkey_signs_the_enrol_and_the_device_gets_evidence_that_the_signer_takes(world: IdentityWorld) -> None:
    visit = world.visit()
    passkey = made(world, visit)
    change = enrol(visit, passkey)
    digest = change.digest(DOMAIN)
    person = Person(world, visit, bind(change, passkey))
    assert digest.hex() in person.page().text
    assert person.challenge == digest
    assert [entry["id"] for entry in person.options()["allowCredentials"]] == [b64u_encode(passkey.credential_id)]
    assert person.answer(passkey.asserted(digest)).status_code == 200
    evidence = parse_evidence(json.dumps(person.told()["evidence"]).encode())
    assert isinstance(evidence, PasskeyEvidence)
    x, y = evidence.x, evidence.y
    assert (x, y) == passkey.xy
    verify_passkey(evidence.assertion, challenge=digest, x=x, y=y, rp_id=RP_ID, origins={BROKER_ORIGIN})


def test_a_passkey_made_before_is_found_again(world: IdentityWorld) -> None:
    passkey = made(world, world.visit())
    person = Person(world, world.visit(), SIGN_IN)
    assert person.options()["allowCredentials"] == []
    assert person.answer(passkey.asserted(person.challenge)).status_code == 200
    told = person.told()
    assert told["passkey"]["credential_id"] == b64u_encode(passkey.credential_id)
    assert "evidence" not in told


def test_looking_at_the_page_changes_nothing_and_names_the_device(world: IdentityWorld) -> None:
    visit = world.visit()
    person = Person(world, visit, REGISTER)
    told = person.told()
    first, second = person.page(), person.page()
    assert told["device"] in first.text
    assert first.text == second.text
    assert person.told() == told


def test_that_page_alone_may_run_a_script_and_only_one_of_ours(world: IdentityWorld) -> None:
    page = Person(world, world.visit(), REGISTER).page()
    policy = page.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert [part for part in policy if part.startswith("script")] == ["script-src 'self'"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert re.findall(r"<script[^>]*>", page.text) == ['<script src="/identity/passkey.js" defer>']
    assert not re.search(r"\son[a-z]+=|javascript:|style=", page.text)
    for path in ("/identity/passkey/" + "A" * 43, "/identity/passkey.js", "/identity/style.css"):
        assert "script-src" not in world.client.get(path).headers["content-security-policy"]


@pytest.mark.parametrize(
    "bent",
    [
        {"challenge": b64u_encode(bytes(32))},
        {"origin": "https://elsewhere.test"},
        {"origin": "http://service.test"},
        {"type": "webauthn.get"},
        {"crossOrigin": True},
        {"crossOrigin": 0},
        {"rp_id": "elsewhere.test"},
        {"rp_id": "localhost"},
        {"flags": UP | AT},
        {"flags": UV | AT},
    ],
    ids=str,
)
def test_no_passkey_is_made_by_an_answer_to_anything_else(world: IdentityWorld, bent: Mapping[str, Any]) -> None:
    person = Person(world, world.visit(), REGISTER)
    passkey, challenge = soft(), person.challenge
    assert page_reason(person.answer(passkey.created(challenge, **bent))) == "invalid_evidence"
    assert person.told()["state"] == "pending"
    assert person.answer(passkey.created(challenge)).status_code == 200  # the person may try again


@pytest.mark.parametrize(
    "bent",
    [
        {"challenge": b64u_encode(bytes(32))},
        {"origin": "https://elsewhere.test"},
        {"type": "webauthn.create"},
        {"crossOrigin": True},
        {"rp_id": "elsewhere.test"},
        {"flags": UP},
        {"flags": UV},
        {"signer": ec.generate_private_key(ec.SECP256R1())},
    ],
    ids="-".join,  # not the values: a key is another one in each process
)
def test_an_assertion_over_anything_else_binds_nothing(world: IdentityWorld, bent: Mapping[str, Any]) -> None:
    visit = world.visit()
    passkey = made(world, visit)
    change = enrol(visit, passkey)
    person = Person(world, visit, bind(change, passkey))
    answer = passkey.asserted(change.digest(DOMAIN), **bent)
    assert page_reason(person.answer(answer)) == "invalid_evidence"
    assert person.told()["state"] == "pending"


def test_an_answer_is_good_once_and_for_its_own_ceremony(world: IdentityWorld) -> None:
    passkey = made(world, world.visit())
    one, two = (Person(world, world.visit(), SIGN_IN) for _ in range(2))
    answer = passkey.asserted(one.challenge)
    assert page_reason(two.answer(answer)) == "invalid_evidence"
    assert one.answer(answer).status_code == 200
    assert page_reason(one.answer(answer)) == "ceremony_ended"
    assert page_reason(one.page()) == "ceremony_ended"


def test_a_passkey_is_registered_once(world: IdentityWorld) -> None:
    passkey = made(world, world.visit())
    person = Person(world, world.visit(), REGISTER)
    assert page_reason(person.answer(passkey.created(person.challenge))) == "invalid_evidence"


def test_a_counter_that_does_not_grow_is_a_copy(world: IdentityWorld) -> None:
    passkey = made(world, world.visit())
    for count, good in ((5, True), (5, False), (4, False), (0, False), (6, True)):
        person = Person(world, world.visit(), SIGN_IN)
        passkey.count = count
        answer = person.answer(passkey.asserted(person.challenge))
        assert (answer.status_code == 200) is good


def test_an_authenticator_that_never_counted_stays_welcome(world: IdentityWorld) -> None:
    passkey = made(world, world.visit())
    for _ in range(2):
        person = Person(world, world.visit(), SIGN_IN)
        assert person.answer(passkey.asserted(person.challenge)).status_code == 200


def test_a_stranger_s_passkey_proves_nothing(world: IdentityWorld) -> None:
    person = Person(world, world.visit(), SIGN_IN)
    assert page_reason(person.answer(soft().asserted(person.challenge))) == "invalid_evidence"


def test_another_passkey_than_the_one_that_is_asked_signs_no_enrol(world: IdentityWorld) -> None:
    visit = world.visit()
    mine, other = made(world, visit), made(world, visit)
    change = enrol(visit, mine)
    person = Person(world, visit, bind(change, mine))
    assert page_reason(person.answer(other.asserted(change.digest(DOMAIN)))) == "invalid_evidence"


def test_only_an_enrol_of_that_device_and_that_passkey_is_ever_shown_for_signing(world: IdentityWorld) -> None:
    visit = world.visit()
    mine, other = made(world, visit), made(world, visit)
    for change in (enrol(world.visit(), mine), enrol(visit, other)):
        assert reason(begin(visit, bind(change, mine))) == "invalid_change"
    assert reason(begin(visit, bind(enrol(visit, mine), soft()))) == "invalid_body"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "invalid_body"),
        ({"action": "delete"}, "invalid_body"),
        ({"action": 1}, "invalid_body"),
        ({"action": "register", "credential_id": "AA"}, "unknown_fields"),
        ({"action": "bind"}, "invalid_body"),
        ({"action": "bind", "credential_id": "AA", "change": {}}, "invalid_change"),
        ({"action": "bind", "credential_id": "AA", "change": {"type": "Freeze", "message": {}}}, "invalid_change"),
    ],
)
def test_what_is_not_asked_properly_is_refused_by_name(
    world: IdentityWorld, asked: Mapping[str, object], expected: str
) -> None:
    assert reason(begin(world.visit(), asked)) == expected


def test_only_the_device_that_began_hears_of_it(world: IdentityWorld) -> None:
    person = Person(world, world.visit(), REGISTER)
    assert reason(status(world.visit(), person.id)) == "not_found"


def test_a_page_grows_old(world: IdentityWorld) -> None:
    person = Person(world, world.visit(), REGISTER)
    answer = soft().created(person.challenge)
    world.clock.forward(LIFETIME_S)
    assert page_reason(person.page()) == "ceremony_ended"
    assert page_reason(person.answer(answer)) == "ceremony_ended"


def test_one_client_begins_only_so_many(world: IdentityWorld) -> None:
    visit = world.visit()
    for _ in range(PER_CLIENT):
        assert begin(visit, REGISTER).status_code == 200
    assert reason(begin(visit, REGISTER)) == "rate_limited"


def test_one_counter_is_used_once_however_many_ask(world: IdentityWorld) -> None:
    table = SqlPasskeys(world.engine)
    passkey = Passkey(credential_id=b"c", x=bytes(32), y=bytes(32), sign_count=1, created_at=1, used_at=1)
    assert sum(at_once(lambda: table.add(passkey))) == 1
    assert sum(at_once(lambda: table.used(b"c", sign_count=2, now=2))) == 1


def test_a_passkey_that_nobody_uses_is_forgotten(world: IdentityWorld) -> None:
    table = SqlPasskeys(world.engine)
    for name, at in ((b"old", 1), (b"new", KEPT_S + 2)):
        table.add(Passkey(credential_id=name, x=bytes(32), y=bytes(32), sign_count=0, created_at=at, used_at=at))
    assert table.find(b"old") is None
    assert table.find(b"new") is not None
