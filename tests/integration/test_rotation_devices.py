"""A rotation as users meet it: nothing fails for them, and they are asked nothing."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from device.audit_trail import export_own
from device.credentials import get, put
from device.transport import Answer
from tests.adversarial.town import OPENROUTER, Member, Town, town_in


@pytest.fixture
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("rotation") / "stack") as made:
        yield made


def host(town: Town, *words: str) -> None:
    command = [sys.executable, "-m", "signer", *words, "--config", str(town.stack.config("signer"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def rotate(town: Town) -> None:
    host(town, "rotate", "--prepare", "--out", str(town.stack.root / "issuer"))
    host(town, "rotate", "--commit")


@pytest.mark.timeout(180)
def test_devices_go_on_through_a_rotation(town: Town) -> None:
    master = town.master()
    put(master.device, "openrouter", b"value")
    agents = [town.agent(master, OPENROUTER) for _ in range(2)]
    done = threading.Event()
    fetched = [0, 0]
    failed: list[Exception] = []

    def use(number: int, agent: Member) -> None:
        try:
            while not done.is_set() or fetched[number] < 4:
                assert get(agent.device, "openrouter").value == b"value"
                fetched[number] += 1
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=use, args=(number, agent)) for number, agent in enumerate(agents)]
    for thread in threads:
        thread.start()
    rotate(town)
    done.set()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert all(fetched)

    assert get(agents[0].device, "openrouter").value == b"value", "an old object opens"
    put(master.device, "other", b"new")
    assert get(master.device, "other").value == b"new"
    assert {row.epoch for row in town.rows()} == {1, 2}
    for member in (master, *agents):
        assert member.device.memory.epoch == 2
        _, verdict = export_own(member.device)
        assert verdict.ok, "rows of both epochs verify with the published keys"
    host(town, "journal", "verify")


def test_a_part_that_is_a_moment_behind_is_asked_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same bytes: nothing is signed anew, and no second touch is asked for."""
    master = town.master()
    put(master.device, "openrouter", b"value")
    rotate(town)
    get(master.device, "openrouter")
    asked: list[bytes] = []
    channel = master.device.channel(None)
    post = channel.post

    class Behind:
        origin = channel.origin

        def post(self, path: str, body: bytes, **rest: Any) -> object:
            asked.append(body)
            if len(asked) == 1:
                problem = b'{"current_epoch":1,"reason":"future_epoch","status":409}'
                return Answer(409, problem)
            return post(path, body, **rest)

    monkeypatch.setitem(master.device._channels, None, Behind())
    assert get(master.device, "openrouter").value == b"value"
    assert len(asked) == 2
    assert asked[0] == asked[1]
