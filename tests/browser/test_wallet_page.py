"""A first bind in one sitting: the person's wallet (Anvil behind EIP-6963) and K11 on this machine's own page."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from device.lost_key import ENROL_FILE
from tests.browser.wallet_kit import choose, heading, init_at, press, status
from tests.fakes.anvil import Anvil, WalletError
from tests.fakes.browser import picture, virtual_authenticator
from tests.fakes.browser_wallet import REJECTED, BrowserWallet, Request
from tests.unit.device.persons import Person
from tests.unit.device.terminal import Terminal, unbroken

SIGN = "Sign with Test Wallet"
ENROL = "Make this device the first master of a new tree"


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    with Anvil(accounts=20) as made:
        yield made


@pytest.fixture
def wallet(anvil: Anvil, context: BrowserContext) -> BrowserWallet:
    made = BrowserWallet(anvil)
    made.put_into(context)
    return made


@pytest.fixture
def page(context: BrowserContext) -> Page:
    made = context.new_page()
    virtual_authenticator(context, made)
    return made


@pytest.fixture
def somebody(person: Callable[[str], Person]) -> Person:
    return person("by-wallet")


def approve(page: Page) -> None:
    """K11's two questions."""
    expect(heading(page)).to_have_text("Make this device's K11 key")
    press(page, "Make the key")
    expect(heading(page)).to_have_text(ENROL)
    press(page, "Approve")
    expect(page.get_by_role("button", name="Sign with")).to_be_visible()


def ended(terminal: Terminal, code: int = 0) -> str:
    found, shown = terminal.end()
    assert found == code, shown
    return shown


def refusing(error: WalletError, *, only: BrowserWallet | None = None) -> Request:
    """A wallet that refuses everything, or `only` to sign."""

    def act(method: str, params: Any) -> Any:
        if only is not None and "sign" not in method:
            return only.honest(method, params)
        raise error

    return act


def naming(accounts: object) -> Request:
    """A wallet that names these as its accounts."""
    return lambda *_: accounts


def tampering(wallet: BrowserWallet, member: str) -> Request:
    """A wallet that signs another Enrol than it was given."""
    lies = {"device": "0x" + "11" * 20, "deadline": 2**40, "salt": "0x" + "11" * 32}

    def act(method: str, params: Any) -> Any:
        if method != "eth_signTypedData_v4":
            return wallet.honest(method, params)
        data = json.loads(params[1])
        (data["domain"] if member == "salt" else data["message"])[member] = lies[member]
        return wallet.honest(method, [params[0], json.dumps(data)])

    return act


def giving(wallet: BrowserWallet, given: object) -> Request:
    """A wallet that gives this for each signature."""
    return lambda method, params: given if "sign" in method else wallet.honest(method, params)


def not_now(page: Page, terminal: Terminal) -> None:
    expect(heading(page)).to_have_text("Enrolled")
    press(page, "Not now")
    expect(heading(page)).to_have_text("Done")
    ended(terminal)


def test_one_sitting_from_the_wallet_to_a_session(page: Page, wallet: BrowserWallet, somebody: Person) -> None:
    with init_at(page, somebody) as terminal:
        picture(page, "wallet-choose")
        press(page, "Test Wallet")
        expect(page.get_by_role("radio")).to_have_count(2)
        picture(page, "wallet-accounts")
        page.get_by_role("radio").nth(1).check()
        press(page, "Use this account")
        expect(heading(page)).to_have_text("Make this device's K11 key")
        picture(page, "wallet-k11-create")
        press(page, "Make the key")
        expect(heading(page)).to_have_text(ENROL)
        picture(page, "wallet-k11-approve")
        press(page, "Approve")
        expect(page.get_by_role("button", name=SIGN)).to_be_focused()
        expect(page.locator("dl")).to_contain_text(wallet.account(1))
        digest = page.locator("code").inner_text()
        assert digest in unbroken(terminal.until(digest[:16]))  # what the terminal shows as well
        picture(page, "wallet-sign")
        press(page, SIGN)
        expect(heading(page)).to_have_text("Enrolled")
        picture(page, "wallet-enrolled")
        press(page, "Sign in at the broker")
        expect(heading(page)).to_have_text("Sign in with your wallet")
        expect(page.locator("pre")).to_contain_text("localhost:8722 wants you to sign in")
        picture(page, "wallet-sign-in")
        press(page, SIGN)
        expect(heading(page)).to_have_text("Done")
        picture(page, "wallet-done")
        shown = ended(terminal)
    assert "signed_in: wallet" in shown
    me = somebody("whoami").data
    assert (me["status"], me["wallet"]) == ("registered", wallet.account(1))
    assert wallet.asked.count("eth_signTypedData_v4") == wallet.asked.count("personal_sign") == 1
    assert wallet.asked[-1] == "wallet_revokePermissions"  # whoever has this port later is not connected
    assert not somebody.deployment.identity.sessions_left()


