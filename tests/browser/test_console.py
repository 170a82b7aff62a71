"""The console in a real browser: every page, by pointer and by keyboard, dark and light, wide and narrow."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.k11 import K11_PORT
from agentkeys_core.keys import DeviceKey
from device.audit_trail import Export
from device.k11.page import Ceremony, Task, run_ceremony
from device.pairing import shown
from device.pairing_desk import MachineSide, fingerprint
from tests.browser.console_steps import NAMES, console_tab, heading, open_page, press
from tests.fakes.browser import picture, virtual_authenticator, with_the_keys_of
from tests.fakes.serving import served
from tests.unit.device.conftest import Person
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.deployment import Deployment
from tests.unit.device.https import Stall
from tests.unit.device.terminal import Terminal


@pytest.fixture
def page(context: BrowserContext, visitor: Visitor) -> Page:
    return console_tab(context, visitor)


def stored(master: Person, folder: Path, *names: str) -> None:
    (folder / "v").write_bytes(b"v")
    for name in names:
        assert master("cred", "put", name, "--file", folder / "v").code == 0


def test_a_freeze_and_its_end(page: Page) -> None:
    expect(page.get_by_text("this device")).to_be_visible()
    picture(page, "console-devices")
    press(page, "Freeze …")
    expect(heading(page)).to_have_text("Freeze everything of this operator")
    expect(page.get_by_text("Digest, which is signed")).to_be_visible()
    picture(page, "console-question")
    press(page, "Sign and send")
    expect(heading(page)).to_have_text("Done")
    picture(page, "console-done")
    open_page(page, "Devices")
    expect(page.get_by_role("alert")).to_contain_text("frozen")
    picture(page, "console-frozen")
    press(page, "End the freeze …")
    press(page, "Sign and send")
    expect(heading(page)).to_have_text("Done")


def test_a_freeze_is_at_hand_while_pages_wait_for_the_broker(page: Page, deployment: Deployment) -> None:
    stall = deployment.stalls["broker", "/v1/devices/uses"] = Stall()
    page.reload()
    assert stall.reached.wait(20)
    for _ in range(4):  # whatever is pressed meanwhile: more than a browser has connections for
        page.get_by_role("navigation").get_by_role("link", name="Agents").click()
        page.get_by_role("navigation").get_by_role("link", name="Devices").click()
    expect(heading(page)).to_have_text("One moment …")
    picture(page, "console-stalled")
    press(page, "Freeze all …")
    expect(heading(page)).to_have_text("Freeze everything of this operator")
    press(page, "Sign and send")
    expect(heading(page)).to_have_text("Done")
    assert not stall.let_go.is_set()
    stall.let_go.set()


def test_who_declines_changes_nothing(page: Page) -> None:
    press(page, "Freeze …")
    press(page, "Decline")
    expect(page.get_by_role("alert")).to_contain_text("declined")
    picture(page, "console-declined")
    open_page(page, "Devices")
    expect(page.get_by_role("button", name="Freeze …")).to_be_visible()


def test_an_agents_services_and_device(agent: Person, page: Page) -> None:
    open_page(page, "Agents")
    expect(heading(page)).to_have_text("My agents")
    page.get_by_label("take away cred:openrouter").check()
    page.get_by_label("Grant as well").fill("cred:stripe")
    picture(page, "console-agents")
    press(page, "Change what research/0 may use")
    expect(page.locator("dl")).to_contain_text("cred:stripe")
    press(page, "Sign and send")
    expect(heading(page)).to_have_text("Done")
    assert agent("whoami").data["scope"] == ["cred:stripe"]
    open_page(page, "Agents")
    page.get_by_role("button", name="Revoke the device").click()
    expect(heading(page)).to_have_text("Revoke a device for ever")
    press(page, "Sign and send")
    expect(heading(page)).to_have_text("Done")
    assert agent("whoami").data["status"] == "revoked"


def test_a_machine_is_let_in(page: Page, machine: MachineSide, master: Person) -> None:
    begun = machine.begin(label="research", services=("cred:openrouter",))
    open_page(page, "Pair")
    picture(page, "console-code")
    page.get_by_label("Code").fill(begun.code.lower())
    press(page, "Look it up")
    expect(page.locator(".compare")).to_have_text(shown(begun.hash))
    picture(page, "console-compare")
    press(page, "Let it in …")
    expect(heading(page)).to_have_text("Compare before you let it in")  # the box was not ticked
    page.get_by_label("very same pairing hash").check()
    press(page, "Let it in …")
    operator = machine.claimed_by(begun)
    expect(page.locator(".compare")).to_contain_text(fingerprint(operator))
    picture(page, "console-waiting")
    machine.agree(begun, operator)
    expect(heading(page)).to_have_text("Let a new agent device in")
    picture(page, "console-let-in")
    press(page, "Sign and send")
    expect(heading(page)).to_have_text("Done")
    assert master("agent", "list").data["agents"][0]["scope"] == ["cred:openrouter"]


def test_a_swapped_key_shows_another_hash(page: Page, machine: MachineSide, deployment: Deployment) -> None:
    begun = machine.begin(label=None, services=())
    own = DeviceKey.generate()

    def lie(method: str, path: str, told: dict[str, object]) -> None:
        if path == "/v1/pairings/claim":
            told |= {"device": own.key_hash.hex(), "public_key": b64u_encode(own.public_key)}

    deployment.identity.lie = lie
    open_page(page, "Pair")
    page.get_by_label("Code").fill(begun.link.encode())
    press(page, "Look it up")
    expect(page.locator("#message")).to_contain_text("not made on that machine")
    picture(page, "console-swapped-key")


def test_the_trail_is_filtered_and_exported(page: Page, master: Person, tmp_path: Path) -> None:
    stored(master, tmp_path, "a", "b")
    open_page(page, "Audit")
    expect(page.get_by_text("rows are genuine")).to_be_visible()
    picture(page, "console-audit")
    page.get_by_label("Service or words").fill("cred:b")
    press(page, "Filter")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export all rows").click()
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    assert len(Export.parse(saved.read_bytes()).rows) > 2


def test_without_the_token_there_is_nothing(context: BrowserContext, visitor: Visitor) -> None:
    page = context.new_page()
    page.goto(visitor.root + "/")
    expect(heading(page)).to_have_text("Open the address that your terminal shows")
    expect(page.get_by_role("button")).to_have_count(0)
    picture(page, "console-no-token")
    page.goto(visitor.root + "/#wrong")
    page.reload()
    expect(heading(page)).to_have_text("Open the address that your terminal shows")


def test_nothing_is_asked_of_anybody_else(context: BrowserContext, visitor: Visitor) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(visitor.address)
    for name in NAMES:
        open_page(page, name)
        expect(page.locator(f'nav a:text("{name}")')).to_have_attribute("aria-current", "page")
        expect(heading(page)).to_be_visible()
    assert asked
    assert all(url.startswith(visitor.origin) for url in asked)
    assert not any(visitor.console.token in url for url in asked)
    assert visitor.console.token not in page.url
    assert context.cookies() == []  # every port of localhost would get one
    assert complaints == []


def test_the_keyboard_is_enough(page: Page) -> None:
    focused = "document.activeElement.textContent"
    expect(heading(page)).to_be_focused()  # where a screen reader goes on
    page.get_by_role("link", name="Agents").first.focus()
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("My agents")
    expect(heading(page)).to_be_focused()
    page.get_by_role("link", name="Devices").first.focus()
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("My devices")
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "Freeze …":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign and send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(heading(page)).to_have_text("Done")


# --- K11 --------------------------------------------------------------------------------------------------------------


@contextmanager
def enrolled_by_browser(page: Page, person: Person) -> Iterator[None]:
    """A master whose K11 is the page's authenticator."""
    words = [str(word) for word in (*person.profile_words(), "--wallet-key-file", person.wallet_file, "--yes")]
    pattern = rf"http://localhost:{K11_PORT}/\S{{22}}/#\S{{43}}"
    with Terminal(person, "init", *words) as terminal:
        addresses: list[str] = []
        for button in ("Make the key", "Approve"):
            while len(addresses) == (button == "Approve"):
                seen = terminal.until(rf"(?s)({pattern}.*){{{len(addresses) + 1}}}\s")
                addresses = [word for word in seen.split() if word.startswith(f"http://localhost:{K11_PORT}/")]
            page.goto("about:blank")
            page.goto(addresses[-1])
            press(page, button)
        code, seen = terminal.end()
        assert code == 0, seen
    yield


