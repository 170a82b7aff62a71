"""One cap, many callers: threads and processes race for it, and exactly one gets the release."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import Op
from signer.journal import verify_journal
from tests.unit.signer.world import CREDENTIALS, MEMORY, User, World, world_in

NAME = "cred:openrouter"


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


def race(calls) -> list[object]:
    """Start all calls at once; what each returned or raised."""
    outcomes: list[object] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(index):
        barrier.wait()
        try:
            outcomes[index] = calls[index]()
        except KeyServiceError as exc:
            outcomes[index] = exc

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def refusals(outcomes) -> list[str]:
    return sorted(outcome.reason.value for outcome in outcomes if isinstance(outcome, KeyServiceError))


def test_threads_racing_one_store_cap_get_one_release(world):
    for number in range(10):
        cap = world.cap(Op.CRED_STORE, f"cred:n{number}")
        outcomes = race([lambda cap=cap: world.derive(cap)] * 8)
        assert refusals(outcomes) == ["cap_replayed"] * 7
    assert world.count("rows") == world.count("salts") == 10


def test_threads_racing_one_delete_get_one_row(world):
    world.store()
    cap = world.cap(Op.CRED_DELETE, NAME)
    outcomes = race([lambda: world.ack(cap)] * 8)
    assert len(set(outcomes)) == 1
    assert world.count("rows") == 2


def test_racing_acknowledgements_agree_on_one_outcome(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    world.derive(cap)
    outcomes = race([lambda r=result: world.ack(cap, r) for result in (0, 1, 2, 0, 1, 2)])
    assert refusals(outcomes) == ["cap_replayed"] * 4
    assert len({outcome for outcome in outcomes if isinstance(outcome, bytes)}) == 1


def test_racing_first_stores_leave_one_current(world):
    caps = [world.cap(Op.CRED_STORE, NAME) for _ in range(6)]
    for cap in caps:
        world.derive(cap)
    outcomes = race([lambda cap=cap: world.ack(cap) for cap in caps])
    assert refusals(outcomes) == ["version_not_current"] * 5
    assert len(world.names().names) == 1


def test_a_delete_racing_a_fetch_is_before_or_after_it(world):
    for _ in range(5):
        stored, _ = world.store()
        delete, fetch = world.cap(Op.CRED_DELETE, NAME), world.cap(Op.CRED_FETCH, NAME)
        outcomes = race([lambda cap=delete: world.ack(cap), lambda cap=fetch, s=stored: world.read(cap, s)])
        assert refusals(outcomes) in ([], ["version_not_current"])
        with pytest.raises(KeyServiceError):
            world.fetch(stored)


# Processes. Each opens the same state file after its start, as forked signers do.


class _Shared:
    """What a child needs to stand for the same deployment."""

    def __init__(self, world: World) -> None:
        self.directory = str(world.path.parent)
        self.k1 = world.k1.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        user = world.user
        self.devices = [key.secret_bytes() for key in (user.master, user.second, user.agent)]
        self.at = world.clock.at

    def open(self) -> World:
        from agentkeys_core.keys import DeviceKey

        world = World(Path(self.directory))
        world.k1 = serialization.load_der_private_key(self.k1, None)  # type: ignore[assignment]
        world.k1_public = ES256PublicKey.of(world.k1.public_key())
        world.user = User()
        world.user.master, world.user.second, world.user.agent = map(DeviceKey.from_bytes, self.devices)
        world.registry.put(world.user.state())
        world.service = world.make_service(world.registry)
        return world


def _derive_each(shared, caps, start, results):
    world = shared.open()
    start.wait()
    for cap in caps:
        try:
            results.put((cap, world.derive(cap).key))
        except KeyServiceError as exc:
            results.put((cap, exc.reason.value))
    world.close()


def test_processes_racing_one_cap_get_one_release(world):
    context = multiprocessing.get_context("spawn")
    shared = _Shared(world)
    caps = [world.cap(Op.MEMORY_PUT, f"memory:n{number}") for number in range(30)]
    start, results = context.Barrier(2), context.Queue()
    children = [context.Process(target=_derive_each, args=(shared, caps, start, results)) for _ in range(2)]
    for child in children:
        child.start()
    outcomes = [results.get(timeout=60) for _ in range(2 * len(caps))]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    for cap in caps:
        of_cap = [outcome for owner, outcome in outcomes if owner == cap]
        assert len(of_cap) == 2
        assert of_cap.count("cap_replayed") == 1
    assert world.count("rows") == world.count("salts") == len(caps)


def _store_for_ever(shared, started):
    world = shared.open()
    number = 0
    while True:
        stored = world.derive(world.cap(Op.MEMORY_PUT, f"memory:n{number % 5}"))
        assert len(stored.key) == 32
        number += 1
        started.set()


@pytest.mark.parametrize("delay_ms", [0, 3, 7, 11, 16, 23])
def test_a_killed_process_leaves_an_unbroken_journal(world, delay_ms):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    child = context.Process(target=_store_for_ever, args=(_Shared(world), started))
    child.start()
    assert started.wait(60)
    time.sleep(delay_ms / 1000)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)
    report = verify_journal(world.database.reader(), world.keyring)
    assert report.rows == world.count("rows") == world.count("salts") == world.count("caps") >= 1
    stored = world.derive(world.cap(Op.MEMORY_PUT, "memory:after"))
    assert len(stored.key) == 32


def test_a_lock_in_the_middle_of_traffic_loses_nothing(world):
    """Some calls are refused while another connection holds the file; whatever was answered is recorded."""
    stop = threading.Event()
    released: list[bytes] = []
    reasons: set[str] = set()

    def work():
        while not stop.is_set():
            cap = world.cap(Op.MEMORY_PUT, "memory:a")
            try:
                released.append(world.service.derive_cred_kek(MEMORY, cap).row)
            except KeyServiceError as exc:
                reasons.add(exc.reason.value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    with closing(sqlite3.connect(world.path, isolation_level=None, timeout=20)) as other:
        time.sleep(0.1)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(2.0)
        other.execute("ROLLBACK")
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert reasons == {"journal_unavailable"}
    rows = {row for (row,) in world.database.reader().execute("SELECT row FROM rows")}
    assert set(released) == rows
    assert len(released) == len(rows) > 0


def test_no_caller_waits_for_ever(world):
    """A committer that stops answers every waiter."""
    outcomes: list[object] = []

    def call():
        with suppress(KeyServiceError):
            outcomes.append(world.service.derive_cred_kek(CREDENTIALS, world.cap(Op.CRED_STORE, NAME)))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    world.committer.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
