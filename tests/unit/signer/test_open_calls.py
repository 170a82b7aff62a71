"""What slow clients cost: open calls, spare threads, fair shares."""

import threading
from concurrent.futures import wait
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from signer.rpc.open_calls import STALLED_S, ClientGoneError, OpenCalls, OpenLimits
from signer.rpc.pools import ElasticPool
from signer.rpc.shares import REMEMBERED, Shares
from tests.unit.core.refusal import refused

LIMITS = OpenLimits(per_caller=4, reading_per_caller=2, message_s=5.0, life_s=30.0)


class Call:
    """A call as gRPC shows it; `cancel` and `end` end it."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []
        self.active, self.cancelled, self.remaining = True, False, 60.0

    def is_active(self) -> bool:
        return self.active

    def time_remaining(self) -> float:
        return self.remaining

    def add_callback(self, callback: Any) -> bool:
        self.callbacks.append(callback)
        return self.active

    def cancel(self) -> None:
        self.cancelled = True
        self.end()

    def end(self) -> None:
        self.active = False
        while self.callbacks:
            self.callbacks.pop()()


def cancelled(call: Call) -> bool:
    return call.cancelled


class Pool:
    """Notes how many threads are to be spared."""

    def __init__(self) -> None:
        self.spared: list[int] = []

    def spare(self, threads: int) -> None:
        self.spared.append(threads)


class World:
    def __init__(self) -> None:
        self.at, self.pool = 100.0, Pool()
        self.calls = OpenCalls(self.pool, LIMITS, monotonic=lambda: self.at)
        self.threads: list[threading.Thread] = []
        self.released = threading.Event()

    def answered(self, caller: str = "a") -> Call:
        """A call whose message was read; its answer is on the way."""
        call = Call()
        assert self.calls.message(caller, call, iter([b"m"])) == b"m"
        return call

    def stalled(self, caller: str = "a") -> Call:
        """A call whose message does not come."""
        call, waiting = Call(), threading.Event()

        def never() -> Any:
            waiting.set()
            self.released.wait(30)
            yield b"late"

        def read() -> None:
            with pytest.raises(ClientGoneError):
                self.calls.message(caller, call, never())

        thread = threading.Thread(target=read)
        thread.start()
        self.threads.append(thread)
        assert waiting.wait(10)
        return call


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.released.set()
    for thread in made.threads:
        thread.join(10)
        assert not thread.is_alive()


def test_each_certificate_holds_so_many_open_calls(world: World) -> None:
    held = [world.answered() for _ in range(4)]
    world.calls.look()
    with refused("overloaded"):
        world.answered()
    world.answered("b")
    held[0].end()
    world.calls.look()
    world.answered()


def test_each_certificate_lets_so_many_messages_be_awaited(world: World) -> None:
    waiting = [world.stalled() for _ in range(2)]
    world.calls.look()
    world.answered()  # they may only just have begun
    world.at += 2 * STALLED_S
    world.calls.look()
    with refused("overloaded"):
        world.answered()
    world.answered("b")
    for call in waiting:
        call.cancel()


def test_stalled_threads_are_replaced(world: World) -> None:
    calls = [world.stalled("a"), world.stalled("b")]
    world.calls.look()
    assert world.pool.spared == []
    world.at += 2 * STALLED_S
    world.calls.look()
    world.calls.look()
    assert world.pool.spared == [2]
    for call in calls:
        call.cancel()
    world.released.set()
    for thread in world.threads:
        thread.join(10)
    world.calls.look()
    assert world.pool.spared == [2, 0]


def test_a_message_that_does_not_come_ends_the_call(world: World) -> None:
    call = world.stalled()
    world.at += LIMITS.message_s
    world.calls.look()
    assert not cancelled(call)
    world.at += 0.1
    world.calls.look()
    assert cancelled(call)


def test_an_answer_that_nobody_reads_ends_the_call(world: World) -> None:
    call = world.answered()
    world.at += LIMITS.life_s
    world.calls.look()
    assert not cancelled(call)
    world.at += 0.1
    world.calls.look()
    assert cancelled(call)
    for _ in range(4):
        world.answered()


@pytest.mark.parametrize("changed", [{"active": False}, {"remaining": 0.0}])
def test_nothing_is_begun_for_a_client_that_is_gone(world: World, changed: Any) -> None:
    call = Call()
    vars(call).update(changed)
    with pytest.raises(ClientGoneError):
        world.calls.message("a", call, iter([b"m"]))
    call.end()
    assert not world.calls._open


def test_what_gRPC_says_of_an_ending_call_stops_nothing(world: World) -> None:
    call = world.answered()
    call.callbacks.append(lambda: 1 // 0)
    world.at += 31
    world.calls.look()
    assert world.pool.spared == []


def test_it_watches_by_itself_until_it_is_closed() -> None:
    pool = Pool()
    calls = OpenCalls(pool, OpenLimits(life_s=0.0))
    calls.start()
    ended = threading.Event()
    call = Call()
    calls.message("a", call, iter([b"m"]))
    call.add_callback(ended.set)
    assert ended.wait(10)
    calls.close()
    OpenCalls(pool).close()  # also one that never began


# The pool.


def test_spare_threads_work_while_others_wait() -> None:
    pool, released, running = ElasticPool(2, name="t"), threading.Event(), threading.Semaphore(0)

    def wait_for_client() -> None:
        running.release()
        released.wait(30)

    stuck = [pool.submit(wait_for_client) for _ in range(2)]
    for _ in stuck:
        assert running.acquire(timeout=10)
    next_one = pool.submit(lambda: "served")
    assert not wait([next_one], timeout=0.2).done
    pool.spare(2)
    assert next_one.result(10) == "served"
    assert pool.threads <= 4
    released.set()
    wait(stuck, timeout=10)
    pool.spare(0)
    assert [pool.submit(lambda: 1).result(10) for _ in range(8)] == [1] * 8
    assert pool.in_flight == 0
    pool.shutdown()


def test_threads_that_are_too_many_end() -> None:
    pool = ElasticPool(1, name="t")
    barrier = threading.Barrier(5)
    pool.spare(4)
    for future in [pool.submit(barrier.wait, 10) for _ in range(5)]:
        future.result(10)
    pool.spare(0)
    ended = threading.Event()
    while pool.threads > 1:
        pool.submit(ended.set).result(10)
    assert pool.submit(lambda: "still served").result(10) == "still served"
    pool.shutdown()


def test_a_task_that_fails_belongs_to_its_future() -> None:
    pool = ElasticPool(1, name="t")

    def fail() -> None:
        raise KeyServiceError(Reason.INTERNAL)

    with refused("internal"):
        pool.submit(fail).result(10)
    assert pool.submit(lambda: 1).result(10) == 1
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(print)


def test_a_cancelled_task_does_not_run() -> None:
    pool, released = ElasticPool(1, name="t"), threading.Event()
    first = pool.submit(released.wait, 30)
    second = pool.submit(lambda: "ran")
    assert second.cancel()
    released.set()
    assert first.result(10)
    assert pool.submit(lambda: 1).result(10) == 1
    assert pool.in_flight == 0
    pool.shutdown()


# Shares.


def test_who_floods_is_refused_and_who_asks_for_little_is_not() -> None:
    shares = Shares()
    for _ in range(2 * REMEMBERED):
        with refused("overloaded"):
            shares.check("flood")
    for _ in range(3):
        shares.check("little")
        for _ in range(50):
            with refused("overloaded"):
                shares.check("flood")


def test_what_is_long_past_counts_no_more() -> None:
    shares = Shares()
    for _ in range(REMEMBERED):
        with refused("overloaded"):
            shares.check("earlier")
    for _ in range(REMEMBERED // 2 - 1):
        shares.check("now")
