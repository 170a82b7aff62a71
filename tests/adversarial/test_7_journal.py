"""Promise 7: where the journal cannot be written nothing is released, and refused calls cannot fill it."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial

import grpc
import pytest

from agentkeys_core.audit import AuditRow, OpKind, verify_chain
from agentkeys_core.bodies import AuditListBody, ListBody, StoreBody
from agentkeys_core.changes import Freeze
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import parse_jwks
from agentkeys_core.ops import Op
from demo.process import StackError
from device.credentials import get, listed, put, remove
from tests.adversarial.town import OPENROUTER, PATIENCE_S, Member, Town, reason, reason_of, town_in


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town whose journal is locked, filled and tampered with here."""
    with town_in(tmp_path_factory.mktemp("journal") / "stack") as made:
        yield made


@pytest.fixture(scope="module")
def master(own: Town) -> Member:
    made = own.master()
    put(made.device, "openrouter", b"x")
    return made


@contextmanager
def locked(town: Town) -> Iterator[None]:
    """Hold the write lock of the signer's database from another connection."""
    with closing(sqlite3.connect(town.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


@pytest.mark.parametrize("kind", ["fetch", "store", "list", "delete", "change", "audit"])
def test_what_cannot_be_recorded_is_not_released(own: Town, master: Member, kind: str) -> None:
    version = own.store(master, f"cred:locked-{kind}", b"x")
    signer = own.signer()
    name = f"cred:locked-{kind}"
    fetch = master.cap(Op.CRED_FETCH, name, k11=True).encode()
    delete = master.cap(Op.CRED_DELETE, name, k11=True).encode()
    body = StoreBody(blind=bytes(32), expect=None, value=b"y").encode()
    store = master.cap(Op.CRED_STORE, f"{name}-new", body).encode()
    names = master.cap(Op.CRED_LIST, "cred:list", ListBody(after=None, limit=10).encode()).encode()
    trail = master.cap(Op.AUDIT_LIST, "audit:own", AuditListBody(after=None, limit=10).encode()).encode()
    calls: dict[str, Callable[[], object]] = {
        "fetch": partial(signer.derive_cred_kek, fetch, **version.salt),
        "store": partial(signer.derive_cred_kek, store),
        "list": partial(signer.list_objects, names, after=None, limit=10),
        "delete": partial(signer.sign_audit_row, delete, result=0),
        "change": partial(own.apply, _freeze(master)),
        "audit": partial(own.signer("audit").get_audit_rows, trail, after=None, limit=10),
    }
    rows = len(own.rows())
    with locked(own):
        assert reason(calls[kind]) == "journal_unavailable"
    assert len(own.rows()) == rows
    if kind != "change":
        calls[kind]()  # and once it can be recorded, the very same request is answered


def _freeze(master: Member) -> bytes:
    change = Freeze(operator_omni=master.who.operator, incarnation=1, freeze_nonce=master.state().freeze_nonce)
    return master.signed_change(change, k11=False)


def test_the_worker_says_so_and_answers_nothing(own: Town, master: Member) -> None:
    put(master.device, "worker", b"old")
    current = get(master.device, "worker").store
    fetch = master.asked(Op.CRED_FETCH, "cred:worker", k11=True)
    body = StoreBody(blind=bytes(32), expect=current, value=b"new").encode()
    store = master.asked(Op.CRED_STORE, "cred:worker", body, k11=True)
    with locked(own):
        for asked in (fetch, store):
            assert reason_of(own.ask_worker(asked)) == "journal_unavailable"
    assert get(master.device, "worker").value == b"old"
    assert own.ask_worker(store).is_success
    assert get(master.device, "worker").value == b"new"


def test_a_thousand_junk_calls_add_a_few_lines(own: Town, master: Member) -> None:
    """What no device has signed is counted: by certificate, method, reason and minute; unknown methods as one."""
    before = len(own.journal())
    junk = master.cap(Op.CRED_FETCH, OPENROUTER, signer=own.master().key).encode()
    early = len(own.journal())
    credentials, daemon = own.signer(), own.signer("daemon")
    for number in range(250):
        with suppress(KeyServiceError):
            credentials.derive_cred_kek(junk, epoch=1, salt=bytes(32))
        with suppress(KeyServiceError):
            credentials.derive_cred_kek(b"{}" * number, epoch=1, salt=bytes(32))
        with suppress(KeyServiceError):
            daemon.derive_address(bytes(32), epoch=1)
        with suppress(KeyServiceError):
            credentials.derive_address(bytes(32), epoch=1)
    with own.channel("daemon") as channel:
        for number in range(250):
            with suppress(grpc.RpcError):
                channel.unary_unary(f"/agentkeys.signer.v1.Signer/{number:0>999}")(b"", timeout=PATIENCE_S)
    own.stack.stop("signer")  # counts are written
    lines = own.journal()[early:]
    own.stack.start("signer")
    own.settle()
    assert len(lines) <= 16
    counted = Counter({(line["method"], line["reason"]): 0 for line in lines})
    for line in lines:
        counted[line["method"], line["reason"]] += line["count"]
        assert line["cap"] is None
    assert counted["DeriveCredKek", "device_signature_invalid"] == 250
    assert counted["DeriveAddress", "role_not_allowed"] == 500
    assert sum(counted.values()) >= 1250
    assert max(len(line["method"]) for line in lines) < 32  # none of the caller's own words
    assert early - before <= 2


def test_refusals_of_signed_requests_are_lines_but_not_without_end(own: Town, master: Member) -> None:
    """Each names its cap digest; what exceeds a rate is counted instead, and no audit row is written."""
    agent = own.agent(master, OPENROUTER)
    rows, early = len(own.rows()), len(own.journal())
    caps = [agent.cap(Op.CRED_FETCH, "cred:not-granted") for _ in range(300)]
    for cap in caps:
        call = partial(own.signer().derive_cred_kek, cap.encode(), epoch=1, salt=bytes(32))
        assert reason(call) == "service_not_in_scope"
    own.stack.stop("signer")
    lines = [line for line in own.journal()[early:] if line["reason"] == "service_not_in_scope"]
    own.stack.start("signer")
    own.settle()
    assert lines[0]["cap"] == caps[0].request.digest.hex()
    assert 50 <= len(lines) < 200
    assert sum(line["count"] for line in lines) == 300
    assert len(own.rows()) == rows


def test_every_release_has_its_row_and_every_row_its_line(own: Town, master: Member) -> None:
    """A day's work: what the callers were given and what was recorded are the same things, one to one."""
    agent = own.agent(master, OPENROUTER)
    rows, lines = len(own.rows()), len(own.journal())
    released: list[AuditRow] = []
    for number in range(5):
        released.append(put(master.device, f"day-{number}", b"value").row)
        version = own.store(master, f"cred:day-signer-{number}", b"value")
        released.append(AuditRow.parse(version.released.row))
        fetch = own.signer().derive_cred_kek(
            master.cap(Op.CRED_FETCH, f"cred:day-signer-{number}", k11=True).encode(), **version.salt
        )
        released.append(AuditRow.parse(fetch.row))
    for _ in range(3):
        answer = own.ask_worker(agent.asked(Op.CRED_FETCH, OPENROUTER)).json()
        released.append(AuditRow.from_json(answer["row"]))
    released.append(remove(master.device, "day-0").row)
    list(listed(master.device))
    written = own.rows()[rows:]
    told = {row.row_hash for row in released}
    others = [row for row in written if row.row_hash not in told]
    assert len(told) == len(released)
    assert told <= {row.row_hash for row in written}
    # What is left: the lists that put and this test made, whose rows the device verified and did not keep.
    assert {row.content().op_kind for row in others} <= {OpKind.CRED_LIST, OpKind.DEVICE_ADD}
    named = [line["row"] for line in own.journal()[lines:] if line["row"]]
    assert named == [row.row_hash.hex() for row in written]


def test_every_chain_verifies_with_the_published_keys(own: Town, master: Member) -> None:
    keys = parse_jwks((own.stack.root / "issuer" / ".well-known" / "agentkeys-audit-jwks.json").read_bytes())
    chains: dict[bytes, list[AuditRow]] = {}
    for row in own.rows():
        chains.setdefault(row.actor, []).append(row)
    assert len(chains) >= 3
    assert all(verify_chain(rows, keys).ok for rows in chains.values())


def test_no_line_and_no_log_holds_a_request_a_key_or_a_value(own: Town, master: Member) -> None:
    value = b"a value that must not be written anywhere"
    put(master.device, "quiet", value)
    assert get(master.device, "quiet").value == value
    places = [*(own.stack.root / "logs").iterdir(), own.database, *(own.stack.root / "objects").rglob("*.enc")]
    places += [*(own.stack.root / "broker").iterdir()]
    assert len(places) > 6
    for place in places:
        assert value not in place.read_bytes()


def test_a_journal_that_was_tampered_with_stops_the_start(own: Town, master: Member) -> None:
    own.stack.stop("signer")
    with closing(sqlite3.connect(own.database)) as conn:
        (last,) = conn.execute("SELECT max(seq) FROM journal").fetchone()
        kept = conn.execute("SELECT * FROM journal WHERE seq = ?", (last,)).fetchone()
        conn.execute("DELETE FROM journal WHERE seq = ?", (last,))
        conn.commit()
        with pytest.raises(StackError):
            own.stack.start("signer")
        conn.execute(f"INSERT INTO journal VALUES ({', '.join('?' * len(kept))})", kept)
        conn.commit()
    own.stack.start("signer")
    own.settle()
