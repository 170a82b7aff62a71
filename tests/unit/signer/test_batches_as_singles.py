"""A batch is answered and leaves behind what the same items do one by one, in a world that differs in nothing."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentkeys_core.audit import AuditRow
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import Op
from signer.preparing import KeyRequest, RowRequest
from tests.unit.signer.batch_calls import derive, sign
from tests.unit.signer.world import CREDENTIALS, MEMORY, World, digest_of, world_in

NAME, NOTE = "cred:openrouter", "memory:travel"


def twin_of(world: World, directory: Path) -> World:
    made = World(directory)
    made.user, made.k1, made.k1_public, made.registry = world.user, world.k1, world.k1_public, world.registry
    made.service = made.make_service(made.registry)
    return made


@dataclass(slots=True)
class Pair:
    """Two worlds of one user: what the one is asked in a batch, the other is asked one by one."""

    batched: World
    single: World

    def both(self, act: Callable[[World], Any]) -> tuple[Any, Any]:
        return act(self.batched), act(self.single)


@contextmanager
def pair() -> Iterator[Pair]:
    with (
        tempfile.TemporaryDirectory() as first,
        tempfile.TemporaryDirectory() as second,
        world_in(Path(first)) as batched,
    ):
        single = twin_of(batched, Path(second))
        try:
            yield Pair(batched, single)
            single.check()
        finally:
            single.close()


def one_by_one(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    found: list[Any] = []
    for call in calls:
        try:
            found.append(call())
        except KeyServiceError as refusal:
            found.append(refusal)
    return found


def shown(outcome: Any) -> object:
    """An answer without what differs by chance: salts drawn, signatures, and the hashes over them."""
    if isinstance(outcome, KeyServiceError):
        return outcome.reason, dict(outcome.metadata), shown(outcome.row) if outcome.row else None
    row = AuditRow.parse(outcome if isinstance(outcome, bytes) else outcome.row)
    content = row.content()
    return row.seq, row.actor, content.op_kind, content.result, content.op_body.cap, content.op_body.svc


def left_behind(world: World) -> object:
    """What both worlds must have kept alike."""
    world.refusals.flush()
    lines = [(line["kind"], line["method"], line["reason"], line["count"], line["cap"]) for line in world.lines()]
    tables = [world.count(table) for table in ("caps", "objects", "salts", "heads", "rows")]
    early = sorted(line for line in lines if line[0] == "refusal")  # written when they like
    return tables, [line for line in lines if line[0] != "refusal"], early


KEY_KINDS = ("fetch", "fetch-old", "fetch-salt", "get", "store", "put", "put-expect", "store-wrong", "store-name")
BAD_CAPS = ("garbage", "unknown-device", "unsigned", "expired", "late-class", "stale", "shape")


def key_maker(world: World, twin: World) -> Callable[[str], tuple[KeyRequest, KeyRequest]]:
    """Makes the two forms of one item: the same cap, and the salts of each world."""
    stored, cap = world.store()
    first = [stored, twin.derive(cap)]
    twin.ack(cap)
    current, note_cap = world.store(NOTE, key=world.user.agent)
    notes = [current, twin.derive(note_cap)]
    twin.ack(note_cap)
    newer_cap = world.cap(Op.MEMORY_PUT, NOTE, key=world.user.agent)
    expect = digest_of(note_cap)
    newer = [made.derive(newer_cap, expect=expect) for made in (world, twin)]
    agent = world.user.agent

    def same(cap: bytes, **given: Any) -> tuple[KeyRequest, KeyRequest]:
        return KeyRequest(cap=cap, **given), KeyRequest(cap=cap, **given)

    def read(cap: bytes, of: list[Any]) -> tuple[KeyRequest, KeyRequest]:
        left, right = (KeyRequest(cap=cap, epoch=found.epoch, salt=found.salt) for found in of)
        return left, right

    def make(kind: str) -> tuple[KeyRequest, KeyRequest]:
        now = int(world.clock.now())
        makers: dict[str, Callable[[], tuple[KeyRequest, KeyRequest]]] = {
            "fetch": lambda: read(world.cap(Op.CRED_FETCH, NAME, key=agent), first),
            "fetch-salt": lambda: same(world.cap(Op.CRED_FETCH, NAME, key=agent), epoch=1, salt=bytes(32)),
            "get": lambda: read(world.cap(Op.MEMORY_GET, NOTE, key=agent), newer),  # makes it current
            "fetch-old": lambda: read(world.cap(Op.MEMORY_GET, NOTE, key=agent), notes),
            "store": lambda: same(world.cap(Op.CRED_STORE, "cred:other")),
            "store-name": lambda: same(world.cap(Op.CRED_STORE, NAME)),  # needs K11
            "store-wrong": lambda: same(world.cap(Op.CRED_STORE, NAME, touch=True), expect=bytes(32)),
            "put": lambda: same(world.cap(Op.MEMORY_PUT, "memory:food", key=agent)),
            "put-expect": lambda: same(world.cap(Op.MEMORY_PUT, NOTE, key=agent), expect=expect),
            "garbage": lambda: same(b"\xff"),
            "unknown-device": lambda: same(
                world.cap(Op.CRED_FETCH, NAME, device=bytes(32), key=agent), epoch=1, salt=bytes(32)
            ),
            "unsigned": lambda: same(
                world.signed(world.request(Op.CRED_FETCH, NAME, key=agent), device_signature=bytes(64)),
                epoch=1,
                salt=bytes(32),
            ),
            "expired": lambda: same(
                world.cap(Op.CRED_FETCH, NAME, key=agent, issued_at=now - 500, expires_at=now - 300),
                epoch=1,
                salt=bytes(32),
            ),
            "late-class": lambda: same(world.cap(Op.AUDIT_LIST, "audit:own")),
            "stale": lambda: same(world.cap(Op.CRED_FETCH, NAME, key=agent, k3_epoch=2), epoch=1, salt=bytes(32)),
            "shape": lambda: same(world.cap(Op.CRED_FETCH, NAME, key=agent), epoch=1, salt=b"short"),
        }
        return makers[kind]()

    return make


#: A kind of item, or an earlier one again by its number.
MIX = st.lists(
    st.one_of(st.sampled_from(KEY_KINDS + BAD_CAPS), st.integers(min_value=0, max_value=5)), min_size=1, max_size=10
)


def mixed(mix: Sequence[str | int], make: Callable[[str], Any]) -> list[Any]:
    made: list[Any] = []
    for entry in mix:
        if isinstance(entry, str):
            made.append(make(entry))
        elif entry < len(made):
            made.append(made[entry])
    return made


@settings(max_examples=30, deadline=None)
@given(mix=MIX, memory=st.booleans())
def test_a_batch_of_keys_is_as_one_by_one(mix: list[str | int], memory: bool) -> None:
    caller = MEMORY if memory else CREDENTIALS
    with pair() as worlds:
        items = mixed(mix, key_maker(worlds.batched, worlds.single))
        if not items:
            return
        batched = derive(worlds.batched, [left for left, _ in items], caller=caller)
        single = one_by_one(
            [
                lambda asked=right: worlds.single.service.derive_cred_kek(  # type: ignore[misc]
                    caller, asked.cap, epoch=asked.epoch, salt=asked.salt, expect=asked.expect
                )
                for _, right in items
            ]
        )
        assert [shown(outcome) for outcome in batched] == [shown(outcome) for outcome in single]
        assert left_behind(worlds.batched) == left_behind(worlds.single)


ROW_KINDS = ("store", "unacknowledged", "fetch", "fetched", "delete", "list", "overwritten", "garbage", "audit")


def cap_maker(worlds: Pair) -> Callable[[str], bytes]:
    world, twin = worlds.batched, worlds.single

    def derived(cap: bytes, **given: Any) -> bytes:
        for made in (world, twin):
            made.derive(cap, **given)
        return cap

    first = derived(world.cap(Op.CRED_STORE, NAME))
    worlds.both(lambda made: made.ack(first))
    waiting = derived(world.cap(Op.CRED_STORE, "cred:waiting"))
    rivals = [derived(world.cap(Op.CRED_STORE, "cred:rivals")) for _ in range(2)]

    def fetched() -> bytes:
        cap = world.cap(Op.CRED_FETCH, NAME)
        for made in (world, twin):
            (salt,) = made.database.reader().execute(
                "SELECT salt FROM salts WHERE store = ?", (digest_of(first),)
            ).fetchone() or (bytes(32),)
            one_by_one([lambda made=made, salt=salt: made.derive(cap, epoch=1, salt=salt)])  # type: ignore[misc]
        return cap

    def make(kind: str) -> bytes:
        makers: dict[str, Callable[[], bytes]] = {
            "store": lambda: first,
            "unacknowledged": lambda: waiting,
            "overwritten": lambda: rivals[0] if world.clock.now() % 2 else rivals[1],
            "fetch": lambda: world.cap(Op.CRED_FETCH, NAME),
            "fetched": fetched,
            "delete": lambda: world.cap(Op.CRED_DELETE, NAME),
            "list": lambda: world.cap(Op.CRED_LIST, "cred:list"),
            "garbage": lambda: b"{}",
            "audit": lambda: world.cap(Op.AUDIT_LIST, "audit:own"),
        }
        return makers[kind]()

    return make


@settings(max_examples=30, deadline=None)
@given(mix=st.lists(st.tuples(st.sampled_from(ROW_KINDS), st.integers(0, 3), st.booleans()), min_size=1, max_size=10))
def test_a_batch_of_rows_is_as_one_by_one(mix: list[tuple[str, int, bool]]) -> None:
    with pair() as worlds:
        make = cap_maker(worlds)
        items: list[RowRequest] = []
        for kind, result, again in mix:
            cap = items[-1].cap if again and items else make(kind)
            items.append(RowRequest(cap=cap, result=result))
        batched = sign(worlds.batched, items)
        single = one_by_one(
            [
                lambda asked=asked: worlds.single.service.sign_audit_row(CREDENTIALS, asked.cap, asked.result)  # type: ignore[misc]
                for asked in items
            ]
        )
        assert [shown(outcome) for outcome in batched] == [shown(outcome) for outcome in single]
        assert left_behind(worlds.batched) == left_behind(worlds.single)
