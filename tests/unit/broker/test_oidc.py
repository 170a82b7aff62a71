"""Signing in at an OpenID provider that nobody here wrote: the flow, and everything that must end it."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import jwt
import pytest
from sqlalchemy import URL

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.hashes import sha256
from agentkeys_runtime.config import ConfigError
from broker.adapters.openid import PAUSE_S, Provider
from broker.ceremonies.oidc import CALLBACK, PER_CLIENT, way_back
from broker.ceremonies.steps import CONFIRMED_S, LIFETIME_S
from tests.fakes.openid_server import OpenIdServer, signing_key
from tests.fakes.services_kit import BROKER_ORIGIN
from tests.unit.broker.identity_world import IdentityWorld, identity_world, provider_of, provider_settings
from tests.unit.broker.test_email import FORM, page_reason, status
from tests.unit.broker.visitor import Visit, reason, typed

NONCE = b64u_encode(sha256(b"binds K10 and K11"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIdServer]:
    with OpenIdServer(folder=tmp_path_factory.mktemp("provider"), origin=BROKER_ORIGIN) as made:
        yield made


@pytest.fixture
def world(database: URL, server: OpenIdServer) -> Iterator[IdentityWorld]:
    with identity_world(database, provider=provider_settings(server), at=time.time()) as made:
        yield made


def begin(visit: Visit, issuer: str, nonce: str = NONCE) -> httpx.Response:
    return visit.begin("/v1/identity/oidc", json.dumps({"issuer": issuer, "nonce": nonce}).encode())


class Person:
    """Somebody at the pages of broker and provider."""

    def __init__(self, world: IdentityWorld, server: OpenIdServer, begun: httpx.Response) -> None:
        page = begun.json()["page"]
        assert page.startswith(BROKER_ORIGIN)
        self.world, self.server, self.begun, self.page = world, server, begun, page.removeprefix(BROKER_ORIGIN)

    def onward(self) -> str:
        shown = self.world.client.get(self.page)
        assert shown.status_code == 200, shown.text
        found = re.search(r'class="button" href="([^"]+)"', shown.text)
        assert found is not None
        return found[1].replace("&amp;", "&")

    def back(self, *, decline: bool = False) -> str:
        return self.server.sign_in(self.onward(), decline=decline).removeprefix(BROKER_ORIGIN)

    def returned(self) -> str:
        """The path of the page that asks, once the provider has sent the person back."""
        return onward_of(self.world.client.get(self.back()))

    def confirm(self, asks: str) -> httpx.Response:
        return self.world.client.post(asks, content=typed(self.begun), headers=FORM)


def onward_of(answer: httpx.Response) -> str:
    """Where the way back from the provider leads on to."""
    assert answer.status_code == 303, answer.text
    onward = answer.headers["location"]
    assert onward.startswith("/identity/oidc/confirm/")
    return str(onward)


def test_a_person_signs_in_and_the_device_gets_its_token(world: IdentityWorld, server: OpenIdServer) -> None:
    visit = world.visit()
    begun = begin(visit, server.issuer)
    assert begun.status_code == 200
    person = Person(world, server, begun)
    asks = person.returned()
    shown = world.client.get(asks)
    assert shown.status_code == 200
    assert "ada@people.test" in shown.text
    assert begun.json()["device"] in shown.text
    assert status(visit, begun.json()["id"]).json()["state"] == "authenticated"
    assert "id_token" not in status(visit, begun.json()["id"]).json()  # the person has not agreed yet
    assert person.confirm(asks).status_code == 200
    told = status(visit, begun.json()["id"]).json()
    assert told["state"] == "confirmed"
    claims = jwt.decode(told["id_token"], options={"verify_signature": False})
    assert (claims["nonce"], claims["sub"], claims["aud"]) == (NONCE, "ada", server.client_id)


def test_the_way_to_the_provider_has_pkce_state_and_nonce(world: IdentityWorld, server: OpenIdServer) -> None:
    onward = Person(world, server, begin(world.visit(), server.issuer)).onward()
    query = parse_qs(urlsplit(onward).query)
    assert (query["code_challenge_method"], query["nonce"], query["response_type"]) == (["S256"], [NONCE], ["code"])
    assert len(query["state"][0]) == 43
    assert "openid" in query["scope"][0].split()


def test_whoever_began_cannot_confirm_for_the_person(world: IdentityWorld, server: OpenIdServer) -> None:
    """The thief knows the first secret: it was in the link that they sent. The second one only the browser gets."""
    visit = world.visit()
    begun = begin(visit, server.issuer)
    person = Person(world, server, begun)
    early = person.confirm(f"/identity/oidc/confirm/{person.page.rpartition('/')[2]}")
    assert page_reason(early) == "ceremony_ended"  # nor before anybody signed in
    assert status(visit, begun.json()["id"]).json()["state"] == "pending"
    asks = person.returned()
    secret = person.page.rpartition("/")[2]
    assert page_reason(person.confirm(f"/identity/oidc/confirm/{secret}")) == "ceremony_ended"
    assert page_reason(world.client.get(f"/identity/oidc/{asks.rpartition('/')[2]}")) == "ceremony_ended"


def test_a_code_that_comes_again_leads_to_the_same_page_until_somebody_agreed(
    world: IdentityWorld, server: OpenIdServer
) -> None:
    person = Person(world, server, begin(world.visit(), server.issuer))
    back = person.back()
    asks = onward_of(world.client.get(back))
    assert onward_of(world.client.get(back)) == asks
    assert person.confirm(asks).status_code == 200
    assert page_reason(world.client.get(back)) == "ceremony_ended"


def test_the_page_that_asks_may_be_loaded_again(world: IdentityWorld, server: OpenIdServer) -> None:
    """Its address has no code in it, and the one that had is not in the browser's history."""
    person = Person(world, server, begin(world.visit(), server.issuer))
    asks = person.returned()
    assert world.client.get(asks).text == world.client.get(asks).text
    assert "code=" not in asks
    assert person.confirm(asks).status_code == 200


