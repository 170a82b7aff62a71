"""`agentkeys` with a security key on a terminal, against the real registry's rules."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkeys_core.k11 import K11_ORIGIN, origin_hash
from device import session
from device.home import Home
from device.k11.page import Task
from device.k11.port import K11Kind, K11Record
from device.local_web import TOKEN_HEADER
from tests.fakes.k11_port import k11_port
from tests.fakes.security_key import PIN, SecurityKey
from tests.unit.device.conftest import Person
from tests.unit.device.console_kit import console_at
from tests.unit.device.deployment import Deployment
from tests.unit.device.key_kit import WRONG, asked_in_a_browser, browsing
from tests.unit.device.real_registry import RealRegistry, real_registry
from tests.unit.device.terminal import Terminal

PROGRAM = "tests.fakes.agentkeys_with_keys"


@pytest.fixture
def owner(person: Callable[[str], Person], key: SecurityKey, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Somebody with a terminal, a wallet and this key, whose deployment has the real registry."""
    monkeypatch.setenv("AGENTKEYS_TEST_KEYS", str(key.path))
    return person("owner")


@pytest.fixture
def registry(deployment: Deployment, tmp_path: Path) -> Iterator[RealRegistry]:
    with real_registry(tmp_path / "registry") as made:
        made.here.registry._software_k11 = False  # as a host has it
        made.stand_behind(deployment)
        yield made


TOUCH = "touch"


def on_terminal(owner: Person, key: SecurityKey, *words: str, steps: tuple[str, ...] = (PIN, TOUCH)) -> tuple[int, str]:
    """Run it, type a PIN where one is asked for, and touch the key when it says so."""
    key.do("away")
    with Terminal(owner, *words, module=PROGRAM) as terminal:
        for count, step in enumerate(steps):
            asked = "Touch your security key now: Testkey" if step == TOUCH else "PIN of Testkey: "
            times = 1 + sum((earlier == TOUCH) is (step == TOUCH) for earlier in steps[:count])
            terminal.until(f"(?s)({asked}.*){{{times}}}")
            if step == TOUCH:
                key.do("once")
            else:
                terminal.write(step.encode() + b"\n")
        return terminal.end()


def begun(owner: Person, key: SecurityKey) -> None:
    """Have a tree whose only master has its K11 on the key: one touch makes it, one approves."""
    words = (*map(str, owner.profile_words()), "--wallet-key-file", str(owner.wallet_file))
    steps = (PIN, TOUCH, PIN, TOUCH)
    code, shown = on_terminal(owner, key, "--yes", "init", "--k11", "security-key", *words, steps=steps)
    assert code == 0, shown


def test_a_tree_is_begun_and_changed_with_a_security_key(
    owner: Person, registry: RealRegistry, key: SecurityKey
) -> None:
    begun(owner, key)
    assert owner("whoami").data["status"] == "registered"
    state = registry.here.registry.operator(bytes.fromhex(owner("whoami", "--offline").data["operator_omni"]))
    assert state is not None
    (record,) = state.masters()
    assert record.k11 is not None
    assert record.k11.origin_hash == origin_hash(K11_ORIGIN)
    assert owner("freeze").code == 0
    code, shown = on_terminal(owner, key, "--yes", "unfreeze", steps=(WRONG, PIN, TOUCH))
    assert code == 0, shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain.index("End the freeze") < plain.index("PIN of Testkey") < plain.index("Touch your security key")
    assert plain.count("End the freeze") == 1
    assert "7 tries left" in plain
    assert PIN not in shown
    assert WRONG not in shown


def test_json_shows_what_is_approved_as_well(owner: Person, registry: RealRegistry, key: SecurityKey) -> None:
    begun(owner, key)
    owner("freeze")
    code, shown = on_terminal(owner, key, "--json", "--yes", "unfreeze")
    assert code == 0, shown
    assert shown.index("End the freeze") < shown.index("PIN of Testkey")


