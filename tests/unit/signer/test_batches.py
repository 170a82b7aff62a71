"""An item of a batch is answered as the single call would be, in its place; the others and the commit are shared."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.audit import AuditRow
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op, WorkerClass
from agentkeys_core.proof import k10_digest
from signer.batches import MAX_BATCH_BYTES, MAX_ITEM_BYTES, MAX_ITEMS
from signer.limits import Rate
from signer.preparing import KeyRequest, RowRequest
from signer.verification import K10Question
from tests.unit.core.refusal import refused
from tests.unit.signer.batch_calls import batch_of, derive, reasons, sign
from tests.unit.signer.world import AUDIT, CREDENTIALS, World, digest_of, world_in

NAME, NOTE = "cred:openrouter", "memory:travel"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as made:
        yield made


def commits(world: World) -> list[int]:
    """Units in each commit from now on."""
    found: list[int] = []
    commit = world.committer._commit

    def counted(jobs: Any) -> None:
        found.append(sum(len(job.units) for job in jobs))
        commit(jobs)

    world.committer._commit = counted  # type: ignore[method-assign]
    return found


def reads(world: World, count: int) -> list[KeyRequest]:
    stored, _ = world.store()
    key = world.user.agent
    return [
        KeyRequest(cap=world.cap(Op.CRED_FETCH, NAME, key=key), epoch=stored.epoch, salt=stored.salt)
        for _ in range(count)
    ]


def test_many_keys_by_one_commit_in_order(world: World) -> None:
    items = reads(world, 40)
    seen = commits(world)
    outcomes = derive(world, items)
    assert seen == [40]
    caps = [AuditRow.parse(outcome.row).content().op_body.cap for outcome in outcomes]
    assert caps == [digest_of(item.cap) for item in items]
    assert [AuditRow.parse(outcome.row).seq for outcome in outcomes] == list(range(40))
    methods = [line["method"] for line in world.lines() if line["kind"] == "release"]
    assert methods[-40:] == ["DeriveCredKek"] * 40


def test_a_bad_item_spoils_no_other(world: World) -> None:
    items = reads(world, 4)
    items[1] = KeyRequest(cap=b"{}", epoch=1, salt=bytes(32))
    items[2] = KeyRequest(cap=items[2].cap, epoch=1, salt=bytes(32))
    assert reasons(derive(world, items)) == [None, "invalid_cap", "version_not_current", None]


def test_the_same_store_twice_in_one_batch_is_done_once(world: World) -> None:
    cap = world.cap(Op.CRED_STORE, NAME)
    seen = commits(world)
    assert reasons(derive(world, [KeyRequest(cap=cap)] * 3)) == [None, "cap_replayed", "cap_replayed"]
    assert seen == [3]
    assert world.count("salts") == 1


def test_the_replay_of_an_acknowledged_store_carries_its_row(world: World) -> None:
    _, cap = world.store()
    (outcome,) = derive(world, [KeyRequest(cap=cap)])
    assert outcome.reason is Reason.CAP_REPLAYED
    assert AuditRow.parse(outcome.row).content().op_body.cap == digest_of(cap)


def test_the_same_delete_twice_in_one_batch_has_one_row(world: World) -> None:
    world.store()
    cap = world.cap(Op.CRED_DELETE, NAME)
    first, again, other = sign(world, [RowRequest(cap=cap, result=result) for result in (0, 0, 1)])
    assert first == again
    assert (other.reason, other.row) == (Reason.CAP_REPLAYED, first)
    assert world.count("rows") == 2


def test_the_first_outcome_of_a_cap_stands_for_the_rest_of_its_batch(world: World) -> None:
    cap = world.cap(Op.CRED_STORE, NAME)  # nothing was released for it: only a failure can be recorded
    first, again, claimed = sign(world, [RowRequest(cap=cap, result=result) for result in (1, 1, 0)])
    assert first == again
    assert (claimed.reason, claimed.row) == (Reason.CAP_REPLAYED, first)


def test_acknowledgements_share_one_commit(world: World) -> None:
    caps = [world.cap(Op.CRED_STORE, f"cred:n{number}") for number in range(20)]
    derive(world, [KeyRequest(cap=cap) for cap in caps])
    seen = commits(world)
    outcomes = sign(world, [RowRequest(cap=cap, result=0) for cap in caps])
    assert reasons(outcomes) == [None] * 20
    assert seen == [20]
    assert len(world.names().names) == 20


def test_where_the_commit_fails_no_item_is_released(world: World) -> None:
    items = reads(world, 5)
    before = world.dump()
    with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        items.append(KeyRequest(cap=b"{}"))
        assert reasons(derive(world, items)) == ["journal_unavailable"] * 5 + ["invalid_cap"]
        other.execute("ROLLBACK")
    assert world.dump() == before
    assert reasons(derive(world, items[:5])) == [None] * 5


def test_each_item_is_charged(world: World) -> None:
    items = reads(world, 5)
    world.service = world.make_service(world.registry, certificate=Rate(per_s=1e-9, burst=3))
    assert reasons(derive(world, items)) == [None] * 3 + ["rate_limited"] * 2
    assert reasons(derive(world, items)) == ["rate_limited"] * 5


def test_each_item_is_charged_to_its_device(tmp_path: Path) -> None:
    with world_in(tmp_path, device=Rate(per_s=1e-9, burst=3)) as world:
        items = reads(world, 4)
        assert reasons(derive(world, items)) == [None] * 3 + ["rate_limited"]


def test_items_beyond_the_room_are_refused_and_charged_to_nobody(world: World) -> None:
    items = reads(world, 5)
    world.service = world.make_service(world.registry, certificate=Rate(per_s=1e-9, burst=5))
    assert reasons(derive(world, items, room=2)) == [None, None] + ["overloaded"] * 3
    assert reasons(derive(world, items)) == [None] * 3 + ["rate_limited"] * 2


def test_an_item_too_large_is_refused_alone(world: World) -> None:
    sizes = [MAX_ITEM_BYTES, MAX_ITEM_BYTES + 1]
    assert reasons(derive(world, reads(world, 2), sizes=sizes)) == [None, "too_large"]


@pytest.mark.parametrize(
    ("count", "sizes", "reason"),
    [
        (0, [], Reason.INVALID_ENCODING),
        (MAX_ITEMS + 1, [1] * (MAX_ITEMS + 1), Reason.TOO_LARGE),
        (20, [MAX_ITEM_BYTES] * 16 + [1, 0, 0, 0], Reason.TOO_LARGE),
    ],
)
def test_a_batch_of_another_shape_is_refused_whole(world: World, count: int, sizes: list[int], reason: Reason) -> None:
    item = reads(world, 1)[0]
    world.service = world.make_service(world.registry, certificate=Rate(per_s=1e-9, burst=1))
    assert sum(sizes) in (0, count, MAX_BATCH_BYTES + 1)
    with refused(reason):
        derive(world, [item] * count, sizes=sizes)
    with refused(Reason.RATE_LIMITED):  # it cost its caller one call
        derive(world, [], sizes=[])
    world.refusals.flush()
    counted = {(line["method"], line["reason"]) for line in world.lines() if line["kind"] == "refusal"}
    assert counted == {("DeriveCredKekBatch", reason.value), ("DeriveCredKekBatch", "rate_limited")}


def test_a_batch_at_its_borders_is_served(world: World) -> None:
    items = reads(world, 1) * MAX_ITEMS
    assert reasons(derive(world, items, sizes=[MAX_ITEM_BYTES] * 16 + [0] * 240)) == [None] * MAX_ITEMS


def test_every_refused_item_is_recorded(world: World) -> None:
    items = reads(world, 2)
    items[0] = KeyRequest(cap=items[0].cap, epoch=1, salt=bytes(32))
    derive(world, [KeyRequest(cap=b"{}"), KeyRequest(cap=b"{}"), *items])
    world.refusals.flush()
    found = [(line["method"], line["reason"], line["count"]) for line in world.lines() if line["kind"] == "refusal"]
    assert sorted(found) == [("DeriveCredKek", "invalid_cap", 2), ("DeriveCredKek", "version_not_current", 1)]


class Breaking:
    """A registry that fails for the n-th device that it is asked for."""

    def __init__(self, world: World, at: int) -> None:
        self._registry, self._left = world.registry, at
        self.status = world.registry.status

    def lookup_device(self, key_hash: bytes) -> Any:
        self._left -= 1
        if self._left == 0:
            raise ZeroDivisionError
        return self._registry.lookup_device(key_hash)


def test_a_fault_of_ours_is_internal_and_its_own(world: World) -> None:
    items = reads(world, 3)
    world.service = world.make_service(Breaking(world, 2))  # type: ignore[arg-type]
    assert reasons(derive(world, items)) == [None, "internal", None]
    world.refusals.flush()
    assert not [line for line in world.lines() if line["kind"] == "refusal"]


def test_a_unit_that_breaks_is_internal_and_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    items = reads(world, 3)
    salt = items[0].salt
    object_key = world.keyring.object_key
    seen: list[bytes] = []

    def breaking(*args: Any) -> Any:
        seen.append(salt)
        return object_key(*args) if len(seen) != 2 else 1 / 0

    monkeypatch.setattr(type(world.keyring), "object_key", lambda _self, *args: breaking(*args))
    assert reasons(derive(world, items)) == [None, "internal", None]
    assert world.count("rows") == 3


class Slow:
    """A registry that takes its time over each device."""

    def __init__(self, world: World, *, each_s: float) -> None:
        self._world, self._each_s = world, each_s
        self.status = world.registry.status

    def lookup_device(self, key_hash: bytes) -> Any:
        self._world.clock.at += self._each_s
        return self._world.registry.lookup_device(key_hash)


def test_a_slow_batch_is_committed_on_the_way(world: World) -> None:
    """An admission of half a second ago is refused by the unit; a batch as a whole may take longer than that."""
    items = reads(world, 12)
    world.service = world.make_service(Slow(world, each_s=0.15))  # type: ignore[arg-type]
    seen = commits(world)
    assert reasons(derive(world, items)) == [None] * 12
    assert len(seen) > 1
    assert sum(seen) == 12


def test_a_clock_behind_answers_no_item(world: World) -> None:
    items = reads(world, 2)
    world.clock.at -= 61
    assert reasons(derive(world, items)) == ["clock_behind"] * 2


def question(world: World, payload: bytes, **changed: Any) -> K10Question:
    key = world.user.agent
    members: dict[str, Any] = {
        "public_key": key.public_key,
        "payload": payload,
        "signature": key.sign(k10_digest("cap", payload)),
        "scheme": 1,
        "purpose": "cap",
    }
    return K10Question(**(members | changed))


def test_signatures_are_verified_each_by_itself(world: World) -> None:
    good, bad = question(world, b"a"), question(world, b"b", signature=bytes(64))
    malformed = question(world, b"c", signature=b"short")
    found: list[Any] = world.service.verify_k10_sig_batch(CREDENTIALS, batch_of([good, malformed, bad, good], room=4))
    assert reasons(found) == [None, "invalid_encoding", None, None]
    assert [found[index].valid for index in (0, 2, 3)] == [True, False, True]
    assert found[0].binding == world.user.agent.key_hash


def test_verdicts_are_charged_and_bounded_like_the_rest(world: World) -> None:
    world.service = world.make_service(world.registry, certificate=Rate(per_s=1e-9, burst=2))
    items = [question(world, b"a")] * 4
    found = world.service.verify_k10_sig_batch(CREDENTIALS, batch_of(items, room=3))
    assert reasons(found) == [None, None, "rate_limited", "overloaded"]
    with refused(Reason.RATE_LIMITED):
        world.service.verify_k10_sig_batch(CREDENTIALS, batch_of([]))


def test_a_clock_behind_answers_no_verdict(world: World) -> None:
    reads(world, 1)
    world.clock.at -= 61
    assert reasons(world.service.verify_k10_sig_batch(CREDENTIALS, batch_of([question(world, b"a")]))) == [
        "clock_behind"
    ]


def test_the_class_is_each_items_own(world: World) -> None:
    assert AUDIT.worker_class is WorkerClass.AUDIT
    assert reasons(derive(world, reads(world, 2), caller=AUDIT)) == ["class_mismatch"] * 2
