"""How much is looked at, and at what cost to whom, where an address has no tokens left."""

import asyncio
import threading

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web import second_look
from agentkeys_runtime.web.endpoints import Call, Endpoint, Known
from agentkeys_runtime.web.second_look import OF_A_DEVICE, OF_AN_ACT, SecondLook
from tests.fakes.clock import StillClock


class Looks:
    """An endpoint that knows whoever the test says; a look lasts until `done`."""

    def __init__(self) -> None:
        self.known: Known | None = Known(who="a", act="1")
        self.done = threading.Event()
        self.done.set()
        self.endpoint = Endpoint(method="GET", path="/x", summary="s", handler=lambda _: {}, known=self.look, price=5)

    def look(self, call: Call) -> Known | None:
        self.done.wait(20)
        return self.known


@pytest.fixture
def looks() -> Looks:
    return Looks()


def lets_in(look: SecondLook, looks: Looks, *, act: str = "1", who: str = "a") -> bool:
    looks.known = Known(who=who, act=act)
    return asyncio.run(look.lets_in(looks.endpoint, Call()))


def test_an_act_is_good_once_in_a_while_and_then_again(looks: Looks) -> None:
    clock = StillClock()
    look = SecondLook(clock.now)
    assert [lets_in(look, looks) for _ in range(5)] == [True] + [False] * 4
    assert lets_in(look, looks, act="2")
    clock.forward(1 / OF_AN_ACT.per_second)
    assert lets_in(look, looks)


def test_a_device_pays_the_price_of_the_route(looks: Looks) -> None:
    clock = StillClock()
    look = SecondLook(clock.now)
    times = int(OF_A_DEVICE.burst / looks.endpoint.price)
    assert [lets_in(look, looks, act=str(number)) for number in range(times + 2)] == [True] * times + [False] * 2
    assert lets_in(look, looks, act="of another", who="b")
    clock.forward(looks.endpoint.price / OF_A_DEVICE.per_second)
    assert lets_in(look, looks, act="later")


def test_only_so_many_are_remembered(looks: Looks) -> None:
    assert OF_A_DEVICE.remembered <= 16_384
    assert OF_AN_ACT.remembered <= 16_384


def test_looks_are_few_at_once_and_few_wait(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_look, "LOOKING", 5)
    looks.known = Known()
    looks.done.clear()

    async def run() -> list[bool]:
        look = SecondLook()
        waiting = [asyncio.create_task(look.lets_in(looks.endpoint, Call())) for _ in range(5)]
        for _ in range(10):  # until each has a thread, or waits for one
            await asyncio.sleep(0)
        assert look._threads is not None
        assert look._threads.statistics().borrowed_tokens == second_look.THREADS
        refused = await look.lets_in(looks.endpoint, Call())
        looks.done.set()
        return [refused, *await asyncio.gather(*waiting), await look.lets_in(looks.endpoint, Call())]

    assert asyncio.run(run()) == [False, True, True, True, True, True, True]


@pytest.mark.parametrize("reason", [Reason.DEVICE_SIGNATURE_INVALID, Reason.REGISTRY_STALE, Reason.INVALID_BODY])
def test_whatever_the_look_raises_nobody_is_known(reason: Reason) -> None:
    def refuse(call: Call) -> Known | None:
        raise KeyServiceError(reason)

    endpoint = Endpoint(method="GET", path="/x", summary="s", handler=lambda _: {}, known=refuse)
    assert not asyncio.run(SecondLook().lets_in(endpoint, Call()))