def test_who_does_not_sign_in_is_enrolled_all_the_same(page: Page, wallet: BrowserWallet, somebody: Person) -> None:
    with init_at(page, somebody, "--k11", "software") as terminal:
        choose(page, "Test Wallet", 0)
        expect(heading(page)).to_have_text(ENROL)
        press(page, "Sign")  # a software K11 asks nobody, so the page does
        press(page, SIGN)
        not_now(page, terminal)
    assert somebody("whoami").data["status"] == "registered"
    assert "personal_sign" not in wallet.asked


@pytest.mark.parametrize("v", ["00", "01", "1b", "1c"])
def test_signatures_come_in_two_spellings(page: Page, wallet: BrowserWallet, somebody: Person, v: str) -> None:
    """Some wallets count the parity from 0, others from 27; upper-case hex is as good."""

    def spell(method: str, params: Any) -> Any:
        given = wallet.honest(method, params)
        if method != "eth_signTypedData_v4":
            return given
        parity = int(given[-2:], 16) - 27
        return "0x" + given[2:-2].upper() + (f"{parity:02x}" if v.startswith("0") else given[-2:])

    wallet.act = spell
    with init_at(page, somebody, "--k11", "software") as terminal:
        choose(page, "Test Wallet", int(v, 16) % 2)
        press(page, "Sign")
        press(page, SIGN)
        not_now(page, terminal)


def test_two_wallets_are_offered_and_the_chosen_one_signs(
    page: Page, context: BrowserContext, wallet: BrowserWallet, anvil: Anvil, somebody: Person
) -> None:
    other = BrowserWallet(
        anvil, name="Other", rdns="other.wallet", uuid="11111111-1111-4111-8111-111111111111", offers=(5,)
    )
    other.put_into(context)
    with init_at(page, somebody, "--k11", "software") as terminal:
        expect(page.locator(".wallets button")).to_have_count(2)
        picture(page, "wallet-two")
        choose(page, "Other")
        press(page, "Sign")
        press(page, "Sign with Other")
        not_now(page, terminal)
    assert somebody("whoami").data["wallet"] == other.account(5)
    assert wallet.asked == []


def test_who_rejects_may_try_again(page: Page, wallet: BrowserWallet, somebody: Person) -> None:
    wallet.act = refusing(REJECTED)
    with init_at(page, somebody, "--k11", "software") as terminal:
        press(page, "Test Wallet")
        expect(status(page)).to_contain_text("You rejected that in your wallet")
        wallet.act = None
        choose(page, "Test Wallet")
        press(page, "Sign")
        wallet.act = refusing(REJECTED, only=wallet)
        press(page, SIGN)
        expect(status(page)).to_contain_text("You rejected that in your wallet. Nothing was signed.")
        picture(page, "wallet-rejected")
        wallet.act = None
        press(page, SIGN)
        not_now(page, terminal)


def test_what_a_wallet_refuses_is_said_in_words(page: Page, wallet: BrowserWallet, somebody: Person) -> None:
    with init_at(page, somebody) as terminal:
        for code, words in (
            (-32002, "still asking you"),
            (4100, "not let this page"),
            (4900, "not connected"),
            (1, "Your wallet says: <b>no</b>"),
        ):
            wallet.act = refusing(WalletError(code, "<b>no</b>"))
            press(page, "Test Wallet")
            expect(status(page)).to_contain_text(words)
        press(page, "Decline")
        expect(heading(page)).to_have_text("Not enrolled")
        assert "declined" in ended(terminal, 1)


def test_another_account_that_signs_is_refused_and_the_right_one_may(
    page: Page, wallet: BrowserWallet, somebody: Person
) -> None:
    def other_signs(method: str, params: Any) -> Any:
        if method == "eth_signTypedData_v4":
            params = [wallet.account(7), params[1]]
        return wallet.honest(method, params)

    wallet.act = other_signs
    with init_at(page, somebody, "--k11", "software") as terminal:
        choose(page, "Test Wallet")
        press(page, "Sign")
        press(page, SIGN)
        expect(status(page)).to_contain_text("wallet_signature_invalid")
        picture(page, "wallet-wrong-account")
        wallet.act = None
        press(page, SIGN)
        not_now(page, terminal)


