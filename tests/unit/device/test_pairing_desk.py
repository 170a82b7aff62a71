"""Pairing through the broker's real routes: both sides meet, and a broker that lies to either is found out."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import segno

from agentkeys_core.changes import pairing_hash
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey
from device import pairing_desk
from device.broker_session import Prover
from device.errors import DeviceError
from device.home import Home
from device.pairing import make_offer, shown
from device.pairing_desk import Begun, MachineSide, MasterSide, fingerprint
from device.pairing_link import PairingLink
from device.session import Device
from device.setting_up import set_up
from device.show import Show
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.terminal import Terminal, drawn

ROUNDS = 400
ASKED = r"\[y/N\]"
SHOWN = r"code: (\S{4}-\S{4})\s+pairing hash: ((?:[0-9a-f]{4} ?){8})"


def impatient(_: float) -> None:
    """In place of a second's pause: whoever waits for what cannot come must not wait for ever."""
    impatient.count += 1  # type: ignore[attr-defined]
    assert impatient.count < ROUNDS  # type: ignore[attr-defined]
    time.sleep(0.01)


@pytest.fixture(autouse=True)
def fresh() -> None:
    impatient.count = 0  # type: ignore[attr-defined]


@pytest.fixture
def machine_device(deployment: Deployment, tmp_path: Path) -> Iterator[Device]:
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(tmp_path / "machine", create=True))
        yield stack.enter_context(set_up(home, deployment.profile, Show(as_json=True, yes=True)))


@pytest.fixture
def owner(master: Person) -> Iterator[Device]:
    with Home.open(master.home) as home, Device.open(home, Show(as_json=True, yes=True)) as opened:
        yield opened


@pytest.fixture
def machine(machine_device: Device) -> MachineSide:
    return MachineSide(machine_device, pause=impatient)


@pytest.fixture
def side(owner: Device) -> MasterSide:
    return MasterSide(owner, pause=impatient)


def begin(machine: MachineSide, **changed: Any) -> Begun:
    return machine.begin(**{"label": "research", "services": ("cred:openrouter",), **changed})


def refused(work: Callable[[], object]) -> str:
    with pytest.raises((DeviceError, KeyServiceError)) as caught:
        work()
    assert isinstance(caught.value, (DeviceError, KeyServiceError))
    return str(caught.value.reason)


def test_both_sides_meet(deployment: Deployment, machine: MachineSide, side: MasterSide, owner: Device) -> None:
    begun = begin(machine)
    claimed = side.claim(begun.code)
    assert (claimed.hash, claimed.label, claimed.services) == (begun.hash, "research", ("cred:openrouter",))
    operator = machine.claimed_by(begun)
    assert operator == owner.identity().operator_omni
    made = machine.agree(begun, operator)
    assert side.offer(claimed).pair == made.pair


def test_the_hash_is_of_our_own_key_and_profile(
    deployment: Deployment, machine: MachineSide, machine_device: Device
) -> None:
    swap_key(deployment, "/v1/pairings")
    expected = pairing_hash(device_public_key=machine_device.k10.public_key, profile_hash=machine_device.profile.hash())
    assert begin(machine).hash == expected


def swap_key(deployment: Deployment, path: str) -> DeviceKey:
    """The broker tells another key than the machine's."""
    own = DeviceKey.generate()

    def lie(method: str, asked: str, told: dict[str, object]) -> None:
        if asked == path and "public_key" in told:
            told |= {"device": own.key_hash.hex(), "public_key": b64u_encode(own.public_key)}

    deployment.identity.lie = lie
    return own


def test_a_broker_that_swaps_the_key_shows_another_hash(
    deployment: Deployment, machine: MachineSide, master: Person
) -> None:
    begun = begin(machine)
    swap_key(deployment, "/v1/pairings/claim")
    words = ("--label", "research", "--service", "cred:openrouter", "--pairing-hash", shown(begun.hash))
    outcome = master("agent", "approve", begun.code, *words)
    assert (outcome.code, outcome.reason) == (6, "pairing_hash_mismatch")
    assert master("agent", "list").data == {"agents": []}


