"""Proofs of RFC 9162: the vectors of certificate transparency, every small tree, and proofs that are bent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.checkpoint import leaf_hash, merkle_root, node_hash
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.merkle import (
    Frontier,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    root_of,
)
from tests.unit.core.refusal import refused

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
WHOLE = [
    bytes.fromhex(text)
    for text in (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    )
]


def nodes_of(leaves):
    """Complete subtrees by level and index, hashed anew each time."""

    def node(level: int, index: int) -> bytes:
        if level == 0:
            return leaf_hash(leaves[index])
        return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    return node


def rows(count: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in range(count)]


def test_the_roots_of_certificate_transparency():
    for size, root in enumerate(ROOTS, 1):
        assert root_of(nodes_of(LEAVES), size) == root == merkle_root(LEAVES[:size])
        assert Frontier().extended(LEAVES[:size]).root() == root
    assert root_of(nodes_of([]), 0) == merkle_root([]) == Frontier().root()


def test_the_proofs_of_certificate_transparency():
    assert inclusion_proof(nodes_of(LEAVES), 0, 8) == WHOLE
    assert consistency_proof(nodes_of(LEAVES), 1, 8) == WHOLE
    assert consistency_proof(nodes_of(LEAVES), 8, 8) == []
    assert [len(consistency_proof(nodes_of(LEAVES), old, 8)) for old in (6, 2)] == [3, 2]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_proof_of_every_small_tree_holds(size):
    leaves = rows(size)
    nodes, root = nodes_of(leaves), merkle_root(leaves)
    for index, row in enumerate(leaves):
        check_inclusion(row, index, size, inclusion_proof(nodes, index, size), root)
    for old in range(1, size + 1):
        proof = consistency_proof(nodes, old, size)
        check_consistency(old, size, merkle_root(leaves[:old]), root, proof)


@given(size=st.integers(1, 200), data=st.data())
def test_a_bent_inclusion_proof_does_not_hold(size, data):
    leaves = rows(size)
    nodes, root = nodes_of(leaves), merkle_root(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(nodes, index, size)
    other = data.draw(st.integers(0, size - 1).filter(lambda found: found != index) if size > 1 else st.just(size))
    bent = [
        (leaves[index], other, proof, root),
        (leaves[index], index, [*proof, bytes(32)], root),
        (b"x" * 32, index, proof, root),
        (leaves[index], index, proof, bytes(32)),
    ]
    if proof:
        bent += [(leaves[index], index, proof[:-1], root), (leaves[index], index, proof[1:], root)]
        place = data.draw(st.integers(0, len(proof) - 1))
        bent.append((leaves[index], index, [*proof[:place], b"x" * 32, *proof[place + 1 :]], root))
    for row, at, path, top in bent:
        with refused("invalid_encoding"):
            check_inclusion(row, at, size, path, top)


@given(new=st.integers(2, 200), data=st.data())
def test_a_history_that_was_changed_does_not_go_on(new, data):
    leaves = rows(new)
    old = data.draw(st.integers(1, new - 1))
    proof = consistency_proof(nodes_of(leaves), old, new)
    root, before = merkle_root(leaves), merkle_root(leaves[:old])
    changed = leaves[:old]
    changed[data.draw(st.integers(0, old - 1))] = b"x" * 32
    bent = [
        (old, merkle_root(changed), root, proof),
        (old, before, merkle_root([*leaves[:-1], b"x" * 32]), proof),
        (old, before, root, [*proof, bytes(32)]),
        (old, before, root, proof[:-1]),
        (old, before, root, []),
        (new, before, root, proof),
        (0, before, root, proof),
        (new + 1, before, root, proof),
    ]
    for size, first, second, path in bent:
        with refused("invalid_encoding"):
            check_consistency(size, new, first, second, path)


@given(
    sizes=st.tuples(st.integers(-5, 2**70), st.integers(-5, 2**70)),
    proof=st.lists(st.binary(min_size=32, max_size=32), max_size=70),
)
def test_hostile_sizes_and_proofs_are_refused_by_name(sizes, proof):
    old, new = sizes
    with pytest.raises(KeyServiceError):
        check_consistency(old, new, bytes(32), b"x" * 32, proof)
    with pytest.raises(KeyServiceError):
        check_inclusion(bytes(32), old, new, proof, bytes(32))


@given(first=st.integers(0, 70), more=st.integers(0, 70))
def test_a_frontier_goes_on_where_it_ended(first, more):
    leaves = rows(first + more)
    begun = Frontier().extended(leaves[:first])
    kept = Frontier.parse(first, begun.encode())
    assert kept == begun
    assert kept.extended(leaves[first:]).root() == merkle_root(leaves)


@pytest.mark.parametrize(("size", "length"), [(1, 0), (1, 31), (3, 32), (0, 32), (8, 64)])
def test_a_frontier_of_another_size_is_refused(size, length):
    with refused("invalid_encoding"):
        Frontier.parse(size, bytes(length))


def test_a_proof_of_a_smaller_tree_is_none_of_a_larger_one():
    """Its hashes lead to a root, but not as far up as the size says."""
    leaves = rows(8)
    nodes = nodes_of(leaves)
    with refused("invalid_encoding"):
        check_inclusion(leaves[0], 0, 8, inclusion_proof(nodes, 0, 2), merkle_root(leaves[:2]))
    with refused("invalid_encoding"):
        check_consistency(1, 8, merkle_root(leaves[:1]), merkle_root(leaves[:2]), consistency_proof(nodes, 1, 2))