def test_a_code_of_another_ceremony_is_refused(world: IdentityWorld, server: OpenIdServer) -> None:
    """Its code was asked for with another PKCE challenge."""
    one, two = (Person(world, server, begin(world.visit(), server.issuer)) for _ in range(2))
    code = parse_qs(urlsplit(one.back()).query)["code"][0]
    state = parse_qs(urlsplit(two.onward()).query)["state"][0]
    iss = quote(server.issuer, safe="")
    answer = world.client.get(f"{CALLBACK}{way_back(server.issuer)}?code={code}&state={state}&iss={iss}")
    assert page_reason(answer) == "invalid_evidence"


@pytest.mark.parametrize("query", ["", "?code=x", "?state=x&code=y", f"?state={'A' * 43}&code=y", "?state"])
def test_a_way_back_that_nobody_began_leads_nowhere(world: IdentityWorld, query: str) -> None:
    assert page_reason(world.client.get(f"{CALLBACK}{'0' * 32}{query}")) in {"ceremony_ended", "invalid_body"}


def test_a_way_back_that_names_things_twice_is_refused(world: IdentityWorld) -> None:
    assert page_reason(world.client.get(f"{CALLBACK}{'0' * 32}?state=a&state=b")) == "invalid_body"


def test_another_provider_cannot_answer(world: IdentityWorld, server: OpenIdServer) -> None:
    """RFC 9207: a mix-up."""
    person = Person(world, server, begin(world.visit(), server.issuer))
    back = person.back()
    other = re.sub(r"iss=[^&]+", "iss=https%3A%2F%2Fevil.test", back)
    assert other != back
    assert page_reason(world.client.get(other)) == "invalid_evidence"
    assert world.client.get(back).status_code == 303  # nothing was used up


def test_a_provider_that_always_says_who_it_is_cannot_be_silent(world: IdentityWorld, server: OpenIdServer) -> None:
    """RFC 9207, 2.4: its metadata says so."""
    person = Person(world, server, begin(world.visit(), server.issuer))
    silent = re.sub(r"&?iss=[^&]+", "", person.back())
    assert page_reason(world.client.get(silent)) == "invalid_evidence"


def test_a_provider_that_is_no_longer_configured_ends_its_ceremonies(database: URL, server: OpenIdServer) -> None:
    known = provider_settings(server)
    with identity_world(database, provider=known, at=time.time()) as before:
        page = begin(before.visit(), server.issuer).json()["page"].removeprefix(BROKER_ORIGIN)
    other = provider_settings(server, issuer="https://other.test")
    with identity_world(database, provider=other, at=time.time()) as after:
        assert page_reason(after.client.get(page)) == "ceremony_ended"


def test_a_person_may_decline_at_the_provider(world: IdentityWorld, server: OpenIdServer) -> None:
    person = Person(world, server, begin(world.visit(), server.issuer))
    assert page_reason(world.client.get(person.back(decline=True))) == "policy_refused"


def test_a_sign_in_grows_old(world: IdentityWorld, server: OpenIdServer) -> None:
    person = Person(world, server, begin(world.visit(), server.issuer))
    back = person.back()
    world.clock.forward(LIFETIME_S)
    assert page_reason(world.client.get(back)) == "ceremony_ended"


def test_a_confirmation_grows_old_and_is_good_once(world: IdentityWorld, server: OpenIdServer) -> None:
    person = Person(world, server, begin(world.visit(), server.issuer))
    asks = person.returned()
    assert person.confirm(asks).status_code == 200
    assert page_reason(person.confirm(asks)) == "ceremony_ended"


