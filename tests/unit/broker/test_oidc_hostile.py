"""Providers that lie, stall or flood, and what one of them can do to the broker and to the others: nothing."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
import pytest

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.evidence import MAX_EVIDENCE_BYTES, MAX_ID_TOKEN_BYTES, OidcEvidence
from agentkeys_core.hashes import sha256
from agentkeys_runtime.web.gate import WAITING_PER_SENDER, WAITING_THREADS
from broker.adapters import openid, openid_http
from broker.adapters.openid import PLACES
from broker.adapters.openid_http import MAX_ANSWER
from broker.adapters.store.engine import database_url
from broker.ceremonies.oidc import CALLBACK, way_back
from tests.fakes.app_client import AppClient
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.openid_server import OpenIdServer
from tests.fakes.services_kit import BROKER_ORIGIN
from tests.unit.broker.identity_world import NONCE, IdentityWorld, identity_world, provider_settings
from tests.unit.broker.test_email import FORM, page_reason, status
from tests.unit.broker.test_oidc import Person, begin, onward_of
from tests.unit.broker.visitor import Visit, typed

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[HostileProvider]:
    with HostileProvider(folder=tmp_path / "evil", nonce=NONCE) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, evil: HostileProvider) -> Iterator[IdentityWorld]:
    with identity_world(database_url(None, tmp_path), provider=evil.settings, at=time.time()) as made:
        yield made


class Ceremony:
    """One ceremony at the hostile provider. Nobody signs in there: any code is good."""

    def __init__(self, world: IdentityWorld, evil: HostileProvider) -> None:
        self.world, self.evil, self.visit = world, evil, world.visit()
        self.begun = begin(self.visit, evil.issuer, NONCE)
        self.id, self.page = self.begun.json()["id"], urlsplit(self.begun.json()["page"]).path
        self.state = self.page.rpartition("/")[2]

    def way(self, code: str = "x", **more: str) -> str:
        query = urlencode({"code": code, "state": self.state, **more})
        return f"{CALLBACK}{way_back(self.evil.issuer)}?{query}"

    def back(self, code: str = "x", *, client: AppClient | None = None, **more: str) -> httpx.Response:
        return (client or self.world.client).get(self.way(code, **more))

    def told(self) -> httpx.Response:
        return status(self.visit, self.id)


def outcome(world: IdentityWorld, evil: HostileProvider) -> str:
    """Why a sign-in at this provider ends; empty where it does not."""
    answer = Ceremony(world, evil).back()
    return "" if answer.status_code == 303 else page_reason(answer)


def test_the_provider_of_these_tests_is_believed_where_it_does_no_harm(
    world: IdentityWorld, evil: HostileProvider
) -> None:
    assert outcome(world, evil) == ""


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.test"},
        {"iss": None},
        {"aud": "somebody-else"},
        {"aud": ["agentkeys-broker", "somebody-else"]},
        {"aud": ["agentkeys-broker", "somebody-else"], "azp": "agentkeys-broker"},
        {"azp": "somebody-else"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": 10**400},
        {"exp": 1},
        {"exp": "soon"},
        {"iat": True},
        {"iat": float("inf")},
        {"iat": 1},
        {"iat": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "s" * 256},
        {"sub": "\u202es"},
        {"sub": "\ud800"},
        {"email": "\ud800@x"},
        {"groups": "x" * MAX_ID_TOKEN_BYTES},
    ],
    ids=str,
)
def test_a_token_that_says_anything_else_binds_nobody(
    world: IdentityWorld, evil: HostileProvider, claims: dict[str, Any]
) -> None:
    evil.claims = claims
    if claims == {"exp": 10**400}:
        evil.claims = {"exp": 10**400, "iat": None}  # whatever its other times say
    assert outcome(world, evil) == "invalid_evidence"


@pytest.mark.parametrize("email", ["\u202emoc.live@mitciv", "x" * 255, 7, "a\nb"], ids=str)
def test_people_are_shown_no_name_that_reads_as_something_else(
    world: IdentityWorld, evil: HostileProvider, email: object
) -> None:
    evil.claims = {"email": email, "sub": "the-subject"}
    shown = world.client.get(onward_of(Ceremony(world, evil).back()))
    assert "<dd>the-subject</dd>" in shown.text


def test_the_largest_token_that_is_taken_fits_into_evidence(world: IdentityWorld, evil: HostileProvider) -> None:
    evil.claims = {"groups": "x" * (MAX_ID_TOKEN_BYTES * 3 // 4 - 500)}
    ceremony = Ceremony(world, evil)
    asks = onward_of(ceremony.back())
    assert world.client.post(asks, content=typed(ceremony.begun), headers=FORM).status_code == 200
    token = ceremony.told().json()["id_token"]
    assert len(token) > MAX_ID_TOKEN_BYTES - 1000
    assert len(OidcEvidence(id_token="t" * MAX_ID_TOKEN_BYTES, blind=bytes(32)).encode()) <= MAX_EVIDENCE_BYTES


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://other.test"},
        {"issuer": None},
        {"authorization_endpoint": "http://localhost/a"},
        {"token_endpoint": "http://localhost/t"},
        {"jwks_uri": "file:///etc/passwd"},
        {"token_endpoint": ""},
    ],
    ids=str,
)
def test_a_provider_with_other_metadata_is_not_used(
    world: IdentityWorld, evil: HostileProvider, metadata: dict[str, Any]
) -> None:
    evil.metadata = metadata
    assert page_reason(world.client.get(Ceremony(world, evil).page)) == "provider_unreachable"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("openid-configuration", b"[]"),
        ("openid-configuration", b"{"),
        ("openid-configuration", b"[" * 100_000),
        ("keys", b'{"keys":[7]}'),
        ("keys", b'{"keys":7}'),
        ("token", b"[" * 100_000),
        ("token", b"7"),
        ("token", b"\xff"),
        ("token", b'{"id_token":7,"access_token":"x","token_type":"bearer"}'),
        ("token", b'{"id_token":"a.b.c","access_token":"x","token_type":"bearer","expires_in":1e999}'),
        ("token", b'{"id_token":"a","access_token":"x","token_type":"bearer","scope":7}'),
        ("token", b'{"error":"invalid_grant"}'),
    ],
)
def test_an_answer_that_is_none_is_a_named_refusal(
    world: IdentityWorld, evil: HostileProvider, path: str, body: bytes
) -> None:
    evil.bodies[path] = 200, JSON, body
    assert outcome(world, evil) in {"invalid_evidence", "provider_unreachable"}


def test_a_token_whose_parts_nest_for_ever_is_a_named_refusal(world: IdentityWorld, evil: HostileProvider) -> None:
    nested = b64u_encode(b"[" * 10_000)
    for parts in ((nested, "e30", "x"), (b64u_encode(b'{"alg":"ES256","kid":"k"}'), nested, "x")):
        answer = {"id_token": ".".join(parts), "access_token": "x", "token_type": "bearer"}
        evil.bodies["token"] = 200, JSON, json.dumps(answer).encode()
        assert outcome(world, evil) == "invalid_evidence"


def test_no_redirect_of_a_provider_is_followed(world: IdentityWorld, evil: HostileProvider) -> None:
    evil.bodies["token"] = 307, {"Location": f"{evil.issuer}/elsewhere"}, b""
    assert outcome(world, evil) == "provider_unreachable"
    assert "elsewhere" not in evil.asked


def test_an_answer_is_read_no_further_than_its_limit(world: IdentityWorld, evil: HostileProvider) -> None:
    """Also one that would grow when it is unpacked: nothing is."""
    good = json.dumps({"id_token": evil.token(), "access_token": "x", "token_type": "bearer"}).encode()
    evil.bodies["token"] = 200, JSON, good + b" " * MAX_ANSWER
    assert outcome(world, evil) == "provider_unreachable"
    evil.bodies["token"] = 200, {**JSON, "Content-Encoding": "gzip"}, gzip.compress(bytes(64 * 1024 * 1024))
    assert outcome(world, evil) == "invalid_evidence"


@contextmanager
def stuck(world: IdentityWorld, evil: HostileProvider, count: int) -> Iterator[list[httpx.Response]]:
    """So many ceremonies whose codes the provider keeps; afterwards their answers."""
    with stuck_ones(world, evil, [Ceremony(world, evil) for _ in range(count)]) as answers:
        yield answers


@contextmanager
def stuck_ones(
    world: IdentityWorld, evil: HostileProvider, ceremonies: list[Ceremony]
) -> Iterator[list[httpx.Response]]:
    """The same of these."""
    evil.held.clear()
    answers: list[httpx.Response] = []
    world.client.get(ceremonies[0].page)
    with ExitStack() as stack:
        senders = [
            stack.enter_context(AppClient(world.app, f"192.0.2.{number // WAITING_PER_SENDER}"))
            for number in range(len(ceremonies))
        ]

        def back(ceremony: Ceremony, client: AppClient) -> None:
            answers.append(ceremony.back(client=client))

        threads = [threading.Thread(target=back, args=pair) for pair in zip(ceremonies, senders, strict=True)]
        for thread in threads:
            thread.start()
        for _ in range(min(len(ceremonies), PLACES)):
            assert evil.waiting.acquire(timeout=20)
        try:
            yield answers
        finally:
            evil.held.set()
            for thread in threads:
                thread.join()


def test_a_provider_that_stalls_keeps_nobody_else_waiting(
    world: IdentityWorld, evil: HostileProvider, tmp_path: Path
) -> None:
    with stuck(world, evil, PLACES) as answers:
        assert page_reason(Ceremony(world, evil).back()) == "overloaded"
        assert world.client.get("/v1/session/challenge").status_code == 200
    assert [answer.status_code for answer in answers] == [303] * PLACES


def test_one_sender_never_has_all_places_of_a_provider(world: IdentityWorld, evil: HostileProvider) -> None:
    """Nor all those where anything is waited for: two senders leave room, and so do two providers that stall."""
    assert 2 * WAITING_PER_SENDER <= PLACES
    assert 2 * PLACES < WAITING_THREADS
    with stuck(world, evil, WAITING_PER_SENDER), AppClient(world.app, "192.0.2.0") as same:
        assert page_reason(Ceremony(world, evil).back(client=same)) == "overloaded"
        other = threading.Thread(target=Ceremony(world, evil).back)
        other.start()
        assert evil.waiting.acquire(timeout=20)
    other.join()


def test_an_answer_that_drips_ends_in_time(
    world: IdentityWorld, evil: HostileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is of the exchange, not of each of its steps; the test only makes it sooner."""
    ceremony = Ceremony(world, evil)
    world.client.get(ceremony.page)
    monkeypatch.setattr(openid_http, "EXCHANGE_S", 0.5)
    evil.drip = True
    assert page_reason(ceremony.back()) == "provider_unreachable"


