"""Store, fetch, list and delete by a real device, with the objects in a real object store behind cloud sessions."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from agentkeys_core.bodies import StoreBody
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import HOLD_S, Op
from demo.attacker import Asked, cosign
from demo.process import Service, free_port, program
from device.audit_trail import export_own
from device.credentials import get, listed, put, remove
from device.errors import DeviceError
from tests.adversarial.town import OPENROUTER, Member, Town, eventually, reason, town_in


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("bucket") / "stack", bucket=True) as made:
        yield made


def stored_again(master: Member, value: bytes) -> bool:
    try:
        put(master.device, "openrouter", value)
    except (DeviceError, KeyServiceError):
        return False
    return True


def test_store_fetch_list_replace_delete(town: Town) -> None:
    master = town.master()
    stored = put(master.device, "openrouter", b"first")
    assert get(master.device, "openrouter").value == b"first"
    assert put(master.device, "openrouter", b"second" * 1000).replaced == stored.cap_digest
    assert get(master.device, "openrouter").value == b"second" * 1000
    agent = town.agent(master, OPENROUTER)
    assert get(agent.device, "openrouter").value == b"second" * 1000
    assert [name for name, _ in listed(master.device)] == ["openrouter"]
    remove(master.device, "openrouter")
    assert reason(lambda: get(master.device, "openrouter")) == "object_not_found"
    put(master.device, "openrouter", b"third")
    assert get(master.device, "openrouter").value == b"third"
    _, verdict = export_own(master.device)
    assert verdict.ok


@pytest.fixture(scope="module")
def replica(town: Town) -> Iterator[str]:
    """A second worker on the same bucket; it shares nothing with the first but the signer."""
    stack, port = town.stack, free_port()
    config = stack.root / "replica.toml"
    config.write_text(stack.config("credentials").read_text().replace(f":{stack.ports['credentials']}", f":{port}"))
    command = [*program("worker"), "serve", "--config", str(config)]
    service = Service(name="replica", command=command, log=stack.root / "logs" / "replica.log")
    service.start()
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        service.stop()


def stored_at(town: Town, origin: str, asked: Asked) -> httpx.Response:
    """Bring a store to the worker at that origin, co-signed."""
    content = asked.http(cosign(town.stack, asked.cap))
    return town.web.post(
        f"{origin}/v1/credentials/store", content=content, headers={"content-type": "application/json"}
    )


@pytest.mark.parametrize("name", ["contested", "contended", "disputed"])
def test_of_stores_at_once_through_two_workers_one_counts_and_is_what_lies_there(
    town: Town, replica: str, name: str
) -> None:
    master, expect = town.master(), None
    origins = [town.stack.origin("credentials"), replica] * 3
    for replacing in (False, True):
        bodies = [StoreBody(blind=bytes(32), expect=expect, value=bytes([number + 1])) for number in range(6)]
        asked = [master.asked(Op.CRED_STORE, f"cred:{name}", body.encode(), k11=replacing) for body in bodies]
        with ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(stored_at, [town] * len(asked), origins, asked))
        (winner,) = (number for number, answer in enumerate(answers) if answer.is_success)
        refusals = {answer.json()["reason"] for answer in answers if not answer.is_success}
        assert refusals <= {"overloaded", "version_not_current", "k11_required"}
        assert get(master.device, name).value == bodies[winner].value
        expect = asked[winner].cap.request.digest


@pytest.mark.parametrize("part", ["credentials", "signer"])
def test_old_or_new_whatever_is_killed(town: Town, part: str) -> None:
    """The worker dies inside a store; its object is free again once the hold of its session is over."""
    master = town.master()
    put(master.device, "openrouter", b"old")

    def pull_the_plug() -> None:
        time.sleep(0.08)  # a store takes about this long from the broker's answer to the worker's
        town.stack.services[part].kill()
        town.stack.services[part].start()

    killer = threading.Thread(target=pull_the_plug)
    killer.start()
    done = stored_again(master, b"new")
    killer.join()
    town.settle()
    assert get(master.device, "openrouter").value in ({b"new"} if done else {b"old", b"new"})
    eventually(lambda: stored_again(master, b"newest"), limit_s=2 * HOLD_S)
    assert get(master.device, "openrouter").value == b"newest"
    _, verdict = export_own(master.device)
    assert verdict.ok


def test_nothing_of_the_worker_lies_on_its_disk(town: Town) -> None:
    master = town.master()
    put(master.device, "openrouter", b"value")
    assert not list((town.stack.root / "objects").rglob("*.enc"))  # the folder is the memory worker's


def test_without_the_object_store_nothing_is_done_and_all_is_named(town: Town) -> None:
    master = town.master()
    put(master.device, "openrouter", b"value")
    server = town.stack.minio
    assert server is not None
    server.stop()
    try:
        assert reason(lambda: get(master.device, "openrouter")) == "sts_unreachable"
        assert reason(lambda: put(master.device, "another", b"value")) == "sts_unreachable"
        assert [name for name, _ in listed(master.device)] == ["openrouter"]
    finally:
        server.start()
    assert get(master.device, "openrouter").value == b"value"
    put(master.device, "another", b"value")
