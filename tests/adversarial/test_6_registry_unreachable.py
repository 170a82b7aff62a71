"""Promise 6: a registry that is unreachable, staler than its bound or rolled back releases nothing, by name."""

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import Op
from agentkeys_runtime.registry_client import MAX_AGE_S
from demo.process import StackError
from demo.proxy import Detour
from device.agents import revoke_device
from device.credentials import put
from tests.adversarial.town import OPENROUTER, Member, Town, eventually, reason, reason_of, town_in

UNREACHABLE = {"registry_stale", "registry_unreachable", "signer_unreachable"}


@pytest.fixture(scope="module")
def detour() -> Iterator[Detour]:
    """Between the credentials worker and the signer."""
    with Detour() as made:
        yield made


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, detour: Detour) -> Iterator[Town]:
    """A town whose worker's way to the signer can be held up."""
    root = tmp_path_factory.mktemp("held") / "stack"
    with town_in(root, detours={"credentials": detour.port}, when_prepared=partial(_point, detour)) as made:
        yield made


def _point(detour: Detour, ports: dict[str, int]) -> None:
    detour.target = ports["signer"]


@pytest.fixture(scope="module")
def master(held: Town) -> Member:
    made = held.master()
    put(made.device, "openrouter", b"x")
    return made


def fetch(town: Town, member: Member) -> str:
    """What a fetch gets now: a reason, or `served`."""
    answer = town.ask_worker(member.asked(Op.CRED_FETCH, OPENROUTER))
    return "served" if answer.is_success else reason_of(answer)


def test_a_stream_that_says_nothing_stops_releases_and_reads(held: Town, master: Member, detour: Detour) -> None:
    """Held up, not cut: to the worker it is silence. Its bound is 5 s; then nothing of its cache counts any more."""
    agent = held.agent(master, OPENROUTER)
    assert fetch(held, agent) == "served"
    detour.hold()
    try:
        silent = time.monotonic()
        time.sleep(MAX_AGE_S + 0.2)
        rows = len(held.rows())
        assert fetch(held, agent) == "registry_stale"
        read = held.web.get(f"{held.stack.origin('credentials')}/v1/registry/operators/{master.who.operator.hex()}")
        assert reason_of(read) == "registry_stale"
        assert len(held.rows()) == rows
        assert time.monotonic() - silent < MAX_AGE_S + 10
    finally:
        detour.pass_on()
    eventually(lambda: fetch(held, agent) == "served")


def test_a_revocation_during_the_silence_is_not_overlooked_after_it(held: Town, master: Member, detour: Detour) -> None:
    agent = held.agent(master, OPENROUTER)
    assert fetch(held, agent) == "served"
    detour.hold()
    try:
        revoke_device(master.device, agent.key.key_hash)
    finally:
        detour.pass_on()
    eventually(lambda: fetch(held, agent) not in UNREACHABLE)
    assert fetch(held, agent) == "device_revoked"


def test_an_unreachable_signer_releases_nothing_and_is_found_again(held: Town, master: Member, detour: Detour) -> None:
    agent = held.agent(master, OPENROUTER)
    detour.refuse()
    try:
        eventually(lambda: fetch(held, agent) in UNREACHABLE)
        time.sleep(MAX_AGE_S)
        assert fetch(held, agent) == "registry_stale"
    finally:
        detour.pass_on()
    eventually(lambda: fetch(held, agent) == "served")


def test_another_registry_is_not_the_pinned_one(held: Town, master: Member) -> None:
    """Parts that were configured for another registry id refuse everything, though that registry answers."""
    config = held.stack.config("audit")
    text = config.read_text()
    config.write_text(text.replace(held.stack.registry_id, "ab" * 32))
    held.stack.stop("audit")
    try:
        with pytest.raises(StackError):
            held.stack.start("audit")
    finally:
        config.write_text(text)
        held.stack.start("audit")


@pytest.fixture
def rolled(tmp_path: Path) -> Iterator[Town]:
    with town_in(tmp_path / "stack") as made:
        yield made


def restore(town: Town, backup: Path, *, also_stamp: bool) -> None:
    """Put an older state back under the signer, as a thief of its disk or a careless host would."""
    folder = town.stack.root / "signer"
    stamps = {} if also_stamp else {path.name: path.read_bytes() for path in folder.glob("*.stamp")}
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    for name, data in stamps.items():
        (folder / name).write_bytes(data)


def test_an_older_registry_seals_the_signer(rolled: Town, tmp_path: Path) -> None:
    """The restored state would bring a revoked device back. First the high-water file tells, then the workers do."""
    town = rolled
    master = town.master()
    put(master.device, "openrouter", b"x")
    agent = town.agent(master, OPENROUTER, "cred:other")
    version = town.store(master, "cred:other", b"x")
    backup = tmp_path / "backup"
    town.stack.stop("signer")
    shutil.copytree(town.stack.root / "signer", backup)
    town.stack.start("signer")
    town.settle()
    eventually(lambda: fetch(town, agent) == "served")
    revoke_device(master.device, agent.key.key_hash)
    assert fetch(town, agent) == "device_revoked"
    time.sleep(2.0)  # two beats of the stream: every follower holds the new head now

    town.stack.stop("signer")
    restore(town, backup, also_stamp=False)
    with pytest.raises(StackError):
        town.stack.start("signer")

    restore(town, backup, also_stamp=True)  # nothing on this disk knows better now; broker and workers do
    town.stack.start("signer")
    cap = agent.cap(Op.CRED_FETCH, "cred:other").encode()

    def refused() -> bool:
        try:
            town.signer().derive_cred_kek(cap, **version.salt)
        except KeyServiceError as exc:
            return exc.reason in {"sealed", "registry_rolled_back"}
        return False

    eventually(refused)
    assert reason(partial(town.signer().derive_cred_kek, cap, **version.salt)) in {"sealed", "registry_rolled_back"}
    # Which name it has depends on what the worker asks first: its own view, which may still be fresh and know of the
    # revocation, or a signer that sealed itself.
    assert fetch(town, agent) in {"device_revoked", "registry_rolled_back", "sealed", *UNREACHABLE}
    assert any(line["kind"] == "host" and line["reason"] == "registry_rolled_back" for line in town.journal())