def test_a_provider_that_failed_is_left_alone_for_a_while(
    world: IdentityWorld, evil: HostileProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil.bodies["openid-configuration"] = 503, JSON, b""
    ceremony = Ceremony(world, evil)
    for _ in range(5):
        assert page_reason(world.client.get(ceremony.page)) == "provider_unreachable"
    assert evil.asked == ["openid-configuration"]
    del evil.bodies["openid-configuration"]
    monkeypatch.setattr(openid, "PAUSE_S", 0.0)  # as if that long ago
    assert world.client.get(ceremony.page).status_code == 200


@pytest.fixture
def honest(tmp_path: Path) -> Iterator[OpenIdServer]:
    with OpenIdServer(folder=tmp_path, origin=BROKER_ORIGIN) as made:
        yield made


def test_a_hostile_provider_gets_nobodys_code_of_an_honest_one(
    tmp_path: Path, evil: HostileProvider, honest: OpenIdServer
) -> None:
    """RFC 9700, 4.4. The victim begins at the hostile one, which sends them on to the honest one in a thief's name."""
    settings = provider_settings(honest)
    with identity_world(
        database_url(None, tmp_path), provider=settings, others=[evil.settings], at=time.time()
    ) as world:
        theirs = b64u_encode(sha256(b"the thief's keys"))
        thief: Visit = world.visit()
        person = Person(world, honest, begin(thief, honest.issuer, theirs))
        way, state = person.onward(), person.page.rpartition("/")[2]
        victim = Ceremony(world, evil)
        back = honest.sign_in(way.replace(state, victim.state)).removeprefix(BROKER_ORIGIN)
        silent = back.replace(f"&iss={quote(honest.issuer, safe='')}", "")  # as of a provider without RFC 9207
        assert silent != back
        for answer in (back, silent):
            assert page_reason(world.client.get(answer)) == "invalid_evidence"
        assert evil.codes == []
        # And it cannot have the honest one send its code to the hostile one's own address.
        elsewhere = way.replace(way_back(honest.issuer), way_back(evil.issuer))
        assert elsewhere != way
        with pytest.raises(AssertionError):
            honest.sign_in(elsewhere)


def test_two_honest_providers_have_a_way_back_each(tmp_path: Path, honest: OpenIdServer) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with OpenIdServer(folder=folder, origin=BROKER_ORIGIN) as second:
        both = [provider_settings(found) for found in (honest, second)]
        assert honest.redirect_uri != second.redirect_uri
        with identity_world(database_url(None, tmp_path), provider=both[0], others=both[1:], at=time.time()) as world:
            for found in (honest, second):
                person = Person(world, found, begin(world.visit(), found.issuer))
                assert person.confirm(person.returned()).status_code == 200
