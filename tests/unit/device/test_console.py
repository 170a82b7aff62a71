"""The console over HTTP: whom it serves, what it takes, and that nothing is signed which nobody agreed to."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import Reason
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.k11 import K11_PORT
from agentkeys_core.keys import DeviceKey
from device.console.forms import Form
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.local_web import MAX_POST_BYTES, TOKEN_HEADER
from device.pairing import shown
from device.pairing_desk import Begun, MachineSide, fingerprint
from device.setting_up import set_up
from device.show import Show
from tests.unit.device.conftest import Person
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.terminal import Terminal

PAGES = (
    *("/page/devices", "/page/agents", "/page/masters", "/page/pair", "/page/audit", "/page/destroy", "/page/changes"),
    *("/page/sessions", "/page/job", "/page/audit.json", "/live"),
)
FORMS = ("/do", "/claim", "/approve", "/hand-in", "/stop", "/answer", "/sign-in", "/end-session")


@pytest.fixture
def machine(deployment: Deployment, tmp_path: Path) -> Iterator[MachineSide]:
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(tmp_path / "machine", create=True))
        device = stack.enter_context(set_up(home, deployment.profile, Show(as_json=True, yes=True)))
        yield MachineSide(device, pause=soon)


def soon(_: float) -> None:
    """In place of a second's pause."""
    threading.Event().wait(0.02)


def begin(machine: MachineSide) -> Begun:
    return machine.begin(label="research", services=("cred:openrouter",))


def approve(visitor: Visitor, **changed: str) -> dict[str, object]:
    fields = {"label": "research", "services": "cred:openrouter", "generation": "0"}
    return visitor.approve(**{**fields, **changed})


# --- whom it serves ---------------------------------------------------------------------------------------------------


def test_every_route_is_asked_here(visitor: Visitor) -> None:
    assert visitor.console.routes == {"GET": {*PAGES, "/page/file"}, "POST": set(FORMS)}
    assert visitor.client.get(visitor.root + "/page/file").status_code == 403  # with the token 404: there is none yet


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_the_token(visitor: Visitor, path: str) -> None:
    assert visitor.get(path).status_code == 200
    assert visitor.client.get(visitor.root + path).status_code == 403
    assert visitor.get(path, **{TOKEN_HEADER: "wrong"}).status_code == 403
    assert visitor.get(path, **{"Sec-Fetch-Site": "same-site"}).status_code == 403
    cookie = {TOKEN_HEADER: "", "Cookie": f"{TOKEN_HEADER}={visitor.console.token}"}
    assert visitor.get(path, **cookie).status_code == 403  # other ports of localhost would get a cookie too