def test_a_broker_cannot_swap_the_key_after_it_was_compared(
    deployment: Deployment, machine: MachineSide, side: MasterSide
) -> None:
    """Told the right key at first and another with the `Pair`, a master holds on to the one that was compared."""
    begun = begin(machine)
    claimed = side.claim(begun.code)
    operator = machine.claimed_by(begun)
    machine.agree(begun, operator)
    swap_key(deployment, f"/v1/pairings/claimed/{begun.id}")
    assert side.offer(claimed).public_key == claimed.public_key


@pytest.mark.parametrize("signer", ["another key", "another operator"])
def test_a_pair_that_the_broker_made_up_is_none(
    deployment: Deployment, machine: MachineSide, side: MasterSide, tmp_path: Path, signer: str
) -> None:
    begun = begin(machine)
    claimed = side.claim(begun.code)
    operator = machine.claimed_by(begun)
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(tmp_path / "other", create=True))
        other = stack.enter_context(set_up(home, deployment.profile, Show(as_json=True)))
        chosen = MachineSide(other, pause=impatient) if signer == "another key" else machine
        made = make_offer(chosen._device, operator if signer == "another key" else bytes(32), label=None)

    def lie(method: str, path: str, told: dict[str, object]) -> None:
        if path.startswith("/v1/pairings/claimed/"):
            told["pair"] = made.pair.to_json()

    deployment.identity.lie = lie
    assert refused(lambda: side.offer(claimed)) == "pair_invalid"


def test_a_machine_of_another_deployment_is_not_let_in(
    deployment: Deployment, machine: MachineSide, side: MasterSide
) -> None:
    begun = begin(machine)

    def lie(method: str, path: str, told: dict[str, object]) -> None:
        if path == "/v1/pairings/claim":
            told["profile_hash"] = b64u_encode(bytes(32))

    deployment.identity.lie = lie
    assert refused(lambda: side.claim(begun.code)) == "pair_invalid"


def test_a_lost_answer_loses_no_pair(deployment: Deployment, machine: MachineSide, side: MasterSide) -> None:
    begun = begin(machine)
    claimed = side.claim(begun.code)
    operator = machine.claimed_by(begun)
    lost: list[bool] = []

    def lie(method: str, path: str, told: dict[str, object]) -> None:
        if (method, path) == ("POST", f"/v1/pairings/{begun.id}") and not lost:
            lost.append(True)
            raise ConnectionError

    deployment.identity.lie = lie
    made = machine.agree(begun, operator)
    assert lost
    assert side.offer(claimed).pair == made.pair


def test_who_hands_over_twice_is_told_so(machine: MachineSide, side: MasterSide, machine_device: Device) -> None:
    begun = begin(machine)
    side.claim(begun.code)
    operator = machine.claimed_by(begun)
    machine.agree(begun, operator)
    machine_device.clock = lambda: time.time() + 1  # so that it signs another one
    assert refused(lambda: machine.agree(begun, operator)) == "ceremony_ended"


def test_a_broker_that_is_away_for_a_while_ends_nothing(
    deployment: Deployment, machine: MachineSide, side: MasterSide, owner: Device
) -> None:
    begun = begin(machine)
    side.claim(begun.code)
    away = [problem(Reason.OVERLOADED, 429), ConnectionError()]

    def hook(_: bytes) -> Any:
        if not away:
            return None
        said = away.pop()
        if isinstance(said, ConnectionError):
            raise said
        return said

    deployment.hooks["broker", f"/v1/pairings/{begun.id}"] = hook
    assert machine.claimed_by(begun) == owner.identity().operator_omni
    assert not away