def test_the_console_has_k11_asked_on_a_page_of_its_own(
    context: BrowserContext, person: Callable[[str], Person]
) -> None:
    made = person("by-browser")
    touched = context.new_page()
    key = virtual_authenticator(context, touched)
    with enrolled_by_browser(touched, made), console_at(made.home) as visitor:
        page = context.new_page()
        page.goto(visitor.address)
        press(page, "Freeze …")
        press(page, "Sign and send")  # which needs no K11
        expect(heading(page)).to_have_text("Done")
        open_page(page, "Devices")
        expect(page.get_by_text("a security key, or the authenticator")).to_be_visible()
        press(page, "End the freeze …")
        expect(page.get_by_text("Digest, which K11 approves")).to_be_visible()
        expect(page.get_by_role("link", name="Approve with K11 …")).to_be_focused()
        picture(page, "console-k11")
        assert visitor.answer("confirmed").status_code == 409
        press(page, "Decline")
        expect(page.get_by_role("alert")).to_contain_text("declined")
        open_page(page, "Devices")
        press(page, "End the freeze …")
        digest = page.get_by_text("Digest, which K11 approves").locator("code").inner_text()
        with context.expect_page() as opened:
            page.keyboard.press("Enter")
        window = opened.value
        assert window.url.startswith(f"http://localhost:{K11_PORT}/")
        expect(window.locator("#digest")).to_have_text(digest)  # another port's window is served
        with_the_keys_of(key, context, window)
        press(window, "Approve")
        expect(heading(page)).to_have_text("Done")
    assert made("whoami").data["frozen"] is False


