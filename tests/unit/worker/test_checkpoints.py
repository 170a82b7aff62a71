"""The audit worker's tree: caught up, signed, proven from; and nothing published that does not fit what was seen."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.checkpoint import Checkpoint, merkle_root
from agentkeys_core.encoding import hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.merkle import check_consistency, check_inclusion, root_of
from agentkeys_core.ops import Op
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.web.app import create_app
from tests.fakes.app_client import AppClient
from tests.unit.core.refusal import refused
from tests.unit.signer.world import AUDIT, REGISTRY_ID, World, world_in
from worker import checkpoints
from worker.adapters.tree_sqlite import SqliteTree
from worker.checkpoints import Notary, Periodic
from worker.ports import HashPage
from worker.web.checkpoint_routes import checkpoint_endpoints


class InProcessSigner:
    """The real signer's use cases without the port between; `bend` may change what it says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bend: Any = lambda found: found
        self.lose = False

    def row_hashes(self, *, after: int, limit: int) -> HashPage:
        found = self.world.service.get_row_hashes(AUDIT, after=after, limit=limit)
        page = HashPage(hashes=found.hashes, total=found.total, checkpoint_size=found.checkpoint_size)
        bent: HashPage = self.bend(page)
        return bent

    def sign_checkpoint(self, *, size: int, root: bytes, proof: Sequence[bytes]) -> bytes:
        note = self.world.service.sign_checkpoint(AUDIT, size=size, root=root, proof=proof)
        if self.lose:
            raise KeyServiceError(Reason.SIGNER_UNREACHABLE)
        return note


class Deployment:
    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.signer = InProcessSigner(world)
        self.tree = SqliteTree(folder / "tree")
        self.notary = Notary(signer=self.signer, tree=self.tree, registry_id=REGISTRY_ID)
        self.client = AppClient(create_app("test", checkpoint_endpoints(self.notary)))

    def add_rows(self, count: int) -> None:
        for _ in range(count):
            self.world.derive(self.world.cap(Op.CRED_STORE, f"cred:n{self.world.count('rows')}"))

    def rows(self) -> list[bytes]:
        return list(self.world.service.get_row_hashes(AUDIT, after=0, limit=8192).hashes)

    def verified(self) -> Checkpoint:
        return Checkpoint.verify(self.notary.latest(), REGISTRY_ID, self.world.audit_keys().values())

    def close(self) -> None:
        self.client.close()
        self.tree.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    with world_in(tmp_path) as world:
        deployment = Deployment(world, tmp_path)
        try:
            yield deployment
        finally:
            deployment.close()


def test_each_step_covers_all_rows_so_far(made: Deployment) -> None:
    assert made.notary.step() == 0
    with refused("not_found"):
        made.notary.latest()
    for count in (1, 4, 3):
        made.add_rows(count)
        size = made.notary.step()
        assert (made.verified().size, made.verified().root) == (size, merkle_root(made.rows()))
    assert made.notary.step() == 8


def test_pages_and_steps_are_bounded(made: Deployment, monkeypatch: Any) -> None:
    monkeypatch.setattr(checkpoints, "PAGE", 2)
    monkeypatch.setattr(checkpoints, "MAX_STEP", 3)
    made.add_rows(7)
    assert [made.notary.step() for _ in range(4)] == [3, 6, 7, 7]


def test_an_answer_that_got_lost_is_given_again(made: Deployment) -> None:
    made.add_rows(3)
    made.signer.lose = True
    with refused("signer_unreachable"):
        made.notary.step()
    made.signer.lose = False
    assert made.notary.step() == 3
    assert made.verified().size == 3


def test_a_lost_tree_is_built_again(made: Deployment) -> None:
    """The proof goes on from the signer's last checkpoint, wherever this one's memory ended."""
    made.add_rows(3)
    made.notary.step()
    made.add_rows(2)
    tree = SqliteTree(made.folder / "new")
    try:
        again = Notary(signer=made.signer, tree=tree, registry_id=REGISTRY_ID)
        assert again.step() == 5
        assert again.consistency(3, 5) == made_consistency(made, 3, 5)
    finally:
        tree.close()


def made_consistency(made: Deployment, old: int, new: int) -> list[bytes]:
    made.notary.step()
    return made.notary.consistency(old, new)


@pytest.mark.parametrize("total", [0, 2])
def test_a_signer_that_lost_rows_gets_nothing_published(made: Deployment, total: int) -> None:
    made.add_rows(3)
    made.notary.step()
    before = made.notary.latest()
    made.signer.bend = lambda _: HashPage(hashes=(), total=total, checkpoint_size=total)
    with refused("registry_rolled_back"):
        made.notary.step()
    assert made.notary.latest() == before


def test_a_signer_that_hides_rows_is_noticed(made: Deployment) -> None:
    made.add_rows(3)
    made.signer.bend = lambda page: HashPage(hashes=(), total=page.total, checkpoint_size=0)
    with refused("registry_rolled_back"):
        made.notary.step()