def test_what_is_confirmed_at_the_last_moment_leaves_time_to_use_it(world: IdentityWorld, server: OpenIdServer) -> None:
    visit = world.visit()
    person = Person(world, server, begin(visit, server.issuer))
    asks = person.returned()
    world.clock.forward(LIFETIME_S - 1)
    assert person.confirm(asks).status_code == 200
    world.clock.forward(CONFIRMED_S - 1)
    assert status(visit, person.begun.json()["id"]).json()["state"] == "confirmed"
    world.clock.forward(1)
    assert reason(status(visit, person.begun.json()["id"])) == "ceremony_ended"


@pytest.mark.parametrize("nonce", ["", "short", "A" * 42, "A" * 44, "=" * 43])
def test_a_nonce_that_binds_nothing_is_refused(world: IdentityWorld, server: OpenIdServer, nonce: str) -> None:
    assert reason(begin(world.visit(), server.issuer, nonce)) == "invalid_body"


def test_an_unknown_provider_is_refused(world: IdentityWorld) -> None:
    assert reason(begin(world.visit(), "https://evil.test")) == "invalid_body"


def test_one_client_begins_few(world: IdentityWorld, server: OpenIdServer) -> None:
    for _ in range(PER_CLIENT):
        assert begin(world.visit(), server.issuer).status_code == 200
    assert reason(begin(world.visit(), server.issuer)) == "rate_limited"


def test_the_known_providers_are_told(world: IdentityWorld, server: OpenIdServer) -> None:
    assert world.client.get("/v1/identity/oidc/issuers").json() == {
        "issuers": [{"client_id": server.client_id, "issuer": server.issuer}]
    }


def provider(server: OpenIdServer, **changed: object) -> Provider:
    clock = changed.pop("clock", time.time)
    return provider_of(provider_settings(server, **changed), clock)  # type: ignore[arg-type]


def exchange(server: OpenIdServer, found: Provider, *, nonce: str = NONCE, asked: str = NONCE) -> str:
    """The reason why a fresh code is not worth a token; empty where it is."""
    verifier = "v" * 64
    address = found.authorization_url(state="s" * 43, nonce=asked, verifier=verifier)
    code = parse_qs(urlsplit(server.sign_in(address)).query)["code"][0]
    try:
        found.redeem(code, nonce=nonce, verifier=verifier)
    except KeyServiceError as error:
        return str(error.reason)
    return ""


def test_an_id_token_is_for_us_fresh_and_bound(server: OpenIdServer) -> None:
    assert exchange(server, provider(server)) == ""
    assert exchange(server, provider(server), nonce="another") == "invalid_evidence"
    assert exchange(server, provider(server, clock=lambda: time.time() + 700)) == "invalid_evidence"
    assert exchange(server, provider(server, clock=lambda: time.time() - 120)) == "invalid_evidence"


def test_a_wrong_client_secret_is_refused(server: OpenIdServer, tmp_path: Path) -> None:
    wrong = tmp_path / "secret"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    assert exchange(server, provider(server, client_secret_file=wrong)) in {"invalid_evidence", "provider_unreachable"}


def test_a_provider_that_is_not_trusted_is_not_asked(server: OpenIdServer) -> None:
    with pytest.raises(KeyServiceError) as caught:
        provider(server, ca=None).authorization_url(state="s", nonce=NONCE, verifier="v" * 64)
    assert caught.value.reason == "provider_unreachable"


def test_keys_are_rotated(tmp_path: Path) -> None:
    server = OpenIdServer(folder=tmp_path, origin=BROKER_ORIGIN)
    with server:
        found = provider(server)
        assert exchange(server, found) == ""
        server.stop()
        server.keys = [signing_key("second")]
        server.start()
        found._keys_at -= PAUSE_S  # as if that long ago: new keys are asked for at once, but not again and again
        assert exchange(server, found) == ""
        server.stop()
        server.keys = [signing_key("third")]
        server.start()
        assert exchange(server, found) == "invalid_evidence"


def test_a_provider_that_is_gone_is_named(tmp_path: Path) -> None:
    server = OpenIdServer(folder=tmp_path, origin=BROKER_ORIGIN)
    with server:
        found = provider(server)
        found.authorization_url(state="s", nonce=NONCE, verifier="v" * 64)
    with pytest.raises(KeyServiceError) as caught:
        found.redeem("code", nonce=NONCE, verifier="v" * 64)
    assert caught.value.reason == "provider_unreachable"


@pytest.mark.parametrize(
    "changed", [{"issuer": "http://localhost:1"}, {"issuer": "https://x.test/?q=1"}, {"issuer": ""}, {"client_id": ""}]
)
def test_settings_that_make_no_sense(server: OpenIdServer, changed: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        provider_settings(server, **changed)


def test_a_client_secret_that_others_can_read_is_refused(server: OpenIdServer, tmp_path: Path) -> None:
    loose = tmp_path / "secret"
    loose.write_text("x")
    loose.chmod(0o644)
    with pytest.raises(ConfigError):
        provider(server, client_secret_file=loose)
