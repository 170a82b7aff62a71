"""K11's page on localhost: whom it serves, and what it takes."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from agentkeys_core.encoding import b64u_decode
from agentkeys_core.k11 import K11Assertion
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11 import browser, page
from device.k11.browser import BrowserAuthenticator
from device.k11.ceremony import read_creation
from device.k11.software import SoftwareAuthenticator
from device.keys import SignedDigest
from device.local_web import MAX_POST_BYTES, TOKEN_HEADER
from tests.unit.device.browser_key import CHALLENGE, Key
from tests.unit.device.conftest import Person


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Visit:
    """Runs a ceremony in a thread and talks to its page."""

    def __init__(self, run: Callable[[Callable[[str], None], int], object]) -> None:
        self.port = free_port()
        self.result: Any = None
        self.error: DeviceError | None = None
        self.key = Key()
        self._opened = threading.Event()

        def announce(address: str) -> None:
            self.base, _, self.token = address.partition("/#")
            self._opened.set()

        def work() -> None:
            try:
                self.result = run(announce, self.port)
            except DeviceError as exc:
                self.error = exc

        self.thread = threading.Thread(target=work)
        self.thread.start()
        assert self._opened.wait(10)
        self.origin = self.base.rpartition("/")[0]
        self.client = httpx.Client(trust_env=False)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(self.base + path, headers=headers)

    def task(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/task", **{TOKEN_HEADER: self.token}).json()
        return found

    def post(self, body: object, **headers: str) -> httpx.Response:
        told = {TOKEN_HEADER: self.token, "Origin": self.origin, "Content-Type": "application/json"} | headers
        told = {name: value for name, value in told.items() if value}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(self.base + "/answer", content=content, headers=told)

    def end(self) -> None:
        if self.thread.is_alive():
            self.post({"declined": True})
        self.thread.join(10)
        self.client.close()


@pytest.fixture
def visit(home: Home, signed: tuple[SignedDigest, Intent]) -> Iterator[Visit]:
    key = Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    made = Visit(lambda announce, port: BrowserAuthenticator(announce, port=port).approve(record, *signed))
    made.key = key
    yield made
    made.end()


def test_whole_approval_over_http(visit: Visit, signed: tuple[SignedDigest, Intent]) -> None:
    task = visit.task()
    assert task["title"] == "Freeze everything of this operator"
    assert task["digest"] == signed[0].name.hex()
    assert ["operator", "00" * 32] in task["lines"]
    assert task["options"]["userVerification"] == "required"
    challenge = b64u_decode(task["options"]["challenge"])
    assert challenge == signed[0].challenge
    assert visit.post(visit.key.get(bytes(32))).status_code == 400  # wrong challenge: may be tried again
    assert visit.post(visit.key.get(challenge)).status_code == 200
    visit.thread.join(10)
    assert isinstance(visit.result, K11Assertion)


def test_whole_creation_over_http(home: Home) -> None:
    key = Key()
    made = Visit(
        lambda announce, port: BrowserAuthenticator(announce, port=port).create(home, device_key_hash=bytes(32))
    )
    task = made.task()
    assert task["kind"] == "create"
    assert task["options"]["rp"]["id"] == "localhost"
    assert task["options"]["authenticatorSelection"]["userVerification"] == "required"
    assert made.post(key.create(b64u_decode(task["options"]["challenge"]))).status_code == 200
    made.thread.join(10)
    made.client.close()
    assert made.result.credential_id == key.id
    assert made.result.public.origin_hash != bytes(32)


def test_declining_is_an_answer(visit: Visit) -> None:
    assert visit.post({"declined": True}).status_code == 200
    visit.thread.join(10)
    assert visit.error is not None
    assert visit.error.reason is Trouble.DECLINED


def test_page_has_a_strict_policy_and_no_inline_script(visit: Visit) -> None:
    for path in ("/", "/k11.js", "/page.js", "/page.css"):
        found = visit.get(path)
        assert found.status_code == 200
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert found.headers["x-frame-options"] == "DENY"
        assert found.headers["cache-control"] == "no-store"
        assert visit.token not in found.text
    html = visit.get("/").text
    assert "<script>" not in html
    assert "style=" not in html
    assert "onclick" not in html
    assert "innerHTML" not in visit.get("/page.js").text


def test_task_needs_the_token(visit: Visit) -> None:
    assert visit.get("/task").status_code == 403
    assert visit.get("/task", **{TOKEN_HEADER: "wrong"}).status_code == 403
    assert visit.get("/task?token=" + visit.token).status_code == 404
    assert visit.get("/task", **{TOKEN_HEADER: visit.token, "Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_answer_needs_token_origin_and_type(visit: Visit, signed: tuple[SignedDigest, Intent]) -> None:
    good = visit.key.get(signed[0].challenge)
    assert visit.post(good, **{TOKEN_HEADER: "wrong"}).status_code == 403
    assert visit.post(good, Origin="http://localhost:8723").status_code == 403
    assert visit.post(good, Origin="").status_code == 403
    assert visit.post(good, **{"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert visit.post(good, **{"Content-Type": "text/plain"}).status_code == 400
    assert visit.post(b"x" * (MAX_POST_BYTES + 1)).status_code == 413
    assert visit.post(b"[").status_code == 400
    assert visit.client.post(visit.base + "/other").status_code == 404
    assert visit.client.request("OPTIONS", visit.base + "/answer").status_code == 501
    assert visit.thread.is_alive()


def test_rebound_host_names_are_refused(visit: Visit) -> None:
    for host in ("evil.example", f"evil.example:{visit.port}", f"127.0.0.1:{visit.port}", "localhost"):
        assert visit.get("/", Host=host).status_code == 403
        assert visit.get("/task", Host=host, **{TOKEN_HEADER: visit.token}).status_code == 403
        assert visit.post({"declined": True}, Host=host).status_code == 403


def test_nothing_lies_where_somebody_could_have_known(visit: Visit) -> None:
    for path in ("/", "/k11.js", "/page.js", "/task", visit.base.rpartition("/")[2], "//task"):
        found = visit.client.get(f"{visit.origin}/{path.removeprefix('/')}", headers={TOKEN_HEADER: visit.token})
        assert found.status_code == 404
        assert found.text == "Open the address that your terminal shows.\n"


def test_every_answer_has_the_browser_forget_what_others_left(visit: Visit) -> None:
    answers = (
        visit.get("/"),
        visit.get("/task"),
        visit.get("/other"),
        visit.client.get(visit.origin + "/"),
        visit.post([]),
    )
    assert {answer.headers["clear-site-data"] for answer in answers} == {'"storage"'}


def test_nobody_approves_in_time(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    record = SoftwareAuthenticator(home).create(home, device_key_hash=bytes(32))
    with pytest.raises(DeviceError) as caught:
        BrowserAuthenticator(lambda _: None, port=free_port(), timeout_s=0.1).approve(record, *signed)
    assert caught.value.reason is Trouble.K11_TIMEOUT


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_taken_port_is_refused_on_either_loopback_address(
    home: Home, signed: tuple[SignedDigest, Intent], host: str
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    record = SoftwareAuthenticator(home).create(home, device_key_hash=bytes(32))
    opened: list[str] = []
    with taken, pytest.raises(DeviceError) as caught:
        BrowserAuthenticator(opened.append, port=taken.getsockname()[1]).approve(record, *signed)
    assert caught.value.reason is Trouble.K11_PAGE_UNAVAILABLE
    assert not opened


def test_init_with_the_page(person: Callable[[str], Person], monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key()

    def visit(ceremony: page.Ceremony, announce: Callable[[str], None], **_: object) -> None:
        task = ceremony.task
        announce("http://localhost:8722/#token")
        challenge = b64u_decode(task.options["challenge"])
        task.accept(key.create(challenge) if task.kind == "create" else key.get(challenge))

    monkeypatch.setattr(browser, "run_ceremony", visit)
    made = person("p")
    outcome = made("init", *made.profile_words(), "--wallet-key-file", made.wallet_file)
    assert outcome.code == 0, outcome.err
    assert "http://localhost:8722/#" in outcome.err
    assert made("unfreeze").code == 0
    assert made.init().data["status"] == "already_enrolled"
