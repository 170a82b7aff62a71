"""Power cuts: a part is killed by SIGKILL at a random moment of a store, and nothing is lost or half done.

After each kill a reader gets the old or the new value, never another; a store that was acknowledged is there; whoever
lost the answer asks again; and in the end every audit chain verifies.
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkeys_core.errors import KeyServiceError
from device.audit_trail import export_own
from device.credentials import get, listed, put
from device.errors import DeviceError
from tests.adversarial.town import Member, Town, eventually, town_in

#: Kills of each part: more than fifty in all. The worker, whose disk holds the objects, gets the most.
KILLS = (("credentials", 30), ("signer", 14), ("broker", 8))
#: A store takes about this long here; kills fall anywhere inside it, and a little before and after.
LONGEST_WAIT_S = 0.25
NAME = "survivor"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("crash") / "stack") as made:
        yield made


def kill_and_restart(town: Town, part: str, wait_s: float) -> None:
    """Pull the plug of one part after a moment, and start it again at once, as a supervisor does."""
    time.sleep(wait_s)
    service = town.stack.services[part]
    service.kill()
    service.start()


def store_through_a_kill(town: Town, master: Member, part: str, value: bytes, wait_s: float) -> bool:
    """Store while `part` is killed; true if the device was told that it is done."""
    killer = threading.Thread(target=kill_and_restart, args=(town, part, wait_s))
    killer.start()
    try:
        put(master.device, NAME, value)
    except (DeviceError, KeyServiceError):
        return False
    finally:
        killer.join()
    return True


def read(master: Member) -> bytes | None:
    """The value that a reader gets now; None while a part is still coming up."""
    try:
        return get(master.device, NAME).value
    except (DeviceError, KeyServiceError):
        return None


def read_when_up(master: Member) -> bytes:
    found: list[bytes] = []

    def readable() -> bool:
        value = read(master)
        found.extend([] if value is None else [value])
        return value is not None

    eventually(readable)
    return found[-1]


def stored_again(master: Member, value: bytes) -> bool:
    try:
        put(master.device, NAME, value)
    except (DeviceError, KeyServiceError):
        return False
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("part", "kills"), KILLS)
def test_old_or_new_whatever_is_killed(town: Town, part: str, kills: int) -> None:
    dice = random.Random(f"{part} {kills}")
    master = town.master()
    before = b"value 0"
    put(master.device, NAME, before)
    for number in range(1, kills + 1):
        after = f"value {number} ".encode() * dice.randint(1, 400)
        done = store_through_a_kill(town, master, part, after, dice.uniform(0.0, LONGEST_WAIT_S))
        seen = read_when_up(master)
        assert seen in {before, after}, f"kill {number}"
        if done:
            assert seen == after, f"kill {number}: acknowledged, and lost"
        else:
            eventually(lambda value=after: stored_again(master, value))  # type: ignore[misc]
            assert read_when_up(master) == after, f"kill {number}: asked again"
        before = after
    assert [name for name, _ in listed(master.device)] == [NAME]
    assert not leftovers(town.stack.root / "objects", master), "temporary files are no objects and do not stay"
    export, verdict = export_own(master.device)
    assert verdict.ok, "the audit chain has no gap and no foreign row"
    assert len(export.rows) > kills


def leftovers(objects: Path, master: Member) -> list[Path]:
    folder = objects / "bots" / master.who.operator.hex() / "credentials"
    time.sleep(0.1)
    return [path for path in folder.iterdir() if path.is_file() and path.suffix == ".tmp"]
