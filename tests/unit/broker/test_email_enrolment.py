"""From a confirmed address to a bound device: a real mail server, the signer's own use case, and who must not get there."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL

from agentkeys_core.changes import Enrol
from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey, recover_address
from broker.ceremonies.steps import LIFETIME_S
from tests.fakes.evidence_kit import Issuer, Member, attesting, email_member, policy
from tests.fakes.mail_server import MailServer
from tests.fakes.registry_kit import DOMAIN, Opened, opened
from tests.unit.broker.identity_world import IdentityWorld, identity_world, mail_settings
from tests.unit.broker.test_email import ADDRESS, FORM, begin, path_of
from tests.unit.broker.test_passkey import REGISTER
from tests.unit.broker.test_store import at_once
from tests.unit.broker.visitor import Visit, reason, typed


class Signer:
    """The signer's own use case. `failing` is raised once, after it has done its work: the answer is lost."""

    def __init__(self, here: Opened, folder: Path) -> None:
        self._desk = attesting(here, policy(Issuer(folder / "issuer.json")))
        self.asked = 0
        self.failing: Reason | None = None

    def attest_enrol(self, change: bytes, evidence: bytes) -> bytes:
        self.asked += 1
        signature = self._desk.attest(change, evidence, caller="bb" * 32)
        if self.failing is not None:
            raise KeyServiceError(self.failing)
        return signature


@dataclass
class Mailed:
    """A broker, its mail server, the signer, and a member whose device confirmed an address."""

    world: IdentityWorld
    server: MailServer
    here: Opened
    signer: Signer
    member: Member
    visit: Visit
    ceremony: str = ""
    begun: httpx.Response | None = None
    link: str = ""

    def begin(self, visit: Visit | None = None, address: str = ADDRESS) -> str:
        self.world.settle()
        arrived = len(self.server.mailbox.messages)
        self.begun = begin(visit or self.visit, address)
        self.link = self.server.mailbox.link(arrived + 1)
        found: str = self.begun.json()["id"]
        return found

    def click(self) -> None:
        path = path_of(self.link)
        assert self.begun is not None
        assert self.world.client.post(path, content=typed(self.begun), headers=FORM).status_code == 200

    def confirmed(self) -> "Mailed":
        self.ceremony = self.begin()
        self.click()
        return self

    def ask(self, change: Enrol, *, visit: Visit | None = None, ceremony: str = "") -> httpx.Response:
        asked = {"type": change.type, "message": change.to_message()}
        body = json.dumps({"ceremony": ceremony or self.ceremony, "change": asked}).encode()
        return (visit or self.visit).ask("request", "POST", "/v1/enrolments/email", body)


@pytest.fixture
def mailed(database: URL, tmp_path: Path) -> Iterator[Mailed]:
    (tmp_path / "signer").mkdir()
    with opened(tmp_path / "signer") as here, MailServer(tmp_path, "starttls") as server:
        signer = Signer(here, tmp_path)
        with identity_world(database, mail=mail_settings(server), attester=signer) as world:
            member = email_member(here, ADDRESS)
            yield Mailed(world, server, here, signer, member, Visit(world.client, world.clock, member.k10))


def test_a_device_that_confirmed_an_address_is_bound(mailed: Mailed) -> None:
    enrol = mailed.member.bind()
    answer = mailed.confirmed().ask(enrol)
    assert answer.status_code == 200, answer.text
    signature = b64u_decode(answer.json()["signature"], length=65)
    assert recover_address(enrol.digest(DOMAIN), signature) == mailed.member.address
    mailed.here.registry.apply(mailed.member.bound(enrol, signature))


def test_before_the_click_nothing_is_attested(mailed: Mailed) -> None:
    mailed.ceremony = mailed.begin()
    assert reason(mailed.ask(mailed.member.bind())) == "invalid_evidence"
    assert mailed.signer.asked == 0


def test_another_device_gets_nothing_out_of_it(mailed: Mailed) -> None:
    mailed.confirmed()
    thief = Member(kind=mailed.member.kind, value=ADDRESS, address=mailed.member.address)
    visit = Visit(mailed.world.client, mailed.world.clock, thief.k10)
    assert reason(mailed.ask(thief.bind(), visit=visit)) == "not_found"
    assert reason(mailed.ask(thief.bind())) == "invalid_change"  # nor does the device that confirmed it bind another
    assert mailed.signer.asked == 0