def test_waiting_ends(machine: MachineSide, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = begin(machine)
    monkeypatch.setattr(pairing_desk, "WAIT_S", 0.0)
    assert refused(lambda: machine.claimed_by(begun)) == "pairing_ended"
    assert refused(lambda: machine.claimed_by(begun)) == "pairing_ended"


def test_a_pairing_that_is_over_is_said_so(deployment: Deployment, machine: MachineSide, side: MasterSide) -> None:
    begun = begin(machine)
    claimed = side.claim(begun.code)
    assert refused(lambda: side.claim(begun.code)) == "ceremony_ended"
    deployment.identity.ahead_s = 601
    side._device.clock = deployment.identity.clock
    assert refused(lambda: side.offer(claimed)) == "ceremony_ended"


def test_a_masters_folder_begins_no_pairing(owner: Device) -> None:
    assert refused(lambda: begin(MachineSide(owner))) == "already_initialised"


def test_an_agents_session_claims_nothing(machine: MachineSide, agent: Person) -> None:
    code = begin(machine).code
    with Home.open(agent.home) as home, Device.open(home, Show(as_json=True)) as device:
        assert refused(lambda: MasterSide(device).claim(code)) == "device_role_missing"


def test_a_machine_learns_only_what_the_registry_holds(
    deployment: Deployment, machine: MachineSide, owner: Device, machine_device: Device
) -> None:
    """Until it is registered it goes on asking, also where the claiming operator is one that nobody knows."""
    make_offer(machine_device, bytes(32), label=None)
    impatient.count = ROUNDS - 3  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        machine.registered()


def test_a_begin_without_a_code_is_not_trusted(machine: MachineSide, deployment: Deployment) -> None:
    deployment.identity.lie = lambda method, path, told: (told.pop("code", None), None)[1]
    assert refused(lambda: begin(machine)) == "answer_not_trusted"


def test_a_proof_of_the_machine_is_its_own(
    machine_device: Device, deployment: Deployment, machine: MachineSide
) -> None:
    begun = begin(machine)
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(machine_device.home.path.parent / "stranger", create=True))
        other = stack.enter_context(set_up(home, deployment.profile, Show(as_json=True)))
        assert refused(lambda: Prover(other).ask("request", "GET", f"/v1/pairings/{begun.id}")) == "not_found"


# --- the commands -----------------------------------------------------------------------------------------------------


def approve(master: Person, code: str, *words: str) -> Any:
    return master("agent", "approve", code, *words)


def scripted(person: Person, *words: str) -> Terminal:
    """`agentkeys pair` on a machine, in a process of its own."""
    return Terminal(person, *(str(word) for word in ("pair", *person.profile_words(), "--label", "research", *words)))


def told_by(terminal: Terminal) -> tuple[str, str]:
    """The code and the pairing hash, as a person reads them."""
    found = re.search(SHOWN, terminal.until(SHOWN))
    assert found is not None, terminal.shown
    return found[1], found[2]


def test_a_machine_and_a_master_pair_by_commands(
    master: Person, person: Callable[[str], Person], deployment: Deployment
) -> None:
    machine = person("machine")
    operator = master("whoami").data["operator_omni"]
    with scripted(machine, "--service", "cred:openrouter") as terminal:
        code, pairing = told_by(terminal)
        link = PairingLink(broker=deployment.profile.broker, code=code, hash=bytes.fromhex(pairing.replace(" ", "")))
        assert drawn(terminal.shown) == [bytes(row) for row in segno.make_qr(link.encode(), error="l").matrix]
        done: list[Any] = []
        words = ("--label", "research", "--service", "cred:openrouter", "--pairing-hash", pairing)
        approving = threading.Thread(target=lambda: done.append(approve(master, code, *words)))
        approving.start()
        shown_there = terminal.until(ASKED)
        assert fingerprint(bytes.fromhex(operator)) in shown_there
        terminal.write(b"y\n")
        approving.join(60)
        assert done[0].code == 0, done[0].err
        assert fingerprint(bytes.fromhex(operator)) in done[0].err
        code_there, rest = terminal.end()
    assert code_there == 0, rest
    assert "this device is research/0 now" in rest
    assert machine("whoami").data["scope"] == ["cred:openrouter"]


