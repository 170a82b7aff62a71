"""Names come from the signer's own inventory, and audit rows as they were signed."""

import pytest

from agentkeys_core.audit import AuditRow, OpKind, verify_chain
from agentkeys_core.bodies import AuditListBody, ListBody, request_hash
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from signer import listings
from tests.unit.core.refusal import refused
from tests.unit.signer.world import AUDIT, CREDENTIALS, User, World, digest_of, world_in


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


@pytest.fixture
def stores(world):
    return {name: world.store(f"cred:{name}") for name in ("b", "openrouter", "a", "c0")}


def names(page) -> list[str]:
    return [entry.name for entry in page.names]


def test_a_master_sees_all_names_in_order_with_their_stores(world, stores):
    page = world.names()
    assert names(page) == ["a", "b", "c0", "openrouter"]
    assert {entry.name: entry.store for entry in page.names} == {
        name: digest_of(cap) for name, (_, cap) in stores.items()
    }
    assert page.next is None


def test_a_list_is_recorded(world, stores):
    row = AuditRow.parse(world.names().row)
    content = row.verify(world.audit_keys())
    assert (content.op_kind, content.op_body.svc) == (OpKind.CRED_LIST, "cred:list")
    assert AuditRow.parse(world.names(prefix="memory").row).verify(world.audit_keys()).op_kind == OpKind.MEMORY_LIST


def test_an_agent_sees_what_its_scope_grants(world, stores):
    assert names(world.names(key=world.user.agent)) == ["openrouter"]
    scopes = {world.user.agent_actor: frozenset({"cred:a", "cred:c0", "cred:none", "memory:b"})}
    world.registry.bend_operator(world.user.operator, scopes=scopes)
    assert names(world.names(key=world.user.agent)) == ["a", "c0"]
    assert names(world.names(key=world.user.agent, limit=1)) == ["a"]
    assert world.names(key=world.user.agent, limit=1).next == "a"
    assert names(world.names(key=world.user.agent, after="a")) == ["c0"]
    world.registry.bend_operator(world.user.operator, scopes={})
    assert names(world.names(key=world.user.agent)) == []


def test_an_agents_memories_are_its_own(world):
    world.store("memory:travel", key=world.user.agent)
    world.store("memory:food")
    assert names(world.names(prefix="memory", key=world.user.agent)) == ["travel"]
    assert names(world.names(prefix="memory")) == ["food"]


def test_pages_follow_each_other(world, stores):
    seen, after = [], None
    for _ in range(10):
        page = world.names(after=after, limit=2)
        seen += names(page)
        after = page.next
        if after is None:
            break
    assert seen == ["a", "b", "c0", "openrouter"]
    assert names(world.names(after="zz")) == []
    assert world.names(limit=4).next is None


def test_only_current_stores_are_listed(world, stores):
    world.derive(world.cap(Op.CRED_STORE, "cred:pending"))
    world.ack(world.cap(Op.CRED_DELETE, "cred:a"))
    assert names(world.names()) == ["b", "c0", "openrouter"]


def test_another_users_names_are_not_there(world, stores):
    world.user = User(b"\x77" * 20)
    world.registry.put(world.user.state())
    assert names(world.names()) == []


@pytest.mark.parametrize(
    ("after", "limit", "signed", "reason"),
    [
        (None, 5, (None, 5), "ok"),
        ("a", 5, ("a", 5), "ok"),
        (None, 6, (None, 5), "invalid_body"),
        ("b", 5, ("a", 5), "invalid_body"),
        (None, 0, (None, 0), "invalid_body"),
        (None, 1001, (None, 1001), "invalid_body"),
    ],
)
def test_a_page_is_what_the_request_commits_to(world, after, limit, signed, reason):
    body = ListBody(after=signed[0], limit=signed[1]).encode()
    cap = world.cap(Op.CRED_LIST, "cred:list", request_hash=request_hash(body))
    with refused(reason):
        world.service.list_objects(CREDENTIALS, cap, after=after, limit=limit)
    numbers = (None if signed[0] is None else 7, signed[1])
    body = AuditListBody(after=numbers[0], limit=numbers[1]).encode()
    cap = world.cap(Op.AUDIT_LIST, "audit:own", request_hash=request_hash(body))
    with refused(reason):
        world.service.get_audit_rows(AUDIT, cap, after=None if after is None else ord(after) - 90, limit=limit)