@pytest.mark.parametrize("path", FORMS)
def test_a_form_needs_token_origin_host_and_type(visitor: Visitor, path: str) -> None:
    body = {"what": ["freeze"]}
    for headers in (
        {TOKEN_HEADER: ""},
        {TOKEN_HEADER: "wrong"},
        {"Origin": ""},
        {"Origin": "http://localhost:8723"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert visitor.post(path, body, **headers).status_code == 403
    assert visitor.post(path, body, **{"Content-Type": "text/plain"}).status_code == 400
    assert visitor.post(path, b"x" * (MAX_POST_BYTES + 1)).status_code == 413
    assert "frozen" not in visitor.get("/page/devices").text


def test_a_rebound_name_reaches_nothing(visitor: Visitor) -> None:
    port = visitor.origin.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1:{port}", "localhost"):
        for path in ("/", *PAGES):
            assert visitor.get(path, Host=host).status_code == 403


def test_files_hold_no_secret_and_no_inline_script(visitor: Visitor) -> None:
    for path in ("/", "/console.js", "/console.css", "/live.js"):
        found = visitor.client.get(visitor.root + path)
        assert found.status_code == 200
        assert visitor.console.token not in found.text
        assert "set-cookie" not in found.headers
        for danger in ("<script>", "style=", "onclick", "innerHTML", "eval(", "https://"):
            assert danger not in found.text
        assert "unsafe" not in found.headers["content-security-policy"]
        assert found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PAGES[:-3])
def test_pages_are_markup_alone(visitor: Visitor, agent: Person, path: str) -> None:
    text = visitor.get(path).text
    assert text.count("<h1>") == 1
    for danger in ("<script", "style=", "onclick", 'href="http'):
        assert danger not in text


def test_when_the_broker_saw_a_device_is_its_word(visitor: Visitor, agent: Person, deployment: Deployment) -> None:
    assert visitor.get("/page/devices").text.count("<dt>Last seen by the broker</dt><dd>never</dd>") == 2
    assert agent("cred", "list").code == 0
    page = visitor.get("/page/devices").text
    assert page.count("<dd>never</dd>") == 1
    assert f"<dd>{datetime.now(UTC):%Y-%m-%d}" in page
    assert "Last seen by the broker: 20" in visitor.get("/page/agents").text
    deployment.hooks["broker", "/v1/devices/uses"] = lambda _: problem(Reason.OVERLOADED, 429)
    assert visitor.get("/page/devices").text.count("<dd>not told</dd>") == 2


def test_there_is_nothing_else(visitor: Visitor) -> None:
    assert visitor.get("/page/other").status_code == 404
    assert visitor.get("/page/../page").status_code == 404
    assert visitor.post("/page/devices", {}).status_code == 404
    assert visitor.get("/do").status_code == 404
    assert visitor.get("/page/audit?" + "&".join(f"a{n}=1" for n in range(20))).status_code == 400


def test_what_a_refusal_says_is_text(visitor: Visitor, deployment: Deployment) -> None:
    path = f"/v1/registry/operators/{next(iter(deployment.states)).hex()}"
    for part in ("broker", "credentials", "audit"):
        deployment.hooks[part, path] = lambda _: problem(Reason.OVERLOADED, 429, detail="<img src=x>")
    found = visitor.get("/page/devices")
    assert found.status_code == 502
    assert "overloaded" in found.text
    assert "&lt;img src=x&gt;" in found.text


# --- what it does -----------------------------------------------------------------------------------------------------


def test_a_software_k11_is_called_one(visitor: Visitor) -> None:
    page = visitor.get("/page/devices").text
    assert "software, for development only" in page
    assert "Revoke" not in page  # no device revokes itself


def test_evidence_and_a_fallen_counter_are_told(visitor: Visitor, deployment: Deployment) -> None:
    operator, state = next(iter(deployment.states.items()))
    ((key, record),) = state.devices.items()
    told = replace(record, evidence=Evidence.EMAIL, assurance=Assurance.LOW, counter_fell=True)
    deployment.states[operator] = replace(state, devices={key: told})
    page = visitor.get("/page/devices").text
    for words in ("an e-mail address", "low assurance", "its counter fell"):
        assert words in page


def test_nothing_is_signed_before_somebody_agrees(visitor: Visitor, deployment: Deployment) -> None:
    deployment.seen.clear()
    assert visitor.send("/do", what="freeze") == {"go": "job"}
    question = visitor.get("/page/job").text
    assert "Freeze everything of this operator" in question
    assert re.search("Digest.*<code>[0-9a-f]{64}</code>", question)
    assert not any(path == "/v1/registry/changes" for _, path in deployment.seen)
    assert visitor.answer("confirmed").json() == {"go": "job"}
    assert "is frozen" in visitor.get("/page/job").text
    assert "End the freeze" in visitor.get("/page/devices").text
    assert visitor.answer("confirmed").status_code == 409  # nothing is asked any more


def test_scope_and_devices_of_an_agent(visitor: Visitor, agent: Person) -> None:
    page = visitor.get("/page/agents").text
    assert "research/0" in page
    actor = re.search('name="actor" value="([0-9a-f]{64})"', page)
    device = re.search('name="device" value="([0-9a-f]{64})"', page)
    assert actor is not None
    assert device is not None
    visitor.send("/do", what="scope", actor=actor[1], grant="cred:stripe, cred:a", revoke=["cred:openrouter"])
    asked = visitor.get("/page/job").text
    assert "cred:a, cred:stripe" in asked
    assert "cred:openrouter" in asked
    visitor.answer("confirmed")
    assert agent("whoami").data["scope"] == ["cred:a", "cred:stripe"]
    visitor.send("/do", what="revoke", device=device[1])
    visitor.answer("confirmed")
    assert agent("whoami").data["status"] == "revoked"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"what": "nonsense"},
        {"what": ["freeze", "freeze"]},
        {"what": "revoke", "device": "ab"},
        {"what": "scope", "actor": "00" * 32},
        {"what": "scope", "actor": "00" * 32, "grant": "nonsense"},
        {"what": "scope", "actor": "zz" * 32, "grant": "cred:a"},
    ],
)
def test_what_is_malformed_starts_nothing(visitor: Visitor, fields: dict[str, str]) -> None:
    assert visitor.send("/do", **fields)["reason"] == "usage"
    assert visitor.console._job is None


def test_a_machine_is_let_in(visitor: Visitor, machine: MachineSide, master: Person) -> None:
    begun = begin(machine)
    assert visitor.send("/claim", code=begun.code) == {"go": "pair"}
    page = visitor.get("/page/pair").text
    assert shown(begun.hash) in page
    assert "checked" not in page
    assert approve(visitor) == {"go": "job"}
    operator = machine.claimed_by(begun)
    waiting = visitor.get("/page/job").text
    assert fingerprint(operator) in waiting
    assert "data-again" in waiting
    machine.agree(begun, operator)
    job = visitor.console._job
    assert job is not None
    with job._changed:
        assert job._changed.wait_for(lambda: job.question is not None, 20)
    asked = visitor.get("/page/job").text
    assert "Let a new agent device in" in asked
    assert visitor.answer("confirmed").json() == {"go": "job"}
    assert "is let in" in visitor.get("/page/job").text
    assert master("agent", "list").data["agents"][0]["scope"] == ["cred:openrouter"]


