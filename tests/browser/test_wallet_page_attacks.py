"""What runs in the browser is believed nothing: wallets that lie about themselves, and pages of strangers."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.readable import CONTRAST, UNNAMED
from tests.browser.wallet_kit import ADDRESS, choose, heading, init_at, opened, press, status
from tests.fakes.anvil import Anvil
from tests.fakes.browser import picture
from tests.fakes.browser_wallet import BrowserWallet
from tests.unit.device.persons import Person
from tests.unit.device.terminal import Terminal

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
#: Announces whatever is put in its place, each time that a page asks.
ANNOUNCE = """
{
  const tell = (detail) => window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }));
  const info = (more) => ({ uuid: "u", name: "Nonsense", rdns: "non.sense", icon: "data:,", ...more });
  const provider = { request: async () => [] };
  window.addEventListener("eip6963:requestProvider", () => { DETAILS });
}
"""
NONSENSE = """
  for (const detail of [null, undefined, 7, "text", [], {}, { info: null, provider }, { info: info(), provider: null },
    { info: info(), provider: {} }, { info: info(), provider: { request: 1 } }, { info: info({ name: 5 }), provider },
    { info: info({ name: "" }), provider }, { info: info({ name: "\\u202e\\u200b" }), provider },
    { get info() { throw new Error("no"); } }, { info: { get name() { throw new Error("no"); } }, provider },
    new Proxy({}, { get() { throw new Error("no"); } })]) tell(detail);
  window.dispatchEvent(new Event("eip6963:announceProvider"));
"""


@pytest.fixture
def somebody(person: Callable[[str], Person]) -> Person:
    return person("by-wallet")


def announcing(context: BrowserContext, details: str) -> None:
    context.add_init_script(ANNOUNCE.replace("DETAILS", details))


def offered(page: Page) -> list[str]:
    return page.locator(".wallets button").all_inner_texts()


def declined(page: Page, terminal: Terminal) -> None:
    press(page, "Decline")
    expect(heading(page)).to_have_text("Not enrolled")
    assert terminal.end()[0] == 1


def test_a_name_is_text_and_an_icon_is_nothing(context: BrowserContext, anvil: Anvil, somebody: Person) -> None:
    icons = ("javascript:alert(3)", "https://evil.example/icon.png", f"data:image/svg+xml,{HOSTILE}")
    for number, icon in enumerate(icons):
        uuid = f"{number}0670db-19fa-4704-a166-e52e178b59d2"
        BrowserWallet(anvil, name=HOSTILE, rdns=HOSTILE, icon=icon, uuid=uuid).put_into(context)
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    with init_at(page, somebody) as terminal:
        expect(page.locator(".wallets button")).to_have_count(3)
        assert all(HOSTILE in text for text in offered(page))
        assert page.locator("img, script:not([src]), svg").count() == 0
        picture(page, "wallet-hostile-name")
        page.locator(".wallets button").first.click()
        expect(page.get_by_role("group")).to_contain_text(HOSTILE)
        press(page, "Use this account")
        expect(heading(page)).to_have_text("Make this device's K11 key")
        declined(page, terminal)
    assert complaints == []
    assert asked
    assert all(url.startswith(("http://localhost:8722/", "about:")) for url in asked)


def test_names_are_short_and_run_one_way(context: BrowserContext, somebody: Person) -> None:
    announcing(context, r'tell({ info: info({ name: "\u202eksaMateM\u0007 " + "x".repeat(5000) }), provider });')
    page = context.new_page()
    with init_at(page, somebody) as terminal:
        (shown,) = offered(page)
        assert shown.startswith("ksaMateM x")
        assert len(shown) < 100
        declined(page, terminal)


def test_nonsense_is_not_offered_and_holds_up_nothing(context: BrowserContext, anvil: Anvil, somebody: Person) -> None:
    announcing(context, NONSENSE)
    BrowserWallet(anvil).put_into(context)
    page = context.new_page()
    with init_at(page, somebody, "--k11", "software") as terminal:
        assert [text.splitlines()[0] for text in offered(page)] == ["Test Wallet"]
        choose(page, "Test Wallet")
        press(page, "Sign")
        press(page, "Sign with Test Wallet")
        expect(heading(page)).to_have_text("Enrolled")
        press(page, "Not now")
        assert terminal.end()[0] == 0


def test_a_flood_of_wallets_is_cut_short(context: BrowserContext, somebody: Person) -> None:
    announcing(
        context,
        "for (let n = 0; n < 5000; n += 1) tell({ info: info({ name: `W${n}` }), provider: { request() {} } });",
    )
    page = context.new_page()
    with init_at(page, somebody) as terminal:
        assert len(offered(page)) == 12
        declined(page, terminal)


def test_a_wallet_that_says_it_is_another_is_shown_beside_it(
    context: BrowserContext, anvil: Anvil, somebody: Person
) -> None:
    """By name and uuid alone none takes another's place: both are there, and who is asked is who was pressed."""
    genuine = BrowserWallet(anvil)
    genuine.put_into(context)
    announcing(context, f'tell({{ info: info({{ uuid: "{genuine.uuid}", name: "{genuine.name}" }}), provider }});')
    page = context.new_page()
    with init_at(page, somebody) as terminal:
        expect(page.locator(".wallets button")).to_have_count(2)
        press(page, "Look again")  # announced anew: the same ones
        expect(page.locator(".wallets button")).to_have_count(2)
        declined(page, terminal)