def test_another_address_gets_nothing_out_of_it(mailed: Mailed) -> None:
    mailed.confirmed()
    other = Member(kind=mailed.member.kind, value="victim@people.test", k10=mailed.member.k10).settle_in(mailed.here)
    assert reason(mailed.ask(other.bind())) == "invalid_change"
    assert mailed.signer.asked == 0


def test_only_ascii_capitals_are_the_same_address(mailed: Mailed) -> None:
    lowered = Member(kind=mailed.member.kind, value=ADDRESS.lower(), k10=mailed.member.k10).settle_in(mailed.here)
    assert mailed.confirmed().ask(lowered.bind()).status_code == 200


@pytest.mark.parametrize("change", [lambda address: f" {address}", lambda address: address.replace("A", "\u00c4")])
def test_no_other_spelling_is(mailed: Mailed, change: Callable[[str], str]) -> None:
    other = Member(kind=mailed.member.kind, value=change(ADDRESS), k10=mailed.member.k10).settle_in(mailed.here)
    assert reason(mailed.confirmed().ask(other.bind())) == "invalid_change"


def test_one_confirmation_is_good_for_one_enrol(mailed: Mailed) -> None:
    mailed.confirmed()
    first, second = mailed.member.bind(), mailed.member.bind(deadline=mailed.member.now + 599)
    assert mailed.ask(first).status_code == 200
    assert reason(mailed.ask(second)) == "ceremony_ended"
    assert mailed.signer.asked == 1


def test_two_enrols_at_once_are_not_both_the_first(mailed: Mailed) -> None:
    mailed.confirmed()
    enrols = [mailed.member.bind(deadline=mailed.member.now + 500 + number) for number in range(4)]
    assert sum(at_once(lambda: mailed.ask(enrols.pop()).status_code == 200, times=4)) == 1


def test_whose_answer_was_lost_asks_again(mailed: Mailed) -> None:
    mailed.confirmed()
    enrol = mailed.member.bind()
    mailed.signer.failing = Reason.SIGNER_UNREACHABLE
    assert reason(mailed.ask(enrol)) == "signer_unreachable"
    mailed.signer.failing = None
    assert mailed.ask(enrol).status_code == 200


def test_another_kind_of_ceremony_attests_no_address(mailed: Mailed) -> None:
    begun = mailed.visit.begin("/v1/identity/passkey", json.dumps(REGISTER).encode()).json()["id"]
    assert reason(mailed.ask(mailed.member.bind(), ceremony=begun)) == "not_found"
    assert reason(mailed.ask(mailed.member.bind(), ceremony="00" * 16)) == "not_found"


def test_a_confirmation_grows_old(mailed: Mailed) -> None:
    mailed.confirmed()
    mailed.world.clock.forward(LIFETIME_S)
    assert reason(mailed.ask(mailed.member.bind())) == "ceremony_ended"


def test_without_the_devices_proof_nothing_is_attested(mailed: Mailed) -> None:
    mailed.confirmed()
    mailed.visit.key, mine = DeviceKey.generate(), mailed.visit.key
    assert reason(mailed.ask(mailed.member.bind())) == "not_found"
    mailed.visit.key = mine
    assert mailed.signer.asked == 0


def test_what_is_malformed_does_not_travel_on(mailed: Mailed) -> None:
    mailed.confirmed()
    change = {"type": "Enrol", "message": mailed.member.bind().to_message()}
    for body, expected in (
        ({"ceremony": "zz", "change": change}, "invalid_body"),
        ({"ceremony": mailed.ceremony}, "invalid_body"),
        ({"ceremony": mailed.ceremony, "change": {"type": "Freeze", "message": {}}}, "invalid_change"),
        ({"ceremony": mailed.ceremony, "change": change, "evidence": {}}, "unknown_fields"),
    ):
        answer = mailed.visit.ask("request", "POST", "/v1/enrolments/email", json.dumps(body).encode())
        assert reason(answer) == expected
    assert mailed.signer.asked == 0