def without_terminal(owner: Person, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it where no terminal is to be had, not even the tests' own."""
    command = [sys.executable, "-m", PROGRAM, "--home", str(owner.home), "--json", "--yes", *words]
    return subprocess.run(
        command, input=PIN + "\n", capture_output=True, text=True, timeout=60, start_new_session=True, check=False
    )


def test_a_pin_is_taken_from_nothing_but_a_terminal(owner: Person, registry: RealRegistry, key: SecurityKey) -> None:
    words = (*map(str, owner.profile_words()), "--wallet-key-file", str(owner.wallet_file))
    done = without_terminal(owner, "init", "--k11", "security-key", *words)
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["error"]["reason"] == "usage"
    assert "terminal" in done.stderr
    assert PIN not in done.stdout + done.stderr
    assert key.tries_left() == 8


def test_a_browsers_key_is_asked_over_usb_where_a_person_wants_it(
    owner: Person, registry: RealRegistry, key: SecurityKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "BrowserAuthenticator", lambda _: browsing(key))
    assert owner("init", *owner.profile_words(), "--wallet-key-file", owner.wallet_file).code == 0
    with Home.open(owner.home) as home:
        record = K11Record.load(home)
    assert record is not None
    assert record.kind is K11Kind.BROWSER
    owner("freeze")
    code, shown = on_terminal(owner, key, "unfreeze", "--yes", "--approve-with", "security-key")
    assert code == 0, shown


def test_a_key_that_is_there_serves_either_way(
    owner: Person, registry: RealRegistry, key: SecurityKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "BrowserAuthenticator", lambda _: browsing(key))
    address = ("--wallet", "0x" + "12" * 20)
    assert owner("init", *owner.profile_words(), *address).data["status"] == "wallet_signature_needed"
    again = owner("init", *owner.profile_words(), "--k11", "security-key", *address)
    assert again.data["status"] == "wallet_signature_needed"
    software = owner("init", *owner.profile_words(), "--k11", "software", "--wallet", "0x" + "13" * 20)
    assert software.reason == "already_initialised"


def test_without_a_key_the_command_says_so(owner: Person, registry: RealRegistry, key: SecurityKey) -> None:
    key.do("unplug")
    done = without_terminal(
        owner, "init", "--k11", "security-key", *map(str, owner.profile_words()), "--wallet", "0x" + "12" * 20
    )
    assert done.returncode == 5
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["reason"] == "k11_key_not_found"
    assert "udev" in error["advice"]


def test_software_asks_nobody_whatever_is_wished(master: Person) -> None:
    assert master("unfreeze", "--approve-with=security-key").code == 0


def test_the_console_says_that_it_asks_on_k11s_page_all_the_same(master: Person) -> None:
    with Terminal(master, "--approve-with", "security-key", "console") as terminal:
        terminal.until("The console asks K11 on its page all the same")
        terminal.until("http://localhost")


def test_the_console_has_a_browser_ask_the_same_key(owner: Person, registry: RealRegistry, key: SecurityKey) -> None:
    begun(owner, key)
    owner("freeze")
    key.do("ready")
    with k11_port(), console_at(owner.home) as visitor:
        visitor.send("/do", what="unfreeze")
        job = visitor.console._job
        assert job is not None
        base, _, token = job.window.partition("/#")
        shown = visitor.client.get(base + "/task", headers={TOKEN_HEADER: token}).json()
        given: list[object] = []
        task = Task(
            kind=shown["kind"],
            title=shown["title"],
            lines=tuple(shown["lines"]),
            digest=shown["digest"],
            options=shown["options"],
            accept=given.append,
        )
        asked_in_a_browser(key)(task)
        headers = {TOKEN_HEADER: token, "Origin": K11_ORIGIN, "Content-Type": "application/json"}
        assert visitor.client.post(base + "/answer", json=given[0], headers=headers).status_code == 200
        job.settle()
        assert "The freeze has ended." in visitor.get("/page/job").text