def test_a_swapped_key_shows_another_hash(visitor: Visitor, machine: MachineSide, deployment: Deployment) -> None:
    begun = begin(machine)
    own = DeviceKey.generate()

    def lie(method: str, path: str, told: dict[str, object]) -> None:
        if path == "/v1/pairings/claim":
            told |= {"device": own.key_hash.hex(), "public_key": b64u_encode(own.public_key)}

    deployment.identity.lie = lie
    assert visitor.send("/claim", code=begun.link.encode())["reason"] == "pairing_hash_mismatch"
    assert 'name="code"' in visitor.get("/page/pair").text
    begun = begin(machine)
    assert visitor.send("/claim", code=begun.code) == {"go": "pair"}
    assert shown(begun.hash) not in visitor.get("/page/pair").text


def test_a_machine_waits_outside_until_its_hash_was_compared(visitor: Visitor, machine: MachineSide) -> None:
    begun = begin(machine)
    visitor.send("/claim", code=begun.code)
    assert approve(visitor, compared="")["reason"] == "usage"
    assert approve(visitor, id="00" * 16)["reason"] == "usage"
    assert approve(visitor, services="nonsense")["reason"] == "usage"
    assert approve(visitor, generation="x")["reason"] == "usage"
    assert visitor.console._job is None


def test_a_link_holds_the_hash_and_its_broker(visitor: Visitor, machine: MachineSide) -> None:
    begun = begin(machine)
    elsewhere = replace(begun.link, broker="https://other.example").encode()
    assert visitor.send("/claim", code=elsewhere)["reason"] == "pair_invalid"
    assert visitor.send("/claim", code="agentkeys:nonsense")["reason"] == "usage"
    assert visitor.send("/claim", code=begun.link.encode()) == {"go": "pair"}
    page = visitor.get("/page/pair").text
    assert "from the machine&#39;s own screen" in page or "from the machine's own screen" in page
    assert " checked" not in page  # a text that somebody sent is no comparison until the person says where it is from


def test_the_line_for_a_machine_is_shown_where_the_profile_is_served(visitor: Visitor, deployment: Deployment) -> None:
    deployment.hooks["broker", "/v1/profile"] = lambda _: problem(Reason.NOT_FOUND, 404)
    assert "--profile profile.json --profile-hash" in visitor.get("/page/pair").text
    deployment.hooks["broker", "/v1/profile"] = lambda _: (200, json.loads(deployment.profile.encode()))
    line = f"--profile {deployment.profile.broker}/v1/profile --profile-hash {deployment.profile.hash().hex()}"
    assert line in visitor.get("/page/pair").text
    deployment.hooks["broker", "/v1/profile"] = lambda _: problem(Reason.OVERLOADED, 429)
    assert "agentkeys agent invite" in visitor.get("/page/pair").text


def test_who_stops_a_pairing_waits_no_longer(visitor: Visitor, machine: MachineSide) -> None:
    begun = begin(machine)
    visitor.send("/claim", code=begun.code)
    approve(visitor)
    assert visitor.stop() == {"go": "devices"}
    assert "declined" in visitor.ended()


@given(st.binary(max_size=200) | st.sampled_from([b"[]", b"{}", b'{"a":1}', b'{"a":[1]}', b'{"a":["b"]}']))
def test_a_form_is_read_or_refused_by_name(body: bytes) -> None:
    try:
        form = Form.parse(body)
    except DeviceError as error:
        assert error.reason is Trouble.USAGE  # noqa: PT017 - either is right
        return
    assert form.one("none") == ""


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_its_address_and_ends(master: Person) -> None:
    with Terminal(master, "console") as terminal:
        seen = terminal.until(r"http://localhost:\d+/\S{22}/#\S{43}\s")
        terminal.write(b"\x03")
        code, _ = terminal.end()
    assert f":{K11_PORT}/" not in seen
    assert code == 130


def test_the_terminal_shows_what_a_page_asks(master: Person) -> None:
    told: list[Intent] = []

    class Screen(Show):
        def signing(self, intent: Intent) -> None:
            told.append(intent)

    with console_at(master.home, Screen()) as visitor:
        visitor.send("/do", what="freeze")
        page = visitor.get("/page/job").text
        assert [intent.title for intent in told] == ["Freeze everything of this operator"]
        assert told[0].digest.hex() in page
        visitor.answer("declined")


def test_every_console_lies_elsewhere(master: Person) -> None:
    with console_at(master.home) as first, console_at(master.home) as second:
        assert first.origin != second.origin
        assert first.root.rpartition("/")[2] != second.root.rpartition("/")[2]
        for path in ("/", "/console.js", "/page/devices"):
            elsewhere = first.client.get(first.origin + path, headers={TOKEN_HEADER: first.console.token})
            assert elsewhere.status_code == 404
            other = first.root.rpartition("/")[2]
            assert first.client.get(f"{second.origin}/{other}{path}").status_code == 404


def test_an_agents_folder_has_no_console(agent: Person, person: Callable[[str], Person]) -> None:
    assert agent("console").reason == "usage"
    assert person("nobody")("console").reason == "not_initialised"
