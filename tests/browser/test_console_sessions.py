"""The console's sessions, and signing in there with the person's own wallet, which has a page of its own."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from device.broker_session import BrokerSession
from device.home import Home
from device.session import Device
from device.show import Show
from tests.browser.console_steps import console_tab, heading, open_page, press
from tests.browser.readable import CONTRAST, LANDMARKS, UNNAMED
from tests.fakes.anvil import Anvil
from tests.fakes.browser import picture
from tests.fakes.browser_wallet import REJECTED, BrowserWallet
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.persons import Person

SIGN = "Sign with Test Wallet"


@pytest.fixture
def wallet(anvil: Anvil, context: BrowserContext) -> BrowserWallet:
    made = BrowserWallet(anvil)
    made.put_into(context)
    return made


@pytest.fixture
def visitor(wallet_owner: Person) -> Iterator[Visitor]:
    with console_at(wallet_owner.home) as made:
        yield made


@pytest.fixture
def page(context: BrowserContext, visitor: Visitor) -> Page:
    made = console_tab(context, visitor)
    open_page(made, "Sessions")
    expect(heading(made)).to_have_text("My sessions")
    return made


def wallet_page(page: Page) -> Page:
    """Begin to sign in; the wallet's page, in its own window."""
    press(page, "Sign in with your wallet …")
    expect(heading(page)).to_have_text("Sign in with your wallet")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open your wallet …").click()
    expect(heading(opened.value)).to_have_text("Sign in with your wallet")
    return opened.value


def test_signing_in_with_the_wallet(page: Page, wallet: BrowserWallet, wallet_owner: Person) -> None:
    there = wallet_page(page)
    picture(page, "console-sign-in")
    expect(there.locator("pre")).to_contain_text("localhost:8722 wants you to sign in")
    picture(there, "wallet-console-sign-in")
    there.get_by_role("button", name="Test Wallet").click()
    there.get_by_role("button", name=SIGN).click()
    expect(heading(page)).to_have_text("Done")
    picture(page, "console-signed-in")
    open_page(page, "Sessions")
    expect(page.locator("main")).to_contain_text("This console is signed in with your wallet 0x")
    assert wallet_owner.deployment.identity.sessions_left() == ["wallet"]
    page.reload()
    expect(page.locator("main")).to_contain_text("your wallet and the device's key")
    assert wallet.asked.count("personal_sign") == 1


def test_who_rejects_or_declines_is_not_signed_in(page: Page, wallet: BrowserWallet, wallet_owner: Person) -> None:
    there = wallet_page(page)

    def reject(method: str, params: object) -> object:
        if method == "personal_sign":
            raise REJECTED
        return wallet.honest(method, params)

    wallet.act = reject
    there.get_by_role("button", name="Test Wallet").click()
    there.get_by_role("button", name=SIGN).click()
    expect(there.get_by_role("status")).to_contain_text("You rejected that in your wallet")
    there.get_by_role("button", name="Decline").click()
    expect(page.get_by_role("alert")).to_contain_text("declined")
    assert wallet_owner.deployment.identity.sessions_left() == ["device"]


def test_declining_in_the_console_ends_the_wallets_page(page: Page, wallet: BrowserWallet) -> None:
    there = wallet_page(page)
    press(page, "Decline")
    expect(page.get_by_role("alert")).to_contain_text("declined")
    there.get_by_role("button", name="Test Wallet").click()
    there.get_by_role("button", name=SIGN).click()
    expect(there.get_by_role("status")).to_contain_text("That did not work")


def test_a_wallet_without_the_account_is_told_which(page: Page, wallet: BrowserWallet) -> None:
    wallet.offers = (1,)
    there = wallet_page(page)
    there.get_by_role("button", name="Test Wallet").click()
    there.get_by_role("button", name=SIGN).click()
    expect(there.get_by_role("status")).to_contain_text("This needs the account 0x")
    assert "personal_sign" not in wallet.asked
    wallet.offers = (1, 0)
    there.get_by_role("button", name=SIGN).click()
    expect(heading(page)).to_have_text("Done")


def test_a_wallet_that_signs_another_message_is_refused(page: Page, wallet: BrowserWallet) -> None:
    def other(method: str, params: list[str]) -> object:
        if method == "personal_sign":
            params = ["0x" + bytes.fromhex(params[0][2:]).replace(b"localhost", b"elsewhere").hex(), params[1]]
        return wallet.honest(method, params)

    wallet.act = other
    there = wallet_page(page)
    there.get_by_role("button", name="Test Wallet").click()
    there.get_by_role("button", name=SIGN).click()
    expect(there.get_by_role("status")).to_contain_text("wallet_signature_invalid")
    wallet.act = None
    there.get_by_role("button", name=SIGN).click()
    expect(heading(page)).to_have_text("Done")


def test_sessions_are_seen_and_ended_in_any_window(page: Page, wallet_owner: Person) -> None:
    with Home.open(wallet_owner.home) as home, Device.open(home, Show(as_json=True)) as device:
        for _ in range(2):
            BrokerSession(device).ask("GET", "/v1/sessions")
    page.reload()
    expect(page.locator(".card")).to_have_count(3)
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            assert page.evaluate(CONTRAST) == [], scheme
            picture(page, f"console-sessions-{width}-{scheme}")
    assert page.evaluate(LANDMARKS) == []
    assert page.evaluate(UNNAMED) == []
    page.get_by_role("button", name="End it").first.click()
    expect(page.locator(".card")).to_have_count(2)
    press(page, "End all others")
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card")).to_contain_text("this console")
