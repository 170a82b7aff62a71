"""The headers of the broker's answers and pages, graded; and that the grades are worth something."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkeys_runtime.web import headers
from broker.adapters.store.engine import database_url
from tests.fakes.app_client import AppClient
from tests.fakes.header_grades import faults
from tests.fakes.mail_server import MailServer
from tests.unit.broker.identity_world import IdentityWorld, identity_world, mail_settings
from tests.unit.broker.test_email import FORM, begin, page_reason, path_of
from tests.unit.broker.test_passkey import REGISTER, Person
from tests.unit.broker.visitor import typed

GOOD = {name.lower(): value for name, value in {**headers.HEADERS, **headers.of_host("broker.test")}.items()}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    with MailServer(tmp_path, "starttls") as made:
        yield made


@pytest.fixture
def world(server: MailServer, tmp_path: Path) -> Iterator[IdentityWorld]:
    with identity_world(database_url(None, tmp_path), mail=mail_settings(server)) as made:
        yield made


def test_every_kind_of_answer_is_graded(world: IdentityWorld, server: MailServer) -> None:
    """JSON, refusals, a page that works, one that refuses, the style sheet, and the one page with a script."""
    form = typed(begin(world.visit()))
    link = path_of(server.mailbox.link())
    plain = ["/v1/session/challenge", "/openapi.json", "/nowhere", "/v1/sessions", "/v1/session", link]
    for path in (*plain, "/identity/style.css", "/identity/passkey.js", "/identity/email/" + "A" * 43):
        assert faults(world.client.get(path, headers={"Origin": "https://evil.test"}).headers, named=True) == [], path
    page = Person(world, world.visit(), REGISTER).page()
    assert faults(page.headers, named=True, script=True, passkeys=True) == []
    done = world.client.post(link, content=form, headers=FORM)
    assert faults(done.headers, named=True) == []
    assert page_reason(world.client.get(link)) == "ceremony_ended"
    for answer in (page, done):
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("broker.test", True),
        ("broker.test:8443", True),
        ("localhost", False),
        ("LOCALHOST:8722", False),
        ("app.localhost:1", False),
        ("localhost.", False),
        ("127.0.0.1:8443", False),
        ("[::1]:8443", False),
        ("", False),
    ],
)
def test_a_promise_of_tls_never_claims_the_page_where_k11_lives(world: IdentityWorld, host: str, named: bool) -> None:
    with AppClient(world.app) as client:
        answer = client.get("/v1/session/challenge", headers={"Host": host})
    assert faults(answer.headers, named=named) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in GOOD),
        ("content-security-policy", GOOD["content-security-policy"] + "; script-src 'unsafe-inline'"),
        ("content-security-policy", GOOD["content-security-policy"] + "; img-src https:"),
        (
            "content-security-policy",
            GOOD["content-security-policy"].replace("frame-ancestors 'none'", "frame-ancestors *"),
        ),
        ("content-security-policy", GOOD["content-security-policy"].replace("form-action 'none'; ", "")),
        ("permissions-policy", GOOD["permissions-policy"].replace("camera=()", "camera=(self)")),
        ("permissions-policy", GOOD["permissions-policy"].replace("get=()", "get=(self)")),
        ("strict-transport-security", "max-age=60"),
        ("cache-control", "private, max-age=60"),
        ("server", "uvicorn/0.40"),
        ("set-cookie", "a=b"),
        ("access-control-allow-origin", "*"),
        ("x-powered-by", "python"),
    ],
)
def test_what_is_weaker_has_a_fault(name: str, value: str) -> None:
    assert faults(GOOD, named=True) == []
    spoilt = {known: found for known, found in {**GOOD, name: value}.items() if found}
    assert faults(spoilt, named=True) != []
