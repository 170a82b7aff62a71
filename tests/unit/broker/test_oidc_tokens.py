"""By what an ID token is signed and for whom it is, and where a provider sends people back to."""

import base64
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agentkeys_core.errors import KeyServiceError, Reason
from broker.adapters.openid import Provider
from broker.adapters.store.engine import database_url
from broker.id_tokens import key_id, verified
from signer.adapters.issuer_keys import JwksFile
from tests.fakes.hostile_provider import KID, HostileProvider
from tests.fakes.openid_server import OTHER_CLIENT, OpenIdServer, signing_key
from tests.fakes.services_kit import BROKER_ORIGIN
from tests.unit.broker.identity_world import IdentityWorld, identity_world, provider_of, provider_settings
from tests.unit.broker.test_email import status
from tests.unit.broker.test_oidc import NONCE, Person, begin, onward_of
from tests.unit.broker.test_oidc_hostile import outcome

SECRET = b"the client secret, which is long enough for HMAC"
VERIFIER = secrets.token_urlsafe(48)
PRIVATE = {"d", "p", "q", "dp", "dq", "qi"}


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenIdServer]:
    """The certified provider, which signs as Google does."""
    folder = tmp_path_factory.mktemp("rs256")
    with OpenIdServer(folder=folder, origin=BROKER_ORIGIN, keys=[signing_key("first", "RS256")]) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, google: OpenIdServer) -> Iterator[IdentityWorld]:
    with identity_world(database_url(None, tmp_path), provider=provider_settings(google), at=time.time()) as made:
        yield made


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[HostileProvider]:
    with HostileProvider(folder=tmp_path / "evil", nonce=NONCE) as made:
        yield made


# --- what signs -------------------------------------------------------------------------------------------------------


def test_a_provider_that_signs_as_google_does(world: IdentityWorld, google: OpenIdServer, tmp_path: Path) -> None:
    """And what the broker believed the signer believes, under the same keys."""
    visit = world.visit()
    begun = begin(visit, google.issuer)
    person = Person(world, google, begun)
    assert person.confirm(person.returned()).status_code == 200
    token = status(visit, begun.json()["id"]).json()["id_token"]
    (key,) = google.keys
    published = {name: value for name, value in key.items() if name not in PRIVATE}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [published]}))
    assert json.loads(JwksFile(tmp_path / "jwks.json").verify(token))["sub"] == "ada"


def by_a_shared_secret(evil: HostileProvider) -> str:
    return evil.signed(SECRET, "HS256")


def by_a_shared_secret_that_is_published(evil: HostileProvider) -> str:
    shared = {"kty": "oct", "kid": KID, "alg": "HS256", "k": base64.urlsafe_b64encode(SECRET).decode().rstrip("=")}
    evil.bodies["keys"] = 200, {"Content-Type": "application/json"}, json.dumps({"keys": [shared]}).encode()
    return evil.signed(SECRET, "HS256")


def by_the_public_key_as_a_secret(evil: HostileProvider) -> str:
    x = evil.keys()["keys"][0]["x"]
    return evil.signed(base64.urlsafe_b64decode(x + "="), "HS256")


def by_nobody(evil: HostileProvider) -> str:
    head, body, _ = evil.signed().split(".")
    bare = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": KID}).encode()).decode().rstrip("=")
    assert head
    return f"{bare}.{body}."


def by_an_rsa_key_of_that_name(evil: HostileProvider) -> str:
    return evil.signed(rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256")


def by_another_key_of_that_name(evil: HostileProvider) -> str:
    return evil.signed(ec.generate_private_key(ec.SECP256R1()))


def by_a_key_that_it_brings(evil: HostileProvider) -> str:
    own = ec.generate_private_key(ec.SECP256R1())
    return evil.signed(own, jku=f"{evil.issuer}/own", kid="own")


@pytest.mark.parametrize(
    "forge",
    [
        by_a_shared_secret,
        by_a_shared_secret_that_is_published,
        by_the_public_key_as_a_secret,
        by_nobody,
        by_an_rsa_key_of_that_name,
        by_another_key_of_that_name,
        by_a_key_that_it_brings,
    ],
)
def test_no_token_by_another_kind_of_key_binds_anybody(
    tmp_path: Path, evil: HostileProvider, forge: Callable[[HostileProvider], str]
) -> None:
    evil.forged = forge(evil)
    with identity_world(database_url(None, tmp_path), provider=evil.settings, at=time.time()) as world:
        assert outcome(world, evil) in {"invalid_evidence", "provider_unreachable"}


# --- for whom it is ---------------------------------------------------------------------------------------------------


def code_at(server: OpenIdServer, provider: Provider) -> str:
    """A code that the provider gave to the client of `provider`."""
    back = server.sign_in(provider.authorization_url(state="s" * 43, nonce=NONCE, verifier=VERIFIER))
    return parse_qs(urlsplit(back).query)["code"][0]


def refused(provider: Provider, code: str) -> Reason:
    with pytest.raises(KeyServiceError) as caught:
        provider.redeem(code, nonce=NONCE, verifier=VERIFIER)
    return caught.value.reason


def test_a_code_is_redeemed_once_at_the_provider(google: OpenIdServer) -> None:
    provider = provider_of(provider_settings(google))
    code = code_at(google, provider)
    assert provider.redeem(code, nonce=NONCE, verifier=VERIFIER).subject == "ada"
    assert refused(provider, code) is Reason.INVALID_EVIDENCE


def test_what_another_client_got_at_the_provider_is_worth_nothing_here(google: OpenIdServer, tmp_path: Path) -> None:
    ours = provider_of(provider_settings(google))
    file = tmp_path / "secret"
    file.write_text(OTHER_CLIENT)
    file.chmod(0o600)
    theirs = provider_of(provider_settings(google, client_id=OTHER_CLIENT, client_secret_file=file))
    assert refused(ours, code_at(google, theirs)) is Reason.INVALID_EVIDENCE
    token = theirs.redeem(code_at(google, theirs), nonce=NONCE, verifier=VERIFIER).text
    key = ours._key(key_id(token))
    given = {"issuer": google.issuer, "nonce": NONCE, "now": time.time()}
    assert verified(token, key, client_id=OTHER_CLIENT, **given).subject == "ada"  # type: ignore[arg-type]
    with pytest.raises(KeyServiceError) as caught:
        verified(token, key, client_id=ours.client_id, **given)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.INVALID_EVIDENCE


# --- where it leads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        "next=https://evil.test/",
        "redirect_uri=https://evil.test/",
        "return_to=//evil.test",
        "x=%0d%0aSet-Cookie:%20a=b",
        "%0d%0aSet-Cookie:%20a=b",
        "error_uri=javascript:alert(1)",
        "session_state=%0aLocation:%20https://evil.test",
    ],
)
def test_the_way_back_leads_to_our_own_page_alone(world: IdentityWorld, google: OpenIdServer, more: str) -> None:
    back = Person(world, google, begin(world.visit(), google.issuer)).back()
    plain = world.client.get(back)
    onward = onward_of(plain)
    assert re.fullmatch(r"/identity/oidc/confirm/[A-Za-z0-9_-]{43}", onward)
    forged = {
        "Host": "evil.test",
        "X-Forwarded-Host": "evil.test",
        "X-Forwarded-Proto": "http",
        "Forwarded": "host=evil.test",
    }
    for headers in ({}, forged):
        answer = world.client.get(f"{back}&{more}", headers=headers)
        assert answer.headers.get("location", onward) == onward
        assert "evil.test" not in str(answer.headers)
        if answer.status_code == 303:
            assert set(answer.headers) == set(plain.headers)
