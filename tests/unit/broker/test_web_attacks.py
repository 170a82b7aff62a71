"""What is tried against every web server: its host's name, headers, redirects, fixed sessions; and its headers graded."""

import json

import pytest

from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.endpoints import Call, Endpoint
from broker.ceremonies.oidc import CALLBACK
from tests.fakes.app_client import AppClient
from tests.fakes.mail_server import MailServer
from tests.fakes.services_kit import BROKER_ORIGIN, Services
from tests.unit.broker.identity_world import IdentityWorld
from tests.unit.broker.test_email import FORM, begin, page_reason, path_of
from tests.unit.broker.test_passkey import REGISTER, Person
from tests.unit.broker.visitor import Visit, reason, typed

EVIL = "evil.test"


def test_links_name_the_configured_host_whatever_the_request_says(world: IdentityWorld, server: MailServer) -> None:
    visit = world.visit()
    forged = {"Host": EVIL, "X-Forwarded-Host": EVIL, "Forwarded": f"host={EVIL}", "X-Original-URL": f"//{EVIL}/"}
    for path, asked in (("/v1/identity/email", {"address": "a@people.test"}), ("/v1/identity/passkey", REGISTER)):
        body = json.dumps(asked).encode()
        proof = visit.proof("sign-in", "POST", path, body, {"nonce": visit.nonce()})
        headers = {**forged, "AgentKeys-Proof": proof, "Content-Type": "application/json"}
        answer = world.client.post(path, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert EVIL not in answer.text
    assert server.mailbox.link().startswith(BROKER_ORIGIN + "/")
    page = world.client.get(Person(world, visit, REGISTER).path, headers=forged)
    assert page.status_code == 200
    assert EVIL not in page.text + str(page.headers)


@pytest.mark.parametrize(
    "address", ["a@people.test\r\nBcc: b@evil.test", "a@people.test\n", "a\x00@people.test", "a@b\u2028c"]
)
def test_no_address_adds_a_header_to_a_mail(world: IdentityWorld, server: MailServer, address: str) -> None:
    assert reason(begin(world.visit(), address)) == "invalid_body"
    world.settle()
    assert server.mailbox.messages == []


@pytest.mark.parametrize("text", ["%0d%0aSet-Cookie:%20a=b", "%0aX-Evil:1", "%E5%98%8A%E5%98%8DX-Evil:1"])
def test_no_path_or_query_adds_a_header_to_an_answer(world: IdentityWorld, text: str) -> None:
    pages = ("email", "passkey", "oidc", "oidc/confirm", "oidc/callback")
    queries = (f"/v1/session/challenge?{text}", f"{CALLBACK}{'0' * 32}?{text}", f"{CALLBACK}{'0' * 32}?state={text}")
    for path in (*(f"/identity/{page}/{text}" for page in pages), f"/{text}", *queries):
        answer = world.client.get(path)
        assert not {"set-cookie", "x-evil"} & set(answer.headers)
        assert "X-Evil" not in str(answer.headers)


def test_no_path_is_mended_by_a_redirect(world: IdentityWorld) -> None:
    """A redirect is made of the Host header, so it would go wherever a request says."""
    for path in world.client.get("/openapi.json").json()["paths"]:
        for bent in (path + "/", "/" + path, path + "//", path + "/.."):
            answer = world.client.get(bent, headers={"Host": EVIL})
            assert answer.status_code in {400, 401, 404, 405, 409}, (bent, answer.status_code)
            assert "location" not in answer.headers
            assert EVIL not in answer.text


@pytest.mark.parametrize("where", [f"https://{EVIL}/", f"//{EVIL}/", f"/\\{EVIL}", "javascript:alert(1)"])
def test_nothing_here_redirects(world: IdentityWorld, where: str) -> None:
    """But the way back from a provider, to whoever has a code of a ceremony of ours: see test_oidc_tokens.py."""
    paths = world.client.get("/openapi.json").json()["paths"]
    assert f"{CALLBACK}{{issuer}}" in paths
    asked = {"next": where, "redirect_uri": where, "return_to": where, "url": where, "state": where}
    for path in [*paths, f"/{where}", "//"]:
        filled = path.replace("{secret}", "A" * 43).replace("{id}", "00" * 16).replace("{issuer}", "0" * 32)
        answer = world.client.get(filled, params=asked)
        assert not 300 <= answer.status_code < 400
        assert "location" not in answer.headers
        assert f'href="{where}' not in answer.text


@pytest.mark.parametrize(
    "media", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", None]
)
def test_no_page_of_another_site_sends_a_request(services: Services, world: IdentityWorld, media: str | None) -> None:
    """A browser asks before it sends JSON to another site, and is never told that it may. All else is refused unread."""
    headers = {} if media is None else {"Content-Type": media}
    for client in (services.broker, services.worker, world.client):
        paths = client.get("/openapi.json").json()["paths"]
        posts = [path for path, methods in paths.items() if "post" in methods and not path.startswith("/dev/")]
        assert posts
        for path in posts:
            allowed = client.request("OPTIONS", path, headers={"Origin": f"https://{EVIL}"})
            assert not [name for name in allowed.headers if name.startswith("access-control-")]
            if path.startswith("/identity/"):  # pages: see below
                continue
            assert reason(client.post(path, content=b"{}", headers=headers)) == "invalid_body"


def test_what_a_browser_keeps_for_us_proves_nothing(services: Services) -> None:
    """There are no cookies, and a token without the device's signature over this very request is worth nothing."""
    visit = Visit(services.broker, services.world.clock, services.world.user.master)
    token = visit.sign_in().json()["token"]
    for headers in (
        {"Authorization": f"Bearer {token}"},
        {"Cookie": f"token={token}; session={token}"},
        {"Cookie": f"AgentKeys-Proof={visit.proof('request', 'GET', '/v1/sessions', b'')}"},
    ):
        assert reason(services.broker.get("/v1/sessions", headers=headers)) == "proof_invalid"


@pytest.mark.parametrize(
    "sent",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "nonsense"},
        {"Origin": f"https://{EVIL}"},
        {"Origin": f"https://{EVIL}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": f"{BROKER_ORIGIN}.{EVIL}"},
        {"Origin": "http://["},
        {"Origin": f"https://service.test@{EVIL}"},
    ],
    ids=str,
)
def test_no_form_of_another_site_confirms_anything(
    world: IdentityWorld, server: MailServer, sent: dict[str, str]
) -> None:
    """Even one that knows the secret, which is what every form needs first: nothing else here is believed of a browser."""
    form = typed(begin(world.visit()))
    path = path_of(server.mailbox.link())
    assert page_reason(world.client.post(path, content=form, headers={**FORM, **sent})) == "policy_refused"
    assert page_reason(world.client.post(f"{path[:-43]}{'A' * 43}", content=form, headers=FORM)) == "ceremony_ended"
    assert world.client.post(path, content=form, headers=FORM).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [{"Sec-Fetch-Site": "same-origin", "Origin": "null"}, {"Origin": "null"}, {"Origin": BROKER_ORIGIN}, {}],
    ids=str,
)
def test_a_form_of_ours_confirms(world: IdentityWorld, server: MailServer, sent: dict[str, str]) -> None:
    form, path = typed(begin(world.visit())), path_of(server.mailbox.link())
    assert world.client.post(path, content=form, headers={**FORM, **sent}).status_code == 200


