"""`GetRowHashes` and `SignCheckpoint`: one tree over all audit rows, of which one history is ever signed."""

import base64
from collections.abc import Callable, Sequence
from typing import Any, Final

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.checkpoint import Checkpoint
from agentkeys_core.errors import Reason
from tests.conformance import derived
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups.objects import store
from tests.conformance.people import master
from tests.conformance.site import AUDIT, CREDENTIALS, Site

HASHES = "GetRowHashes"
SIGN = "SignCheckpoint"
PAGE: Final = 8192
STEP: Final = 65_536


def page(site: Site, after: int, limit: int = PAGE, client: str = AUDIT) -> signer_pb2.GetRowHashesResponse:
    """Hashes of rows after the first `after`."""
    request = signer_pb2.GetRowHashesRequest(after=after, limit=limit)
    found: signer_pb2.GetRowHashesResponse = site.signer(client).GetRowHashes(request)
    return found


def leaves(site: Site) -> list[bytes]:
    """The hashes of all rows, in the order of writing."""
    rows: list[bytes] = []
    while True:
        found = page(site, len(rows))
        rows += [found.hashes[place : place + 32] for place in range(0, len(found.hashes), 32)]
        if len(rows) >= found.total:
            return rows


def sign(site: Site, size: int, root: bytes, proof: Sequence[bytes] = (), client: str = AUDIT) -> Callable[[], bytes]:
    """The call that has a root signed; returns the note."""
    request = signer_pb2.SignCheckpointRequest(tree_size=size, root=root, consistency_proof=proof)
    return lambda: site.signer(client).SignCheckpoint(request).checkpoint


def ahead(site: Site) -> tuple[list[bytes], int]:
    """All rows, some of them new, and how many the last checkpoint covers; near enough to go on in one step."""
    store(site, master(site))
    rows, covered = leaves(site), page(site, 0, 1).checkpoint_size
    while len(rows) - covered > STEP // 2:
        size = min(covered + STEP, len(rows))
        sign(site, size, derived.merkle_root(rows[:size]), derived.consistency_proof(rows[:size], covered))()
        covered = size
    return rows, covered


def right(site: Site) -> tuple[list[bytes], int, bytes, list[bytes]]:
    """All rows and how many were covered; the root over all of them and its proof."""
    rows, covered = ahead(site)
    return rows, covered, derived.merkle_root(rows), derived.consistency_proof(rows, covered)


@case(HASHES, "every row's hash, in the order of writing")
def all_hashes(site: Site) -> None:
    before = len(leaves(site))
    user = master(site)
    kept = store(site, user)
    added = leaves(site)[before:]
    row, _ = site.row(kept.released.row)
    equal(added[-1], row.row_hash, "hash of the last row")
    equal(len(added), 2, "rows of a first bind and a store")


@case(HASHES, "pages go on where the last one ended, and end where the rows do")
def pages(site: Site) -> None:
    store(site, master(site))
    rows = leaves(site)
    found = page(site, len(rows) - 2, 1)
    equal((found.hashes, found.total), (rows[-2], len(rows)), "one hash and the total")
    for beyond in (len(rows), 2**62):
        equal(page(site, beyond).hashes, b"", "hashes beyond the last row")


@case(SIGN, "a root over all rows, signed by the audit key")
def signed(site: Site) -> None:
    rows, _, root, proof = right(site)
    note = sign(site, len(rows), root, proof)()
    checkpoint = Checkpoint(registry_id=site.registry_id, size=len(rows), root=root)
    text, separator, line = note.decode().partition("\n\n")
    equal((f"{text}\n".encode(), separator), (checkpoint.text(), "\n\n"), "text")
    expect(line.startswith(f"— {checkpoint.origin} ") and line.endswith("\n"), "the signature line")
    data = base64.b64decode(line.split(" ")[2].strip(), validate=True)
    keys = {checkpoint.key_id(key): key for key in site.audit_keys.values()}
    expect(data[:4] in keys and keys[data[:4]].verify(checkpoint.text(), data[4:]), "the signature does not verify")
    equal(page(site, 0, 1).checkpoint_size, len(rows), "rows that the last checkpoint covers")


