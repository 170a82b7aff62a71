"""`SignCheckpoint` and `GetRowHashes`: one tree over all rows, and one history of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.audit import AuditRow
from agentkeys_core.checkpoint import Checkpoint, leaf_hash, merkle_root, node_hash
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.merkle import Nodes, check_inclusion, consistency_proof, inclusion_proof
from agentkeys_core.ops import Op
from signer import checkpoints
from tests.unit.core.refusal import refused
from tests.unit.signer.world import AUDIT, CREDENTIALS, MEMORY, REGISTRY_ID, Between, World, world_in


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


def add_rows(world: World, count: int) -> None:
    for number in range(count):
        world.derive(world.cap(Op.CRED_STORE, f"cred:name{number}-{world.count('rows')}"))


def leaves(world: World) -> list[bytes]:
    found = world.service.get_row_hashes(AUDIT, after=0, limit=8192)
    assert found.total == len(found.hashes)
    return list(found.hashes)


def nodes_of(rows: list[bytes]) -> Nodes:
    def node(level: int, index: int) -> bytes:
        if level == 0:
            return leaf_hash(rows[index])
        return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    return node


def sign(world: World, size: int, *, after: int = 0, root: bytes | None = None, proof=None) -> bytes:
    rows = leaves(world)
    if proof is None:
        proof = consistency_proof(nodes_of(rows), after, size) if after else []
    return world.service.sign_checkpoint(AUDIT, size=size, root=root or merkle_root(rows[:size]), proof=tuple(proof))


def verified(world: World, note: bytes) -> Checkpoint:
    return Checkpoint.verify(note, REGISTRY_ID, world.audit_keys().values())


def test_the_hashes_are_those_of_all_rows_in_order(world):
    add_rows(world, 3)
    world.names(key=world.user.agent)
    kept = [AuditRow.parse(row).row_hash for (row,) in world.database.reader().execute("SELECT row FROM rows")]
    assert leaves(world) == kept
    page = world.service.get_row_hashes(AUDIT, after=1, limit=2)
    assert (list(page.hashes), page.total, page.checkpoint_size) == (kept[1:3], 4, 0)
    for beyond in (4, 5, 2**64 - 1):
        assert world.service.get_row_hashes(AUDIT, after=beyond, limit=2).hashes == ()


def test_a_checkpoint_covers_every_row(world):
    add_rows(world, 5)
    checkpoint = verified(world, sign(world, 5))
    rows = leaves(world)
    assert (checkpoint.size, checkpoint.root) == (5, merkle_root(rows))
    for index, row in enumerate(rows):
        check_inclusion(row, index, 5, inclusion_proof(nodes_of(rows), index, 5), checkpoint.root)
    (line,) = [line for line in world.lines() if line["method"] == "SignCheckpoint"]
    assert (line["kind"], line["reason"]) == ("release", f"5 rows, root {checkpoint.root.hex()}")


def test_each_goes_on_from_the_last(world):
    add_rows(world, 3)
    sign(world, 3)
    add_rows(world, 4)
    assert world.service.get_row_hashes(AUDIT, after=0, limit=1).checkpoint_size == 3
    assert verified(world, sign(world, 5, after=3)).size == 5
    assert verified(world, sign(world, 7, after=5)).size == 7


def test_it_survives_a_restart(world, tmp_path):
    add_rows(world, 3)
    note = sign(world, 3)
    world.close()
    again = World(tmp_path)
    try:
        assert sign(again, 3) == note
        add_rows(again, 2)
        assert verified(again, sign(again, 5, after=3)).size == 5
    finally:
        again.close()


def test_the_same_again_is_the_same_note(world):
    add_rows(world, 3)
    note = sign(world, 3)
    lines = world.count("journal")
    assert sign(world, 3) == note
    assert world.count("journal") == lines


def test_never_two_roots_of_one_size(world):
    add_rows(world, 3)
    note = sign(world, 3)
    with refused("invalid_body"):
        sign(world, 3, root=b"x" * 32)
    assert sign(world, 3) == note


@pytest.mark.parametrize("size", [0, 1, 2, 6, 2**53, 2**64 - 1])
def test_only_sizes_from_the_last_to_the_rows_there_are(world, size):
    add_rows(world, 5)
    sign(world, 3)
    with refused("invalid_body"):
        sign(world, size, root=b"x" * 32, proof=[])


def test_a_root_of_other_rows_is_not_signed(world):
    """Also where the proof is right for it: the signer counts its own rows."""
    add_rows(world, 4)
    with refused("invalid_body"):
        sign(world, 4, root=merkle_root([b"x" * 32, *leaves(world)[1:]]))
    sign(world, 2)
    planted = [*leaves(world)[:2], b"x" * 32, b"y" * 32]
    with refused("invalid_body"):
        sign(world, 4, root=merkle_root(planted), proof=consistency_proof(nodes_of(planted), 2, 4))


def test_a_proof_that_does_not_hold_is_refused(world):
    add_rows(world, 6)
    with refused("invalid_body"):
        sign(world, 3, proof=[bytes(32)])
    sign(world, 3)
    right = consistency_proof(nodes_of(leaves(world)), 3, 6)
    for proof in ([], right[:-1], [*right, bytes(32)], [bytes(32), *right[1:]]):
        with refused("invalid_body"):
            sign(world, 6, proof=proof)
    sign(world, 6, proof=right)


def test_another_checkpoint_in_between_is_noticed(world):
    add_rows(world, 5)
    sign(world, 2)
    rows = leaves(world)
    proof = tuple(consistency_proof(nodes_of(rows), 2, 5))
    plain = world.service

    def overtake():
        plain.sign_checkpoint(
            AUDIT, size=4, root=merkle_root(rows[:4]), proof=tuple(consistency_proof(nodes_of(rows), 2, 4))
        )

    slow = world.make_service(world.registry, journalist=Between(world, overtake))
    with refused("invalid_body"):
        slow.sign_checkpoint(AUDIT, size=5, root=merkle_root(rows), proof=proof)
    assert verified(world, sign(world, 5, after=4)).size == 5


def test_too_many_rows_at_once_are_refused(world, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_STEP", 2)
    add_rows(world, 5)
    with refused("too_large"):
        sign(world, 3)
    sign(world, 2)
    sign(world, 4, after=2)


def test_a_later_epoch_signs_on(world):
    add_rows(world, 2)
    first = sign(world, 2)
    world.advance()
    add_rows(world, 1)
    second = sign(world, 3, after=2)
    assert verified(world, second).size == 3
    keys = world.keyring.public_key("audit", 1), world.keyring.public_key("audit", 2)
    assert Checkpoint.verify(first, REGISTRY_ID, keys[:1]).size == 2
    assert Checkpoint.verify(second, REGISTRY_ID, keys[1:]).size == 3


@pytest.mark.parametrize("caller", [CREDENTIALS, MEMORY])
def test_only_the_audit_worker(world, caller):
    add_rows(world, 1)
    with refused("class_mismatch"):
        world.service.get_row_hashes(caller, after=0, limit=1)
    with refused("class_mismatch"):
        world.service.sign_checkpoint(caller, size=1, root=merkle_root(leaves(world)), proof=())


@pytest.mark.parametrize("limit", [0, 8193, 2**31])
def test_pages_of_hashes_have_their_bound(world, limit):
    with refused("invalid_body"):
        world.service.get_row_hashes(AUDIT, after=0, limit=limit)


@pytest.mark.parametrize(
    ("root", "proof"),
    [(b"", ()), (b"x" * 31, ()), (b"x" * 33, ()), (bytes(32), (b"x",)), (bytes(32), (bytes(32),) * 65)],
)
def test_hashes_have_their_length(world, root, proof):
    add_rows(world, 1)
    with refused("invalid_encoding"):
        world.service.sign_checkpoint(AUDIT, size=1, root=root, proof=proof)


def test_what_cannot_be_recorded_is_not_signed(world):
    add_rows(world, 1)
    root = merkle_root(leaves(world))
    world.committer.close()
    with refused("journal_unavailable"):
        world.service.sign_checkpoint(AUDIT, size=1, root=root, proof=())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with world_in(tmp_path_factory.mktemp("shared")) as made:
        yield made


@given(size=st.integers(0, 2**64 - 1), root=st.binary(max_size=40), proof=st.lists(st.binary(max_size=33), max_size=66))
def test_hostile_requests_are_refused_by_name(shared, size, root, proof):
    with pytest.raises(KeyServiceError) as caught:
        shared.service.sign_checkpoint(AUDIT, size=size, root=root, proof=tuple(proof))
    assert caught.value.reason in {"invalid_body", "invalid_encoding"}
