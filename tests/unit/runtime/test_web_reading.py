"""Bodies that are read: bounded in number, and the slowest gives way."""

import asyncio

import pytest

from agentkeys_core.errors import KeyServiceError
from agentkeys_runtime.web.reading import Readers


async def outcome(readers: Readers, arrived: asyncio.Event, *, within_s: float = 30.0) -> str:
    try:
        async with readers.one(within_s):
            await arrived.wait()
    except KeyServiceError as error:
        return error.reason.value
    return "read"


def test_the_oldest_gives_way_and_hears_why() -> None:
    async def run() -> list[str]:
        readers, never, soon = Readers(2), asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(outcome(readers, never))
        second = asyncio.create_task(outcome(readers, soon))
        await asyncio.sleep(0)
        third = asyncio.create_task(outcome(readers, soon))
        assert await first == "overloaded"
        soon.set()
        return [await second, await third]

    assert asyncio.run(run()) == ["read", "read"]


def test_a_body_that_does_not_come_ends_in_time() -> None:
    async def run() -> str:
        return await outcome(Readers(), asyncio.Event(), within_s=0.01)

    assert asyncio.run(run()) == "invalid_body"


@pytest.mark.parametrize("count", [1, 2, 50])
def test_places_are_given_back(count: int) -> None:
    async def run() -> list[str]:
        readers, here = Readers(1), asyncio.Event()
        here.set()
        return [await outcome(readers, here) for _ in range(count)]

    assert set(asyncio.run(run())) == {"read"}


def test_what_goes_wrong_while_reading_goes_on_as_it_is() -> None:
    async def run() -> None:
        async with Readers(1).one(1.0):
            raise ValueError

    with pytest.raises(ValueError):  # it has no text
        asyncio.run(run())