@case(SIGN, "the same size and root again have the same note")
def again(site: Site) -> None:
    rows, _, root, proof = right(site)
    note = sign(site, len(rows), root, proof)()
    equal(sign(site, len(rows), root)(), note, "note")


@case(SIGN, "each goes on from the last one")
def goes_on(site: Site) -> None:
    rows, covered = ahead(site)
    first = len(rows) - 1
    sign(site, first, derived.merkle_root(rows[:first]), derived.consistency_proof(rows[:first], covered))()
    sign(site, len(rows), derived.merkle_root(rows), derived.consistency_proof(rows, first))()


def _wrong(bend: Callable[[list[bytes], int, bytes, list[bytes]], tuple[int, bytes, Sequence[bytes]]]) -> Steps:
    """A checkpoint that would be right but for what `bend` makes of it."""

    def steps(site: Site) -> Callable[[], Any]:
        rows, covered, root, proof = right(site)
        if not covered:  # proofs say nothing of a first checkpoint
            sign(site, len(rows), root)()
            rows, covered, root, proof = right(site)
        return sign(site, *bend(rows, covered, root, proof))

    return steps


def _planted(rows: list[bytes], covered: int) -> tuple[int, bytes, Sequence[bytes]]:
    """A tree that goes on from the last checkpoint, but over a row that is none."""
    other = [*rows[:-1], bytes(32)]
    return len(other), derived.merkle_root(other), derived.consistency_proof(other, covered)


for _title, _bend in {
    "another root": lambda rows, covered, root, proof: (len(rows), bytes(32), proof),
    "no proof": lambda rows, covered, root, proof: (len(rows), root, ()),
    "a proof with a hash too many": lambda rows, covered, root, proof: (len(rows), root, [*proof, bytes(32)]),
    "a proof with another hash": lambda rows, covered, root, proof: (len(rows), root, [bytes(32), *proof[1:]]),
    "more rows than there are": lambda rows, covered, root, proof: (len(rows) + 1, root, proof),
    "fewer rows than the last one covers": lambda rows, covered, root, proof: (
        covered - 1,
        derived.merkle_root(rows[: covered - 1]),
        (),
    ),
    "another root for the size of the last one": lambda rows, covered, root, proof: (covered, bytes(32), ()),
    "no rows at all": lambda rows, covered, root, proof: (0, derived.merkle_root([]), ()),
    "a row that is none": lambda rows, covered, root, proof: _planted(rows, covered),
}.items():
    add(Case(group=SIGN, title=_title, steps=_wrong(_bend), gives=Reason.INVALID_BODY))
for _title, _bend in {
    "a root of 31 bytes": lambda rows, covered, root, proof: (len(rows), root[1:], proof),
    "a proof hash of 33 bytes": lambda rows, covered, root, proof: (len(rows), root, [bytes(33)]),
    "a proof of 200 hashes": lambda rows, covered, root, proof: (len(rows), root, [bytes(32)] * 200),
}.items():
    add(Case(group=SIGN, title=_title, steps=_wrong(_bend), gives=Reason.INVALID_ENCODING))


@case(SIGN, "a worker of another class", gives=Reason.CLASS_MISMATCH)
def other_class(site: Site) -> Callable[[], Any]:
    return sign(site, 1, bytes(32), (), CREDENTIALS)


@case(HASHES, "a worker of another class", gives=Reason.CLASS_MISMATCH)
def other_reader(site: Site) -> Callable[[], Any]:
    return lambda: page(site, 0, 1, CREDENTIALS)


def _limit(limit: int) -> Steps:
    return lambda site: lambda: page(site, 0, limit)


for _most in (0, PAGE + 1):
    add(Case(group=HASHES, title=f"a limit of {_most}", steps=_limit(_most), gives=Reason.INVALID_BODY))