def test_a_press_in_an_old_tab_answers_nothing_and_shows_what_is_asked_now(
    context: BrowserContext, visitor: Visitor
) -> None:
    old, new = context.new_page(), context.new_page()
    for page in (old, new):
        page.goto(visitor.address)
        expect(heading(page)).to_have_text("My devices")
    press(old, "Freeze …")
    expect(heading(old)).to_have_text("Freeze everything of this operator")
    visitor.send("/do", what="unfreeze")  # from the other tab, say
    press(old, "Sign and send")
    expect(heading(old)).to_have_text("End the freeze")
    expect(old.locator("#message")).to_contain_text("not what is asked now")
    assert visitor.answer("declined").status_code == 200


# --- somebody else had the port before --------------------------------------------------------------------------------

WORKER = """
self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  if (event.request.mode === 'navigate') {
    const page = '<h1>Stolen</h1><script>fetch("task").then((r) => document.title = r.status)</script>';
    event.respondWith(new Response(page, { headers: { 'Content-Type': 'text/html' } }));
  }
});
"""
REGISTERS = """<script>
navigator.serviceWorker.register('/worker.js', { scope: '/' }).then(() => navigator.serviceWorker.ready)
  .then(() => { document.title = 'left behind'; });
</script>"""


class Squatter(BaseHTTPRequestHandler):
    """Leaves a service worker for the whole origin, and scripts that never grow old."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        script = self.path.endswith(".js")
        body = (WORKER if self.path == "/worker.js" else "document.title = 'Stolen'" if script else REGISTERS).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if script else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "public, max-age=31536000, immutable")
        self.end_headers()
        self.wfile.write(body)


def squatted(context: BrowserContext, port: int) -> None:
    with served(ThreadingHTTPServer(("127.0.0.1", port), Squatter)):
        page = context.new_page()
        page.goto(f"http://localhost:{port}/")
        page.wait_for_function("document.title === 'left behind'")
        page.close()


def test_what_others_left_at_k11s_port_never_serves_the_console(context: BrowserContext, master: Person) -> None:
    squatted(context, K11_PORT)
    with console_at(master.home) as visitor:
        page = context.new_page()
        page.goto(visitor.address)
        expect(heading(page)).to_have_text("My devices")


def test_what_others_left_at_k11s_port_ends_with_its_first_question(context: BrowserContext, master: Person) -> None:
    squatted(context, K11_PORT)
    task = Task(kind="get", title="A question", lines=(), digest="00", options={}, accept=lambda _: None)
    ceremony = Ceremony(task=task)
    opened: list[str] = []
    told = threading.Event()

    def announce(address: str) -> None:
        opened.append(address)
        told.set()

    thread = threading.Thread(target=run_ceremony, args=(ceremony, announce))
    thread.start()
    assert told.wait(10)
    page = context.new_page()
    page.goto(opened[0])
    expect(heading(page)).to_have_text("Stolen")  # so far it goes, and the terminal shows other words
    page.wait_for_function("document.title === '403'")
    page.goto("about:blank")
    page.goto(opened[0])
    expect(heading(page)).to_have_text("A question")
    ceremony.judge(b"{}")
    thread.join()