def test_one_pasted_command_is_enough_on_a_headless_machine(master: Person, person: Callable[[str], Person]) -> None:
    machine = person("machine")
    operator = master("whoami").data["operator_omni"]
    with scripted(machine, "--operator", operator, "--json") as terminal:
        code, pairing = told_by(terminal)
        words = ("--label", "research", "--service", "cred:openrouter", "--pairing-hash", pairing)
        assert approve(master, code, *words).code == 0
        code_there, rest = terminal.end()
    assert code_there == 0, rest
    assert '"status": "registered"' in rest


def test_a_machine_that_was_told_its_operator_agrees_to_no_other(
    master: Person, person: Callable[[str], Person]
) -> None:
    machine = person("machine")
    with scripted(machine, "--operator", "11" * 32) as terminal:
        code, _ = told_by(terminal)
        with Home.open(master.home) as home, Device.open(home, Show(as_json=True)) as owner:
            MasterSide(owner).claim(code)
        code_there, rest = terminal.end()
    assert (code_there, "pair_invalid" in rest) == (6, True)
    assert not (machine.home / "identity.json").exists()


def test_who_declines_the_operator_signs_nothing(master: Person, person: Callable[[str], Person]) -> None:
    machine = person("machine")
    with scripted(machine, "--yes") as terminal:  # which does not answer this question
        code, _ = told_by(terminal)
        with Home.open(master.home) as home, Device.open(home, Show(as_json=True)) as owner:
            MasterSide(owner).claim(code)
        terminal.until(ASKED)
        terminal.write(b"n\n")
        code_there, rest = terminal.end()
    assert (code_there, "declined" in rest) == (1, True)
    assert not (machine.home / "identity.json").exists()


def test_yes_compares_no_hash_and_takes_no_proposal(machine: MachineSide, master: Person) -> None:
    words = ("--label", "research", "--service", "cred:openrouter")
    assert approve(master, begin(machine).code, *words).reason == "usage"
    begun = begin(machine)
    assert approve(master, begun.code, "--pairing-hash", begun.hash.hex()).reason == "usage"
    begun = begin(machine)
    assert approve(master, begun.code, "--pairing-hash", begun.hash.hex(), "--label", "research").reason == "usage"
    begun = begin(machine, label=None)
    assert approve(master, begun.code, "--pairing-hash", begun.hash.hex(), "--service", "cred:a").reason == "usage"
    assert master("agent", "list").data == {"agents": []}


def test_the_qr_codes_text_is_code_and_hash_in_one(
    deployment: Deployment, machine: MachineSide, master: Person, machine_device: Device
) -> None:
    begun = begin(machine)
    agreeing = threading.Thread(target=lambda: machine.agree(begun, machine.claimed_by(begun)))
    agreeing.start()
    words = ("--label", "research", "--service", "cred:openrouter")
    outcome = approve(master, begun.link.encode(), *words)
    agreeing.join(30)
    assert outcome.code == 0, outcome.err
    assert machine.registered().label == "research"
    begun = begin(machine)
    forged = PairingLink(broker=begun.link.broker, code=begun.code, hash=bytes(16))
    assert approve(master, forged.encode(), *words).reason == "pairing_hash_mismatch"
    elsewhere = PairingLink(broker="https://other.example", code=begun.code, hash=begun.hash)
    assert approve(master, elsewhere.encode(), *words).reason == "pair_invalid"
    both = ("--pairing-hash", begun.hash.hex())
    assert approve(master, begun.link.encode(), *words, *both).reason == "usage"


@pytest.mark.parametrize(
    "words",
    [
        (),  # nobody can be asked
        ("--out", "offer.json"),
        ("--force", "--operator", "11" * 32),
        ("--master", "--operator", "11" * 32),
        ("--out", "offer.json", "--operator", "11" * 32, "--service", "cred:a"),
    ],
)
def test_pair_says_what_is_missing(person: Callable[[str], Person], words: tuple[str, ...]) -> None:
    made = person("machine")
    outcome = made("pair", *made.profile_words(), *words)
    assert (outcome.code, outcome.reason) == (2, "usage")
    assert not made.home.exists()
