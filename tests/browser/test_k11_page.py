"""K11's page in a real browser with a virtual authenticator: make a key, approve, decline, and what must not pass."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.webauthn_check import verify_assertion
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11.browser import BrowserAuthenticator
from device.k11.port import K11Record
from device.keys import SignedDigest
from tests.fakes.browser import picture, virtual_authenticator


class Running:
    """One ceremony of the device program, under way in a thread; `address` is what it would open."""

    def __init__(self, run: Callable[[BrowserAuthenticator], Any]) -> None:
        self.result: Any = None
        self.error: DeviceError | None = None
        self._opened = threading.Event()
        self._run = run
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        assert self._opened.wait(10)

    def _announce(self, address: str) -> None:
        self.address = address
        self._opened.set()

    def _work(self) -> None:
        try:
            self.result = self._run(BrowserAuthenticator(self._announce, timeout_s=30))
        except DeviceError as error:
            self.error = error

    def end(self) -> Any:
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def key() -> DeviceKey:
    return DeviceKey.generate()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "device", create=True)


def creation(home: Home, key: DeviceKey) -> Running:
    return Running(lambda authenticator: authenticator.create(home, device_key_hash=key.key_hash))


def signed(key: DeviceKey) -> tuple[SignedDigest, Intent]:
    digest = bytes(range(32))
    made = SignedDigest(
        public_key=key.public_key, digest=digest, signature=key.sign_recoverable(digest), challenge=digest, name=digest
    )
    lines = (("agent", "research <b>bold</b>"), ("may use", "cred:openrouter"))
    return made, Intent(title="Add an agent", lines=lines, digest=digest)


@contextmanager
def approval(key: DeviceKey, record: K11Record) -> Iterator[Running]:
    made, intent = signed(key)
    running = Running(lambda authenticator: authenticator.approve(record, made, intent))
    yield running


def opened(context: BrowserContext, running: Running) -> Page:
    page = context.new_page()
    virtual_authenticator(context, page)
    page.goto(running.address)
    return page


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def test_a_key_is_made_and_approves(context: BrowserContext, home: Home, key: DeviceKey) -> None:
    making = creation(home, key)
    page = opened(context, making)
    expect(page.get_by_role("heading", level=1)).to_have_text("Make this device's K11 key")
    picture(page, "k11-create")
    press(page, "Make the key")
    record = making.end()
    with approval(key, record) as approving:
        page.goto("about:blank")  # the authenticator lives with its page
        page.goto(approving.address)
        expect(page.get_by_role("heading", level=1)).to_have_text("Add an agent")
        expect(page.locator("dl")).to_contain_text("research <b>bold</b>")  # as text
        expect(page.locator("#digest")).to_have_text(bytes(range(32)).hex())
        picture(page, "k11-approve")
        press(page, "Approve")
        assertion = approving.end()
    made, _ = signed(key)
    assert verify_assertion(assertion, challenge=made.challenge, public=record.public) >= 1
    with pytest.raises(KeyServiceError) as caught:
        verify_assertion(assertion, challenge=bytes(32), public=record.public)
    assert caught.value.reason is Reason.K11_INVALID


def test_who_declines_approves_nothing(context: BrowserContext, home: Home, key: DeviceKey) -> None:
    making = creation(home, key)
    page = opened(context, making)
    press(page, "Decline")
    with pytest.raises(DeviceError) as caught:
        making.end()
    assert caught.value.reason is Trouble.DECLINED


def test_a_user_who_is_not_verified_may_try_again(context: BrowserContext, home: Home, key: DeviceKey) -> None:
    making = creation(home, key)
    page = context.new_page()
    session, authenticator = virtual_authenticator(context, page, isUserVerified=False)
    page.goto(making.address)
    press(page, "Make the key")
    expect(page.get_by_role("status")).not_to_be_empty()
    picture(page, "k11-not-verified")
    session.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": True})
    press(page, "Make the key")
    assert making.end().x


def test_a_page_without_its_token_shows_nothing(context: BrowserContext, home: Home, key: DeviceKey) -> None:
    making = creation(home, key)
    stranger = context.new_page()
    stranger.goto(making.address.partition("#")[0])
    expect(stranger.get_by_role("button", name="Decline")).to_be_hidden()
    expect(stranger.locator("main")).not_to_contain_text(key.key_hash.hex())
    picture(stranger, "k11-no-token")
    page = opened(context, making)
    press(page, "Decline")
    with pytest.raises(DeviceError):
        making.end()


def test_the_page_works_by_keyboard_in_a_narrow_dark_window(
    context: BrowserContext, home: Home, key: DeviceKey
) -> None:
    making = creation(home, key)
    page = opened(context, making)
    page.set_viewport_size({"width": 360, "height": 640})
    page.emulate_media(color_scheme="dark")
    expect(page.get_by_role("button", name="Make the key")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    picture(page, "k11-create-narrow-dark")
    page.keyboard.press("Enter")  # the button has the focus
    assert making.end().credential_id


def test_nothing_is_asked_of_anybody_else(context: BrowserContext, home: Home, key: DeviceKey) -> None:
    making = creation(home, key)
    asked: list[str] = []
    complaints: list[str] = []
    page = context.new_page()
    virtual_authenticator(context, page)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(making.address)
    press(page, "Make the key")
    making.end()
    origin = making.address.partition("/#")[0]
    assert asked
    assert all(url.startswith(origin) for url in asked)
    assert not any(url for url in asked if making.address.partition("#")[2] in url)  # the token stays in the fragment
    assert complaints == []