def test_rows_that_are_not_the_signers_get_no_checkpoint(made: Deployment) -> None:
    made.add_rows(3)
    made.signer.bend = lambda page: HashPage(
        hashes=(b"x" * 32, *page.hashes[1:]), total=page.total, checkpoint_size=page.checkpoint_size
    )
    with refused("invalid_body"):
        made.notary.step()
    with refused("not_found"):
        made.notary.latest()


def test_another_checkpoint_than_asked_is_not_kept(made: Deployment, monkeypatch: Any) -> None:
    made.add_rows(3)
    monkeypatch.setattr(made.signer, "sign_checkpoint", lambda **_: b"another/audit\n3\n")
    with refused("internal"):
        made.notary.step()
    with refused("not_found"):
        made.notary.latest()


def test_half_a_page_is_never_kept(made: Deployment) -> None:
    made.tree.extend([b"a" * 32, b"b" * 32])
    with refused("object_store_unavailable"):
        made.tree.extend([b"c" * 32, b"a" * 32])  # a row twice
    assert made.tree.size() == 2
    made.tree.extend([b"c" * 32])
    assert root_of(made.tree.node, 3) == merkle_root([b"a" * 32, b"b" * 32, b"c" * 32])


def test_a_file_that_is_no_tree_is_named(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "tree.db").write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="tree"):
        SqliteTree(tmp_path / "tree")
    with pytest.raises(ConfigError):
        SqliteTree(tmp_path / "absent" / "tree")


def test_a_tree_that_cannot_be_read_is_a_reason(made: Deployment) -> None:
    with sqlite3.connect(made.folder / "tree" / "tree.db") as conn:
        conn.execute("DROP TABLE leaves")
    with refused("object_store_unavailable"):
        made.tree.position_of(bytes(32))


# Over HTTP.


def test_whoever_asks_gets_the_note_and_its_proofs(made: Deployment) -> None:
    assert made.client.get("/v1/audit/checkpoint").json()["reason"] == "not_found"
    made.add_rows(3)
    made.notary.step()
    first = made.verified()
    made.add_rows(4)
    made.notary.step()
    told = made.client.get("/v1/audit/checkpoint").json()["checkpoint"]
    latest = Checkpoint.verify(told.encode(), REGISTRY_ID, made.world.audit_keys().values())
    proof = made.client.get("/v1/audit/consistency/3/7").json()["proof"]
    check_consistency(3, 7, first.root, latest.root, [hex_decode(part, length=32) for part in proof])
    rows = made.rows()
    asked = {"rows": [row.hex() for row in (*rows, bytes(32))], "size": 7}
    proofs = made.client.post("/v1/audit/inclusion", json=asked).json()["proofs"]
    for index, (row, place) in enumerate(zip(rows, proofs[:-1], strict=True)):
        assert place["index"] == index
        check_inclusion(row, index, 7, [hex_decode(part, length=32) for part in place["proof"]], latest.root)
    assert proofs[-1] is None
    early = made.client.post("/v1/audit/inclusion", json={"rows": [rows[5].hex()], "size": 3}).json()
    assert early == {"proofs": [None]}


@pytest.mark.parametrize("path", ["0/3", "4/3", "1/4", "x/3", "1/-3", "1/" + "9" * 30, "1/٣"])
def test_sizes_that_make_no_sense_are_refused(made: Deployment, path: str) -> None:
    made.add_rows(3)
    made.notary.step()
    assert made.client.get(f"/v1/audit/consistency/{path}").json()["reason"] == "invalid_body"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rows": []},
        {"rows": [], "size": 0},
        {"rows": ["ab" * 32], "size": 4},
        {"rows": ["x"], "size": 3},
        {"rows": ["ab" * 31], "size": 3},
        {"rows": ["ab" * 32] * 501, "size": 3},
        {"rows": "ab" * 32, "size": 3},
        {"rows": [], "size": True},
    ],
)
def test_questions_that_make_no_sense_are_refused(made: Deployment, body: Any) -> None:
    made.add_rows(3)
    made.notary.step()
    assert made.client.post("/v1/audit/inclusion", json=body).json()["reason"] == "invalid_body"
    assert made.client.post("/v1/audit/inclusion", json={"rows": [], "size": 3}).json() == {"proofs": []}


# By itself.


def test_it_goes_on_by_itself_whatever_fails_in_between() -> None:
    stepped = threading.Semaphore(0)

    class Failing:
        count = 0

        def step(self) -> int:
            self.count += 1
            stepped.release()
            if self.count == 1:
                raise KeyServiceError(Reason.SIGNER_UNREACHABLE)
            if self.count == 2:
                raise ValueError
            return 0

    notary: Any = Failing()
    periodic = Periodic(notary, 0.01)
    periodic.start()
    for _ in range(4):
        assert stepped.acquire(timeout=10)
    periodic.close()
