"""The people of the demo, each with a device of his own: used through `agentkeys`, opened as it is, or stolen."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from agentkeys_core.encoding import b64u_decode
from agentkeys_core.keys import DeviceKey
from demo.process import StackError, program
from demo.stack import Stack
from device.agents import add_agent
from device.home import Home
from device.pairing import make_offer
from device.session import Device
from device.setting_up import confirmed_profile, set_up
from device.show import Show

COMMAND_LIMIT_S = 60


class _Silent(Show):
    """Says nothing beside the story that is told."""

    def warn(self, text: str) -> None:
        """What a person would be told is in the story."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command line ended: exit code, the JSON document on stdout, and the reason where it was refused."""

    code: int
    data: dict[str, object] = field(repr=False)
    reason: str

    def __str__(self) -> str:
        return f"{self.reason}, exit {self.code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """The names that a request claims to speak for."""

    operator: bytes
    actor: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with a device: its folder, and whose device it is."""

    name: str
    home: Path

    def agentkeys(self, *words: str, stdin: bytes = b"") -> Outcome:
        """Run `agentkeys` as this person would."""
        command = [*program("device"), "--home", str(self.home), "--json", "--yes", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=COMMAND_LIMIT_S)
        if done.returncode == 0:
            return Outcome(code=0, data=json.loads(done.stdout), reason="")
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        try:
            reason = str(json.loads(lines[-1])["error"]["reason"])
        except (ValueError, KeyError, IndexError, TypeError):
            reason = f"no JSON error: {lines[-1] if lines else 'nothing said'}"
        return Outcome(code=done.returncode, data={}, reason=reason)

    def must(self, *words: str, stdin: bytes = b"") -> dict[str, object]:
        """Run `agentkeys`; StackError unless it succeeds."""
        outcome = self.agentkeys(*words, stdin=stdin)
        if outcome.code:
            raise StackError(f"agentkeys {' '.join(words[:2])} of {self.name}: {outcome}")
        return outcome.data

    @contextmanager
    def opened(self) -> Iterator[Device]:
        """Open the device as the command does, in this process: for what a drill prepares."""
        with Home.open(self.home) as home, Device.open(home, _Silent(as_json=True, yes=True)) as device:
            yield device

    @property
    def key(self) -> DeviceKey:
        """K10 as a thief copies it from the disk."""
        found = json.loads((self.home / "k10.json").read_bytes())
        return DeviceKey.from_bytes(b64u_decode(found["private_key"], length=32))

    @property
    def who(self) -> Who:
        """The operator and actor that this device serves."""
        found = json.loads((self.home / "identity.json").read_bytes())
        operator = bytes.fromhex(found["operator_omni"])
        return Who(operator=operator, actor=bytes.fromhex(found["actor_omni"] or found["operator_omni"]))


def enrol(stack: Stack, name: str) -> Person:
    """Make a user with a wallet made for development and a first master device whose K11 is software."""
    person = Person(name=name, home=stack.root / "homes" / name)
    wallet = stack.root / f"{name}.wallet"
    wallet.touch(mode=0o600)
    wallet.write_text(DeviceKey.generate().secret_bytes().hex())
    person.must("init", *_deployment(stack), "--wallet-key-file", str(wallet), "--k11", "software")
    return person


def pair(stack: Stack, master: Person, label: str, services: tuple[str, ...]) -> tuple[Person, str]:
    """Pair an agent by the two command lines that people use; returns it and the pairing hash that both showed."""
    agent = Person(name=label, home=stack.root / "homes" / label)
    offer = stack.root / f"{label}.offer"
    operator = master.who.operator.hex()
    words = ("--operator", operator, "--out", str(offer), "--label", label)
    shown = str(agent.must("pair", *_deployment(stack), *words)["pairing_hash"])
    granted = [word for service in services for word in ("--service", service)]
    master.must("agent", "add", str(offer), "--label", label, *granted, "--pairing-hash", shown)
    agent.must("whoami")  # the agent learns its actor
    return agent, shown


def pair_quickly(stack: Stack, master: Person, label: str, services: tuple[str, ...]) -> Person:
    """Pair an agent by the same code in this process: drills need one to revoke, and soon."""
    agent = Person(name=label, home=stack.root / "homes" / label)
    profile = confirmed_profile(str(stack.profile), stack.profile_hash)
    with (
        Home.open(agent.home, create=True) as home,
        set_up(home, profile, _Silent(as_json=True, yes=True)) as device,
        master.opened() as owner,
    ):
        offer = make_offer(device, master.who.operator, label=label)
        add_agent(owner, offer, label=label, generation=0, services=services)
    return agent


def text_of(data: dict[str, object], name: str) -> str:
    """Return a text of a command's answer."""
    return str(data[name])


def names_of(data: dict[str, object]) -> list[str]:
    """Return the names of `cred list`."""
    return [str(entry["name"]) for entry in cast("list[dict[str, object]]", data["names"])]


def _deployment(stack: Stack) -> tuple[str, ...]:
    return "--profile", str(stack.profile), "--profile-hash", stack.profile_hash