def test_an_older_wallet_is_offered_as_such_and_only_where_no_other_is(
    context: BrowserContext, anvil: Anvil, somebody: Person
) -> None:
    context.add_init_script("window.ethereum = { request: async () => ['0x' + '11'.repeat(20)] };")
    page = context.new_page()
    with init_at(page, somebody) as terminal:
        (shown,) = offered(page)
        assert shown.startswith("Legacy wallet")
        picture(page, "wallet-legacy")
        declined(page, terminal)
    BrowserWallet(anvil).put_into(context)
    with init_at(page, somebody) as terminal:
        assert [text.splitlines()[0] for text in offered(page)] == ["Test Wallet"]
        declined(page, terminal)


def test_a_browser_without_a_wallet_says_what_to_do(context: BrowserContext, somebody: Person) -> None:
    context.add_init_script("Object.defineProperty(window, 'ethereum', { get() { throw new Error('no'); } });")
    page = context.new_page()
    with init_at(page, somebody) as terminal:
        expect(page.locator("main")).to_contain_text("No wallet has announced itself in this browser")
        picture(page, "wallet-none")
        page.evaluate(
            """window.dispatchEvent(new CustomEvent("eip6963:announceProvider",
            { detail: { info: { name: "Late", rdns: "late.wallet" }, provider: { request() {} } } }))"""
        )
        expect(page.get_by_role("button", name="Late")).to_be_visible()
        expect(page.get_by_text("No wallet has announced itself")).to_be_hidden()
        declined(page, terminal)


def test_without_the_token_there_is_nothing(context: BrowserContext, anvil: Anvil, somebody: Person) -> None:
    wallet = BrowserWallet(anvil)
    wallet.put_into(context)
    page = context.new_page()
    with init_at(page, somebody) as terminal:
        page.reload()  # the token is no longer in the address
        expect(heading(page)).to_have_text("Open the address that your terminal shows")
        picture(page, "wallet-no-token")
        stranger = context.new_page()
        stranger.goto(page.url + "#" + "x" * 43)
        expect(heading(stranger)).to_have_text("This did not work")
        assert wallet.asked == []
        opened(page, terminal)  # the same address again
        expect(heading(page)).to_have_text("Choose the wallet that names you")
        declined(page, terminal)
    assert context.cookies() == []


def test_the_keyboard_is_enough_in_a_narrow_window(context: BrowserContext, anvil: Anvil, somebody: Person) -> None:
    BrowserWallet(anvil, name="A wallet whose name is rather long for a small window").put_into(context)
    page = context.new_page()

    def look(name: str) -> None:
        for width, scheme in ((360, "dark"), (1200, "light"), (360, "light"), (1200, "dark")):
            page.set_viewport_size({"width": width, "height": 640})
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
            assert page.evaluate(CONTRAST) == [], name
            picture(page, f"wallet-{name}-{width}-{scheme}")
        assert page.evaluate(UNNAMED) == [], name

    with init_at(page, somebody, "--k11", "software") as terminal:
        expect(heading(page)).to_be_focused()  # where a screen reader goes on
        look("choose")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("radio").first).to_be_focused()
        look("accounts")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Sign", exact=True)).to_be_focused()
        look("confirm")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Sign with")).to_be_focused()
        look("sign")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Sign in at the broker")).to_be_focused()
        look("enrolled")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Sign with")).to_be_focused()
        look("sign-in")
        page.keyboard.press("Enter")
        expect(heading(page)).to_have_text("Done")
        expect(heading(page)).to_be_focused()
        assert terminal.end()[0] == 0


def test_the_address_is_shown_once_and_its_token_in_no_request(
    context: BrowserContext, anvil: Anvil, somebody: Person
) -> None:
    BrowserWallet(anvil).put_into(context)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.headers.get('referer', '')}"))
    with init_at(page, somebody) as terminal:
        (address,) = re.findall(ADDRESS, terminal.shown)
        assert not any(address.partition("#")[2] in line for line in asked)
        assert "#" not in page.url
        assert status(page).inner_text() == ""
        declined(page, terminal)


def test_what_comes_back_late_is_dropped(context: BrowserContext, anvil: Anvil, somebody: Person) -> None:
    """Of two wallets that were asked, the one that was given up does not answer in the other's place."""
    context.add_init_script(
        """window.addEventListener("eip6963:requestProvider", () => {
          const request = () => new Promise((resolve) => { window.late = () => resolve(["0x" + "11".repeat(20)]); });
          window.provider = window.provider || { request };
          const detail = { info: { name: "Slow", rdns: "slow.wallet" }, provider: window.provider };
          window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }));
        });"""
    )
    BrowserWallet(anvil).put_into(context)
    page = context.new_page()
    with init_at(page, somebody) as terminal:
        press(page, "Slow")
        press(page, "Test Wallet")
        expect(page.get_by_role("radio")).to_have_count(2)
        page.evaluate("window.late()")
        page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
        expect(page.get_by_role("radio")).to_have_count(2)
        declined(page, terminal)