def test_a_wallet_that_changes_its_account_midway_is_told_which_one_is_needed(
    page: Page, wallet: BrowserWallet, somebody: Person
) -> None:
    with init_at(page, somebody, "--k11", "software") as terminal:
        choose(page, "Test Wallet")
        press(page, "Sign")
        wallet.offers = (3,)
        press(page, SIGN)
        expect(status(page)).to_contain_text("This needs the account")
        picture(page, "wallet-changed-account")
        assert "eth_signTypedData_v4" not in wallet.asked
        press(page, "Another account")  # an Enrol of that one, then
        choose(page, "Test Wallet")
        press(page, "Sign")
        press(page, SIGN)
        not_now(page, terminal)
    assert somebody("whoami").data["wallet"] == wallet.account(3)


def test_typed_data_that_the_wallet_tampers_with_is_refused(
    page: Page, wallet: BrowserWallet, somebody: Person
) -> None:
    with init_at(page, somebody, "--k11", "software") as terminal:
        choose(page, "Test Wallet")
        press(page, "Sign")
        for count, member in enumerate(("device", "deadline", "salt"), 1):
            wallet.act = tampering(wallet, member)
            signs_in_vain(page, wallet, count, "wallet_signature_invalid")
        press(page, "Decline")
        ended(terminal, 1)
    assert somebody("whoami", "--offline").data["status"] == "not_enrolled"
    assert not somebody.deployment.applied
    assert not (somebody.home / ENROL_FILE).exists()  # the next init opens the page again


def signs_in_vain(page: Page, wallet: BrowserWallet, count: int, words: str) -> None:
    """Ask the wallet for the `count`th time, and be told why that did not do."""
    press(page, SIGN)
    expect(status(page)).to_contain_text(words)
    assert wallet.asked.count("eth_signTypedData_v4") == count


NO_SIGNATURES = (
    *(None, 7, "", "0x", "0x1234", "0x" + "00" * 65, "0x" + "ff" * 65, "0x" + "zz" * 65, "x" * 20000),
    *(["0x"], {"signature": 1}),
)


def test_what_is_no_signature_is_refused(page: Page, wallet: BrowserWallet, somebody: Person) -> None:
    with init_at(page, somebody, "--k11", "software") as terminal:
        choose(page, "Test Wallet")
        press(page, "Sign")
        for count, given in enumerate(NO_SIGNATURES, 1):
            wallet.act = giving(wallet, given)
            signs_in_vain(page, wallet, count, "That did not work")
        press(page, "Decline")
        ended(terminal, 1)


NO_ACCOUNTS: tuple[object, ...] = (None, [], {}, "0x", ["0x12"], [7], ["<img src=x>"], [{"toString": 1}])


def test_a_wallet_that_names_no_account(page: Page, wallet: BrowserWallet, somebody: Person) -> None:
    with init_at(page, somebody) as terminal:
        for given in NO_ACCOUNTS:
            wallet.act = naming(given)
            press(page, "Test Wallet")
            expect(status(page)).to_contain_text("named no account")
        press(page, "Decline")
        ended(terminal, 1)


def test_a_wallet_that_never_answers_holds_up_nothing(
    page: Page, context: BrowserContext, wallet: BrowserWallet, somebody: Person
) -> None:
    context.add_init_script(
        """{ const detail = { info: { uuid: "1", name: "Deaf", rdns: "deaf.wallet", icon: "" },
        provider: { request: () => new Promise(() => {}) } };
        window.addEventListener("eip6963:requestProvider", () =>
          window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }))); }"""
    )
    with init_at(page, somebody, "--k11", "software") as terminal:
        press(page, "Deaf")
        expect(status(page)).to_contain_text("Waiting for Deaf")
        choose(page, "Test Wallet")
        press(page, "Sign")
        press(page, SIGN)
        not_now(page, terminal)


def test_a_wallet_with_a_tree_is_told_so_before_anybody_signs(
    page: Page, wallet: BrowserWallet, somebody: Person, person: Callable[[str], Person]
) -> None:
    with init_at(page, somebody, "--k11", "software") as terminal:
        choose(page, "Test Wallet")
        press(page, "Sign")
        press(page, SIGN)
        not_now(page, terminal)
    again = person("again")
    with init_at(page, again, "--k11", "software") as terminal:
        choose(page, "Test Wallet", 0)
        expect(status(page)).to_contain_text("already_bound")
        picture(page, "wallet-bound-already")
        press(page, "Decline")
        ended(terminal, 1)
