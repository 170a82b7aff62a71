"""init with the person's own wallet, as a person does it: real processes, Anvil's keys, Chromium with both."""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.adversarial.town import Town, town_in
from tests.browser.wallet_kit import choose, heading, opened, press
from tests.fakes.anvil import Anvil
from tests.fakes.browser import virtual_authenticator
from tests.fakes.browser_wallet import BrowserWallet
from tests.unit.device.terminal import Terminal

K11_PAGE = r"http://localhost:8722/\S+#\S+"
LIMIT_S = 60


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("wallet") / "stack") as made:
        yield made


@dataclass
class Somebody:
    """At a terminal of this machine."""

    home: Path
    capture: pytest.CaptureFixture[str]


def sessions_in(folder: Path) -> list[tuple[str, bool]]:
    """How each session at the real broker was begun, and whether it has ended."""
    (store,) = folder.rglob("broker*.db")
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return [
            (method, ended is not None)
            for method, ended in connection.execute("SELECT method, revoked_at FROM sessions")
        ]


def test_the_main_job_with_a_wallet_of_ones_own(
    town: Town, anvil: Anvil, context: BrowserContext, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wallet = BrowserWallet(anvil)
    wallet.put_into(context)
    page = context.new_page()
    virtual_authenticator(context, page)
    me = Somebody(tmp_path / "home", capfd)
    stack = town.stack
    deployment = ("--profile", str(stack.profile), "--profile-hash", stack.profile_hash)
    with Terminal(me, "init", *deployment) as terminal:
        opened(page, terminal)
        choose(page, "Test Wallet", 1)
        press(page, "Make the key")
        press(page, "Approve")
        press(page, "Sign with Test Wallet")
        expect(heading(page)).to_have_text("Enrolled")
        press(page, "Sign in at the broker")
        press(page, "Sign with Test Wallet")
        expect(heading(page)).to_have_text("Done")
        code, shown = terminal.end()
    assert code == 0, shown
    assert "signed_in: wallet" in shown
    assert ("wallet", True) in sessions_in(stack.root)
    put = [sys.executable, "-m", "device", "--home", str(me.home), "--yes", "cred", "put", "openrouter", "--file", "-"]
    stored = subprocess.run(put, input=b"sk-or-1", capture_output=True, check=False, timeout=LIMIT_S)
    assert stored.returncode == 0, stored.stderr.decode()
    with Terminal(me, "--yes", "cred", "get", "openrouter") as terminal:  # a master's read asks K11, on its own page
        address = re.findall(K11_PAGE, terminal.until(rf"{K11_PAGE}\s"))[-1]
        page.goto("about:blank")
        page.goto(address)
        press(page, "Approve")
        code, shown = terminal.end()
    assert code == 0, shown
    assert "sk-or-1" in shown
