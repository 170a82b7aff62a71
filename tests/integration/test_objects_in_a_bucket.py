"""Store, fetch, list and delete by a real device, with the objects in a real object store behind cloud sessions."""

from collections.abc import Iterator

import pytest

from device.audit_trail import export_own
from device.credentials import get, listed, put, remove
from tests.adversarial.town import OPENROUTER, Town, reason, town_in


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("bucket") / "stack", bucket=True) as made:
        yield made


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