def test_a_session_is_never_one_that_somebody_else_chose(services: Services) -> None:
    """The thief's token goes with the victim's sign-in: what comes back is the victim's own, and new."""
    thief = Visit(services.broker, services.world.clock, services.world.user.agent)
    theirs = thief.sign_in().json()
    victim = Visit(services.broker, services.world.clock, services.world.user.master, token=theirs["token"])
    mine = victim.sign_in().json()
    assert mine["session"]["id"] != theirs["session"]["id"]
    assert mine["token"] != theirs["token"]
    assert mine["session"]["device"] == victim.key.key_hash.hex()
    again = victim.sign_in().json()
    assert again["session"]["id"] != mine["session"]["id"]
    assert "set-cookie" not in victim.sessions().headers


def test_a_path_names_all_its_methods_and_a_literal_one_is_no_variable() -> None:
    def echo(call: Call) -> dict[str, object]:
        return dict(call.path)

    endpoints = [
        Endpoint(method=method, path=path, summary="s", handler=echo, response={})
        for method, path in (("GET", "/a/{name}"), ("POST", "/a/{name}"), ("POST", "/a/taken"))
    ]
    with AppClient(create_app("test", endpoints)) as client:
        assert client.request("PUT", "/a/x").headers["allow"] == "GET, HEAD, POST"
        refused = client.get("/a/taken")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert client.post("/a/taken").json() == {}
        assert client.post("/a/x").json() == {"name": "x"}
