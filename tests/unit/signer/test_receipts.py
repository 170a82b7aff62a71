"""Receipts: whatever is released comes with its signed row, whatever changes the registry with one; each has its line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import AuditRow
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.signed_change import SignedChange
from signer.journal import verify_journal
from signer.ports import StsSession
from tests.fakes.registry_kit import DOMAIN, NOW, Opened, Person, opened
from tests.unit.signer.world import ARN, CREDENTIALS, World, world_in

#: The RPCs whose answer holds no row, and why none is due. All others carry one.
WITHOUT_ROW = {
    "DeriveAddress": "releases an address, no secret",
    "GetAuditRows": "its answer is the rows; reading them leaves a journal line",
    "GetRowHashes": "hashes of rows, which reveal nothing",
    "SignCheckpoint": "signs a tree of rows",
    "VerifyK10Sig": "verifies, releases nothing",
    "VerifyK10SigBatch": "verifies, releases nothing",
    "VerifyK11Assertion": "verifies, releases nothing",
    "AttestEnrol": "the Enrol that it signs has a row once it is applied",
    "Rewrap": "ciphertext in, ciphertext out",
}


def test_every_rpc_answers_with_a_row_or_says_why_not() -> None:
    service = signer_pb2.DESCRIPTOR.services_by_name["Signer"]
    for method in service.methods:
        answer: Any = method.output_type
        if method.name.endswith("Batch"):
            answer = answer.fields_by_name["items"].message_type.fields_by_name["response"].message_type
        assert ("row" in answer.fields_by_name) != (method.name in WITHOUT_ROW), method.name


class Exchange:
    """An STS endpoint that always agrees."""

    def assume_role(self, **_: str) -> StsSession:
        return StsSession(access_key_id="a", secret_access_key="b", session_token="c", expires_at=NOW + 900)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path, exchange=Exchange()) as made:
        yield made


def fetched(world: World) -> bytes:
    stored, _ = world.store()
    return world.fetch(stored).row


def stored_in_session(world: World) -> bytes:
    return world.service.sts_credentials(CREDENTIALS, world.cap(Op.CRED_STORE, "cred:openrouter"), ARN).row


def deleted(world: World) -> bytes:
    world.store()
    return world.ack(world.cap(Op.CRED_DELETE, "cred:openrouter"))


def failed(world: World) -> bytes:
    cap = world.cap(Op.CRED_STORE, "cred:openrouter")
    world.derive(cap)
    return world.ack(cap, 1)


RELEASES: dict[str, Callable[[World], bytes]] = {
    "DeriveCredKek of a store": lambda world: world.derive(world.cap(Op.CRED_STORE, "cred:openrouter")).row,
    "DeriveCredKek of a fetch": fetched,
    "StsCredentials": stored_in_session,
    "SignAuditRow of a delete": deleted,
    "SignAuditRow of a failure": failed,
    "ListObjects": lambda world: world.names().row,
}


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_a_release_returns_the_row_that_its_line_names(world: World, release: Callable[[World], bytes]) -> None:
    row = release(world)
    newest: tuple[bytes] = world.database.reader().execute("SELECT row FROM rows ORDER BY id DESC LIMIT 1").fetchone()
    assert newest[0] == row
    content = AuditRow.parse(row).verify(world.audit_keys())
    line = world.lines()[-1]
    assert (line["kind"], line["row"]) == ("release", AuditRow.parse(row).row_hash.hex())
    assert content.op_body.cap is not None
    assert line["cap"] == content.op_body.cap.hex()


def test_acknowledging_a_store_returns_the_row_of_its_key(world: World) -> None:
    cap = world.cap(Op.CRED_STORE, "cred:openrouter")
    released = world.derive(cap)
    assert world.ack(cap) == world.ack(cap) == released.row
    assert world.count("rows") == 1


def test_reading_audit_rows_leaves_a_line(world: World) -> None:
    world.store()
    before = world.count("rows")
    world.audit()
    assert world.count("rows") == before
    assert world.lines()[-1]["method"] == "GetAuditRows"


def changes(person: Person, agent: DeviceKey) -> Iterator[SignedChange]:
    """Changes of each kind that one master makes alone, each after the other."""
    yield person.enrol()
    yield person.add_agent(agent, 1)
    yield person.approved(person.set_scope(2, grant=["cred:other"]))
    yield person.approved(person.set_scope(3, revoke=["cred:other"]))
    yield person.freeze()
    yield person.approved(person.unfreeze(4))
    yield person.approved(person.revoke(5, agent.key_hash))


def test_a_change_returns_the_row_that_its_line_names(tmp_path: Path) -> None:
    with opened(tmp_path) as signer:
        for signed in changes(Person(), DeviceKey.generate()):
            row = AuditRow.parse(signer.registry.apply(signed))
            content = row.verify(signer.keyring.audit_keys())
            assert content.op_body.change == signed.digest(DOMAIN)
            assert newest_line(signer)["row"] == row.row_hash.hex()
            assert signer.registry.apply(signed) == row.encode(), "the same again, for whoever lost the answer"
        verify_journal(signer.database.reader(), signer.keyring)


def newest_line(signer: Opened) -> dict[str, object]:
    query = "SELECT line FROM journal ORDER BY seq DESC LIMIT 1"
    line: tuple[bytes] = signer.database.reader().execute(query).fetchone()
    found: dict[str, object] = orjson.loads(line[0])
    return found