def test_lists_are_for_list_caps_of_the_callers_class(world):
    with refused("invalid_cap"):
        world.service.list_objects(CREDENTIALS, world.cap(Op.CRED_FETCH, "cred:a"), after=None, limit=1)
    with refused("class_mismatch"):
        world.service.list_objects(AUDIT, world.cap(Op.CRED_LIST, "cred:list"), after=None, limit=1)
    with refused("class_mismatch"):
        world.service.get_audit_rows(CREDENTIALS, world.cap(Op.AUDIT_LIST, "audit:own"), after=None, limit=1)


def test_lists_go_through_the_whole_order(world):
    world.registry.bend_operator(world.user.operator, frozen=True)
    with refused("operator_frozen"):
        world.names()
    with refused("operator_frozen"):
        world.audit()
    world.registry.failing = Reason.REGISTRY_UNREACHABLE
    with refused("registry_unreachable"):
        world.names()


def test_an_actor_reads_its_own_chain(world, stores):
    stored, _ = stores["openrouter"]
    world.fetch(stored, key=world.user.agent)
    world.fetch(stored, key=world.user.agent)
    own = [AuditRow.parse(row) for row in world.audit(key=world.user.agent).rows]
    assert [row.seq for row in own] == [0, 1]
    assert verify_chain(own, world.audit_keys()).ok
    masters = [AuditRow.parse(row) for row in world.audit().rows]
    assert {row.actor for row in masters} == {world.user.operator}
    assert len(masters) == 4


def test_reading_rows_leaves_a_line_and_no_row(world, stores):
    rows, lines = world.count("rows"), world.count("journal")
    world.audit()
    assert (world.count("rows"), world.count("journal")) == (rows, lines + 1)
    assert world.lines()[-1]["method"] == "GetAuditRows"


def test_a_master_reads_the_whole_tree_and_an_agent_does_not(world, stores):
    stored, _ = stores["openrouter"]
    world.fetch(stored, key=world.user.agent)
    victim, world.user = world.user, User(b"\x77" * 20)
    world.registry.put(world.user.state())
    world.store()
    world.user = victim
    rows = [AuditRow.parse(row) for row in world.audit("audit:tree").rows]
    assert {row.actor for row in rows} == {victim.operator, victim.agent_actor}
    assert len(rows) == 5
    with refused("device_role_missing"):
        world.audit("audit:tree", key=victim.agent)


@pytest.mark.parametrize("service", ["audit:own", "audit:tree"])
def test_audit_pages_follow_each_other(world, stores, service):
    seen, after = [], None
    for _ in range(10):
        page = world.audit(service, after=after, limit=3)
        seen += page.rows
        after = page.next
        if after is None:
            break
    assert seen == list(world.audit(service).rows)
    assert len(seen) == 4


def test_a_page_of_rows_fits_the_answer(world, stores, monkeypatch):
    monkeypatch.setattr(listings, "PAGE_BYTES", 2000)
    page = world.audit()
    assert len(page.rows) == 2
    assert page.next == 1
    monkeypatch.setattr(listings, "PAGE_BYTES", 10)  # one row always goes, so that a reader gets on
    assert len(world.audit().rows) == 1


def test_the_journal_must_take_a_read_of_rows(world: World, stores):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with refused("journal_unavailable"):
            world.audit()
        with refused("journal_unavailable"):
            world.names()
        other.execute("ROLLBACK")
