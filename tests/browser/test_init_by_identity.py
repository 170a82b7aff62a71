"""init by an address, a provider and a passkey, as a person does it: real processes, mail, provider and browser."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.adversarial.town import Town, town_in
from tests.browser.pictures import pictures
from tests.fakes.browser import chromium, picture, virtual_authenticator
from tests.fakes.mail_server import USER, MailServer
from tests.fakes.openid_server import OpenIdServer
from tests.unit.device.terminal import Terminal

NAME = "broker.agentkeys.test"
#: The broker's name is known here alone. Nothing of this leaves the machine.
ARGUMENTS = ("--host-resolver-rules=MAP *.test 127.0.0.1", "--ignore-certificate-errors")
MODULE = "tests.fakes.name_service"
ADDRESS = "Ada@people.test"
DEVICE = r"device +((?:[0-9a-f]{4} ?){4})\s"
CODE = r"code +([0-9A-Z]{3}-[0-9A-Z]{3})\s"
LIMIT_S = 60
ASKED = r"Sign this and send it\? \[y/N\]"
K11_PAGE = r"http://localhost:\d+/\S+#\S+"


@dataclass
class Parts:
    """The town, and what stands around it."""

    town: Town
    mail: MailServer
    provider: OpenIdServer

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.town.stack.ports['broker']}"


def signer_table(provider: OpenIdServer, keys: Path) -> str:
    return (
        f'[evidence]\nemail = true\n[evidence.passkey]\nrp_id = "{NAME}"\norigins = ["BROKER_ORIGIN"]\n'
        f'[[evidence.oidc]]\nissuer = "{provider.issuer}"\nclient_id = "{provider.client_id}"\njwks = "{keys}"\n'
    )


def broker_table(mail: MailServer, provider: OpenIdServer, secret: Path) -> str:
    return (
        f'[mail]\nhost = "localhost"\nport = {mail.port}\nsender = "keys@{NAME}"\nuser = "{USER}"\n'
        f'password_file = "{mail.password_file}"\nca = "{mail.ca}"\n'
        f'[[providers]]\nissuer = "{provider.issuer}"\nclient_id = "{provider.client_id}"\n'
        f'client_secret_file = "{secret}"\nca = "{provider.ca}"\n'
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("identities")
    provider = OpenIdServer(folder=folder, origin="")
    secret, keys = folder / "client-secret", folder / "provider-jwks.json"
    secret.touch(mode=0o600)
    secret.write_text(provider.secret)
    public = [{name: key[name] for name in key if name != "d"} for key in provider.keys]
    keys.write_text(json.dumps({"keys": public}))
    with ExitStack() as stack:
        mail = stack.enter_context(MailServer(folder, "starttls"))
        settings = {"signer": signer_table(provider, keys), "broker": broker_table(mail, provider, secret)}

        def when_prepared(ports: dict[str, int]) -> None:
            origin = f"https://{NAME}:{ports['broker']}"
            config = folder / "stack" / "signer.toml"
            config.write_text(config.read_text().replace("BROKER_ORIGIN", origin))
            provider.origin = origin
            stack.enter_context(provider)

        town = stack.enter_context(
            town_in(folder / "stack", settings=settings, broker_name=NAME, when_prepared=when_prepared)
        )
        yield Parts(town, mail, provider)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(*ARGUMENTS) as made:
        yield made


@pytest.fixture
def context(browser: Browser, parts: Parts) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 800, "height": 600}, locale="en", ignore_https_errors=True)
    made.set_default_timeout(10_000)
    yield made
    made.close()


@dataclass
class User:
    """Somebody at a terminal of this machine."""

    home: Path
    capture: pytest.CaptureFixture[str]
    parts: Parts

    def init(self, *words: str) -> Terminal:
        stack = self.parts.town.stack
        deployment = ("--profile", str(stack.profile), "--profile-hash", stack.profile_hash)
        return Terminal(self, "init", *deployment, *words, module=MODULE)

    def run(self, *words: str, stdin: bytes = b"") -> dict[str, Any]:
        """One more command, to its end."""
        command = [sys.executable, "-m", MODULE, "--home", str(self.home), "--json", "--yes", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def can_do_the_job(self, evidence: str, assurance: str) -> None:
        """Enrolled, told so by the registry, and of use."""
        me = self.run("whoami")
        assert (me["status"], me["part"], me["evidence"], me["assurance"]) == (
            "registered",
            "master",
            evidence,
            assurance,
        )
        self.run("cred", "put", "openrouter", "--file", "-", stdin=b"sk-or-1")
        assert self.run("cred", "get", "openrouter")["value"]


@pytest.fixture
def user(parts: Parts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> User:
    return User(tmp_path / "home", capfd, parts)


def address(terminal: Terminal, pattern: str, *, after: int = 0) -> str:
    """The newest address on the terminal, once there are more than `after` of its kind."""
    seen = terminal.until(rf"(?s)({pattern}.*){{{after + 1}}}\s")
    found: list[str] = re.findall(pattern, seen)
    return found[-1]


def shown_last(terminal: Terminal, pattern: str) -> str:
    found: list[str] = re.findall(pattern, terminal.until(pattern))
    return found[-1].strip()


def compare_and_type(page: Page, terminal: Terminal) -> None:
    """The device, which both show, and the code, which the terminal alone does."""
    code = shown_last(terminal, CODE)
    expect(page.locator("main")).to_contain_text(shown_last(terminal, DEVICE))
    assert code not in page.content()
    page.get_by_label("Code on your own terminal").fill(code)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def done(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Done")


def agree_and_end(terminal: Terminal) -> None:
    terminal.until(ASKED)
    terminal.write(b"y\n")
    code, shown = terminal.end()
    assert code == 0, shown


def test_by_an_address(user: User, parts: Parts, context: BrowserContext) -> None:
    page = context.new_page()
    with user.init("--identity", "email", "--email", ADDRESS, "--k11", "software") as terminal:
        terminal.until("Waiting")
        page.goto(parts.mail.mailbox.link())
        page.get_by_label("Code on your own terminal").fill("000000")
        press(page, "Yes, bind this device")
        expect(page.get_by_role("alert")).to_be_visible()
        pictures(page, "init-email-again")
        compare_and_type(page, terminal)
        pictures(page, "init-email")
        press(page, "Yes, bind this device")
        done(page)
        picture(page, "init-email-done")
        agree_and_end(terminal)
    user.can_do_the_job("email", "low")
    assert parts.mail.mailbox.recipients == [ADDRESS]


def test_by_a_provider(user: User, parts: Parts, context: BrowserContext) -> None:
    page = context.new_page()
    with user.init("--identity", "oidc", "--k11", "software") as terminal:
        page.goto(address(terminal, rf"{parts.origin}/identity/oidc/\S+"))
        expect(page.locator("main")).to_contain_text(shown_last(terminal, DEVICE))
        pictures(page, "init-oidc")
        page.get_by_role("link", name="Go on to the provider").click()
        page.locator('input[name="login"]').fill("ada")
        page.locator('input[name="password"]').fill("anything")
        page.locator('button[type="submit"]').click()
        page.locator('button[type="submit"]').click()  # consent
        expect(page.locator("main")).to_contain_text("ada@people.test")
        compare_and_type(page, terminal)
        pictures(page, "init-oidc-confirm")
        press(page, "Yes, bind this device")
        done(page)
        terminal.until("says that you are")
        agree_and_end(terminal)
    user.can_do_the_job("oidc", "high")


def test_by_a_passkey_and_a_security_key(user: User, parts: Parts, context: BrowserContext) -> None:
    """K11 on this machine's page, the passkey on the broker's; each asked twice, and both by the same browser."""
    page = context.new_page()
    virtual_authenticator(context, page)
    broker_page = rf"{parts.origin}/identity/passkey/\S+"

    def go(to: str, button: str) -> None:
        page.goto("about:blank")
        page.goto(to)
        press(page, button)

    with user.init("--identity", "passkey") as terminal:
        go(address(terminal, K11_PAGE), "Make the key")
        go(address(terminal, broker_page), "Make the passkey")
        done(page)
        terminal.until(ASKED)
        terminal.write(b"y\n")
        go(address(terminal, K11_PAGE, after=1), "Approve")
        page.goto(address(terminal, broker_page, after=1))
        compare_and_type(page, terminal)
        enrolment = re.findall(r"enrolment +([0-9a-f]{64})", terminal.until(r"enrolment +[0-9a-f]{64}"))[-1]
        expect(page.locator("main")).to_contain_text(enrolment)
        pictures(page, "init-passkey")
        press(page, "Use the passkey")
        done(page)
        code, shown = terminal.end()
        assert code == 0, shown
    me = user.run("whoami")
    assert (me["status"], me["evidence"], me["assurance"]) == ("registered", "passkey", "high")
    put = subprocess.run(
        [sys.executable, "-m", MODULE, "--home", str(user.home), "--yes", "cred", "put", "openrouter", "--file", "-"],
        input=b"sk-or-1",
        capture_output=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert put.returncode == 0, put.stderr.decode()
    with Terminal(user, "--yes", "cred", "get", "openrouter", module=MODULE) as terminal:  # a master's read asks K11
        go(address(terminal, K11_PAGE), "Approve")
        code, shown = terminal.end()
    assert code == 0, shown
    assert "sk-or-1" in shown


def test_a_run_that_was_stopped_goes_on(user: User, parts: Parts, context: BrowserContext) -> None:
    """Ctrl-C while the mail is on its way: the same command waits for the same mail."""
    sent = len(parts.mail.mailbox.messages)
    words = ("--identity", "email", "--email", "stopped@people.test", "--k11", "software")
    with user.init(*words) as terminal:
        terminal.until("Waiting")
        terminal.write(b"\x03")
        code, shown = terminal.end()
        assert code == 130, shown
    page = context.new_page()
    with user.init(*words) as terminal:
        terminal.until("Waiting")
        page.goto(parts.mail.mailbox.link())
        compare_and_type(page, terminal)
        press(page, "Yes, bind this device")
        done(page)
        agree_and_end(terminal)
    assert len(parts.mail.mailbox.messages) == sent + 1
    user.can_do_the_job("email", "low")
