"""Other pages and other names, in a real browser that lies about names: none of them reaches the console."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.console_steps import heading
from tests.fakes.browser import chromium, picture
from tests.fakes.serving import served
from tests.unit.device.console_kit import Visitor

EVIL = "evil.example"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For whom `evil.example` has been rebound to this machine."""
    with chromium(f"--host-resolver-rules=MAP {EVIL} 127.0.0.1") as made:
        yield made


@contextmanager
def another_site() -> Iterator[int]:
    """A page on another port of this machine: same site as the console, another origin."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>another</title><h1>Another page</h1>")

    with served(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


def sent(page: Page, url: str, **options: object) -> str:
    """What a script of that page gets from the console: a status, or nothing."""
    asked = "async ([url, options]) => { try { return String((await fetch(url, options)).status) } catch { return 'none' } }"
    found: str = page.evaluate(asked, [url, options])
    return found


def test_a_rebound_name_is_refused_with_and_without_the_token(context: BrowserContext, visitor: Visitor) -> None:
    """DNS rebinding: the attacker's page now has the console's address, and its requests are same-origin."""
    port = visitor.origin.rpartition(":")[2]
    page = context.new_page()
    base = f"/{visitor.root.rpartition('/')[2]}"
    answer = page.goto(f"http://{EVIL}:{port}{base}/#{visitor.console.token}")
    assert answer is not None
    assert answer.status == 403
    expect(page.locator("body")).to_contain_text("the address that your terminal shows")
    picture(page, "console-refused")
    headers = {"AgentKeys-Token": visitor.console.token, "Content-Type": "application/json"}
    for path in ("/", "/page/devices", "/live", "/console.js"):
        assert sent(page, base + path, headers=headers) == "403"
    assert sent(page, base + "/do", method="POST", headers=headers, body='{"what":["freeze"]}') == "403"
    assert "frozen" not in visitor.get("/page/devices").text


def test_a_page_on_another_port_reads_nothing_and_sends_nothing(context: BrowserContext, visitor: Visitor) -> None:
    own = context.new_page()
    own.goto(visitor.address)
    expect(heading(own)).to_have_text("My devices")
    with another_site() as port:
        page = context.new_page()
        page.goto(f"http://localhost:{port}/")
        headers = {"AgentKeys-Token": visitor.console.token, "Content-Type": "application/json"}
        assert sent(page, f"{visitor.root}/page/devices") == "none"
        assert sent(page, f"{visitor.root}/page/devices", headers=headers) == "none"
        assert sent(page, f"{visitor.root}/do", method="POST", headers=headers, body='{"what":["freeze"]}') == "none"
        sent(page, f"{visitor.root}/do", method="POST", mode="no-cors", body='{"what":["freeze"]}')
        assert page.evaluate("sessionStorage.getItem('token')") is None
        with page.expect_event("framenavigated", lambda frame: frame.parent_frame is not None) as framed:
            page.evaluate(f"document.body.innerHTML = '<iframe src=\"{visitor.root}/\"></iframe>'")
        assert framed.value.url.startswith("chrome-error:")
        page.evaluate(
            f"""() => {{ const form = document.createElement("form"); form.method = "post"; form.enctype = "text/plain";
            form.action = "{visitor.root}/do"; form.innerHTML = '<input name="x" value="y">'; document.body.append(form);
            form.submit(); }}"""
        )
        page.wait_for_url(f"{visitor.root}/do")
        assert "frozen" not in visitor.get("/page/devices").text


def test_a_window_that_was_opened_by_another_page_is_cut_off_from_it(context: BrowserContext, visitor: Visitor) -> None:
    with another_site() as port:
        page = context.new_page()
        page.goto(f"http://localhost:{port}/")
        with context.expect_page() as opened:
            page.evaluate(f"void (window.other = window.open('{visitor.root}/'))")
        opened.value.wait_for_load_state()
        assert opened.value.evaluate("window.opener") is None
        assert page.evaluate("window.other.closed") is True
