"""Memories through real processes: each actor's own, shared by all devices of one agent, and only inside its scope."""

from collections.abc import Iterator
from functools import partial

import pytest

from agentkeys_core.audit import OpKind
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op, Service
from device import credentials
from device.agents import add_agent, revoke_device
from device.audit_trail import export_own
from device.client import ask
from device.errors import DeviceError, Trouble
from device.memories import MAX_VALUE_BYTES, get, listed, put, remove
from device.pairing import make_offer
from tests.adversarial.town import Member, Town, reason, reason_of, stolen_key, town_in

NOTES = "memory:notes"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("memory") / "stack") as made:
        made.stack.start("memory")
        yield made


@pytest.fixture(scope="module")
def master(town: Town) -> Member:
    return town.master()


@pytest.fixture(scope="module")
def agent(town: Town, master: Member) -> Member:
    return town.agent(master, NOTES, "memory:big", label="writer", generation=1)


def another_device(town: Town, master: Member, agent: Member) -> Member:
    """One more device of the same agent actor."""
    device = town.device()
    add_agent(
        master.device,
        make_offer(device, master.who.operator, label="writer"),
        label="writer",
        generation=1,
        services=(NOTES,),
    )
    return Member(town=town, device=device, key=stolen_key(device), who=agent.who)


@pytest.mark.parametrize("value", [b"\x00", bytes(range(256)), b"x" * MAX_VALUE_BYTES], ids=["byte", "all", "largest"])
def test_a_memory_comes_back_byte_for_byte(agent: Member, value: bytes) -> None:
    put(agent.device, "big", value)
    assert get(agent.device, "big").value == value


def test_a_master_has_memories_of_its_own_without_a_touch(town: Town, master: Member, agent: Member) -> None:
    """The name is the same, the owner another: neither sees or overwrites what the other keeps."""
    first = put(master.device, "notes", b"the master's")
    put(agent.device, "notes", b"the agent's")
    assert put(master.device, "notes", b"the master's second").replaced == first.cap_digest
    assert get(master.device, "notes").value == b"the master's second"
    assert get(agent.device, "notes").value == b"the agent's"
    assert [name for name, _ in listed(master.device)] == ["notes"]
    for owner in (master.who.actor, agent.who.actor):
        assert (town.stack.root / "objects" / "bots" / owner.hex() / "memory" / "notes.enc").is_file()


def test_all_devices_of_one_agent_share_its_memories(town: Town, master: Member, agent: Member) -> None:
    """A sandbox that lives an hour leaves them to its successor."""
    second = another_device(town, master, agent)
    stored = put(agent.device, "notes", b"from the first")
    assert get(second.device, "notes").value == b"from the first"
    assert put(second.device, "notes", b"from the second").replaced == stored.cap_digest
    assert get(agent.device, "notes").value == b"from the second"
    revoke_device(master.device, second.key.key_hash)
    assert reason(partial(get, second.device, "notes")) == "device_revoked"
    assert get(agent.device, "notes").value == b"from the second"


def test_another_agent_has_its_own(town: Town, master: Member, agent: Member) -> None:
    other = town.agent(master, NOTES, label="other", generation=7)
    put(agent.device, "notes", b"mine")
    assert reason(partial(get, other.device, "notes")) == "object_not_found"
    put(other.device, "notes", b"also mine")
    assert get(agent.device, "notes").value == b"mine"


def test_an_agent_needs_a_grant(town: Town, master: Member, agent: Member) -> None:
    for call in (
        partial(put, agent.device, "secret", b"x"),
        partial(get, agent.device, "secret"),
        partial(remove, agent.device, "secret"),
    ):
        assert reason(call) == "service_not_in_scope"
    none = town.agent(master, label="without", generation=8)
    assert list(listed(none.device)) == []
    assert reason(partial(put, none.device, "notes", b"x")) == "service_not_in_scope"


def test_a_memory_is_deleted_by_its_actor(agent: Member) -> None:
    put(agent.device, "notes", b"x")
    assert remove(agent.device, "notes").row.content().op_kind == OpKind.MEMORY_DELETE
    assert "notes" not in dict(listed(agent.device))
    assert reason(partial(get, agent.device, "notes")) == "object_not_found"
    put(agent.device, "notes", b"anew")


def test_memories_stand_in_the_actors_own_audit_chain(agent: Member) -> None:
    put(agent.device, "notes", b"told")
    get(agent.device, "notes")
    export, verdict = export_own(agent.device)
    assert verdict.ok, verdict.lines()
    kinds = [row.content().op_kind for row in export.rows]
    assert kinds[-2:] == [OpKind.MEMORY_PUT, OpKind.MEMORY_GET]
    assert {row.content().operator_omni for row in export.rows} == {agent.who.operator}


def test_the_classes_do_not_mix(town: Town, master: Member, agent: Member) -> None:
    """Neither worker serves, and neither certificate opens, what is the other's."""
    asked = agent.asked(Op.MEMORY_GET, NOTES)
    for worker, path in (("credentials", "/v1/credentials/fetch"), ("memory", "/v1/memory/get")):
        expected = "class_mismatch" if worker == "credentials" else "ok"
        cap = agent.cap(Op.MEMORY_GET, NOTES)
        answer = town.post(worker, path, asked.http(cap))
        assert (reason_of(answer) if not answer.is_success else "ok") == expected
    signer = town.signer("credentials")
    call = partial(signer.derive_cred_kek, agent.cap(Op.MEMORY_GET, NOTES).encode(), epoch=1, salt=bytes(32))
    assert reason(call) == "class_mismatch"
    credentials.put(master.device, "notes", b"a credential")
    fetch = master.cap(Op.CRED_FETCH, "cred:notes", k11=True).encode()
    assert reason(partial(town.signer("memory").derive_cred_kek, fetch, epoch=1, salt=bytes(32))) == "class_mismatch"


def test_a_value_that_the_worker_swaps_is_noticed(town: Town, master: Member, agent: Member) -> None:
    """Another of the agent's own memories under that name, whose row is as genuine."""
    put(agent.device, "notes", b"right")
    put(agent.device, "big", b"swapped in")
    folder = town.stack.root / "objects" / "bots" / agent.who.actor.hex() / "memory"
    (folder / "notes.enc").write_bytes((folder / "big.enc").read_bytes())
    assert reason(partial(get, agent.device, "notes")) == "version_not_current"
    put(agent.device, "notes", b"right again")


def test_names_and_sizes_have_their_bounds(agent: Member) -> None:
    for value in (b"", b"x" * (MAX_VALUE_BYTES + 1)):
        with pytest.raises(DeviceError) as caught:
            put(agent.device, "notes", value)
        assert caught.value.reason is Trouble.USAGE
    with pytest.raises(KeyServiceError) as refusal:
        ask(agent.device, Op.MEMORY_GET, Service.parse("memory:list", Op.MEMORY_LIST), b"{}")
    assert refusal.value.reason is Reason.INVALID_CAP
