"""Answers that lie: nothing of them is used, and the exit code is 6."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpKind, OpResult
from agentkeys_core.bodies import FetchAnswer, ListAnswer, ListedName, StoreAnswer, StoreBody
from agentkeys_core.captoken import Cap
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.sealing import seal
from tests.unit.device.conftest import Outcome, Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.https import Reply
from tests.unit.device.ledger import Ledger

FETCH = ("credentials", "/v1/credentials/fetch")
STORE = ("credentials", "/v1/credentials/store")
LIST = ("credentials", "/v1/credentials/list")


@pytest.fixture
def stored(master: Person, tmp_path: Path) -> Person:
    """A master with cred:openrouter stored."""
    (tmp_path / "value").write_bytes(b"the value")
    assert master("cred", "put", "openrouter", "--file", tmp_path / "value").code == 0
    return master


def untrusted(outcome: Outcome, *reasons: str) -> None:
    assert outcome.code == 6, (outcome.code, outcome.err)
    assert outcome.reason in reasons
    assert outcome.out == ""


def row_of(answer: dict[str, object]) -> AuditRow:
    return AuditRow.from_json(answer["row"])


def test_refuses_row_signed_by_nobody_known(stored: Person, deployment: Deployment) -> None:
    other = Ledger()

    def resign(answer: dict[str, object]) -> None:
        row = row_of(answer)
        answer["row"] = replace(row, sig=other.append(row.content()).sig).to_json()

    deployment.tamper = resign
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_row_of_a_key_that_the_issuer_does_not_have(stored: Person, deployment: Deployment) -> None:
    other = Ledger()
    deployment.tamper = lambda answer: answer.update(row=other.append(row_of(answer).content()).to_json())
    deployment.seen.clear()
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")
    asked = [path for part, path in deployment.seen if part == "issuer"]
    assert len(asked) == 1  # once, and not again and again


def test_learns_a_new_audit_key_from_the_issuer(stored: Person, deployment: Deployment) -> None:
    old = deployment.ledger.public
    deployment.ledger.key = ec.generate_private_key(ec.SECP256R1())
    deployment.keys = [old, ES256PublicKey.of(deployment.ledger.key.public_key())]
    assert stored("cred", "get", "openrouter").code == 0


def test_refuses_row_of_another_request(stored: Person, deployment: Deployment) -> None:
    older = deployment.ledger.rows
    mine = next(iter(older.values()))[-1]
    deployment.tamper = lambda answer: answer.update(row=mine.to_json())
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


@pytest.mark.parametrize(
    "lie",
    [
        {"kind": OpKind.CRED_LIST},
        {"kind": OpKind.CRED_FETCH, "svc": "cred:other"},
        {"kind": OpKind.CRED_FETCH, "result": OpResult.FAILURE},
        {"kind": OpKind.CRED_FETCH, "digest": bytes(32)},
        {"kind": OpKind.CRED_FETCH, "request_hash": bytes(32)},
        {"kind": OpKind.CRED_FETCH, "actor_omni": bytes(32)},
        {"kind": OpKind.CRED_FETCH, "operator_omni": bytes(32)},
    ],
    ids=["kind", "service", "result", "cap", "req", "actor", "operator"],
)
def test_refuses_signed_row_about_something_else(stored: Person, deployment: Deployment, lie: dict[str, Any]) -> None:
    words = {name: lie[name] for name in ("svc", "result") if name in lie}
    members = {name: value for name, value in lie.items() if name not in ("kind", "svc", "result")}

    def hook(body: bytes) -> Reply | None:
        request = Cap.from_json(json.loads(body)["cap"]).request
        row = deployment.ledger.of_request(replace(request, **members), lie["kind"], **words)
        deployment.tamper = lambda answer: answer.update(row=row.to_json())
        return None

    deployment.hooks[FETCH] = hook
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


@pytest.mark.parametrize(
    "damage",
    [
        lambda answer: answer.update(row=None),
        lambda answer: answer.pop("row"),
        lambda answer: answer.update(cap_digest="00" * 32),
        lambda answer: answer.update(sealed=b64u_encode(bytes(200))),
        lambda answer: answer.update(sealed="!"),
        lambda answer: answer.update(more=1),
    ],
    ids=["null row", "no row", "digest", "sealed", "loose", "unknown"],
)
def test_refuses_malformed_answer(
    stored: Person, deployment: Deployment, damage: Callable[[dict[str, object]], None]
) -> None:
    deployment.tamper = damage
    untrusted(stored("cred", "get", "openrouter"), "answer_not_trusted", "row_not_trusted")


@pytest.mark.parametrize("reply", [b"", b"[]", b"\xff", b'{"row":1,"row":2}', b"<html>"])
@pytest.mark.parametrize("status", [200, 500])
def test_refuses_what_is_no_answer(stored: Person, deployment: Deployment, reply: bytes, status: int) -> None:
    deployment.hooks[FETCH] = lambda _: (status, reply)
    untrusted(stored("cred", "get", "openrouter"), "answer_not_trusted")


def sealed_fetch(deployment: Deployment, make: Callable[[bytes, AuditRow], tuple[bytes, AuditRow]]) -> None:
    """Have the next fetch answer with another inside, sealed and recorded as it should be."""

    def hook(body: bytes) -> Reply | None:
        request = Cap.from_json(json.loads(body)["cap"]).request
        _, stored_body, stored_row = next(iter(deployment.objects.values()))
        inner, row = make(stored_body, stored_row)

        def tamper(answer: dict[str, object]) -> None:
            plain = FetchAnswer(body=inner, row=row).encode()
            answer["sealed"] = b64u_encode(seal(request.reply_key, request.digest, plain))

        deployment.tamper = tamper
        return None

    deployment.hooks[FETCH] = hook


def other_body(_: bytes) -> bytes:
    return StoreBody(blind=bytes(32), expect=None, value=b"swapped-in-its-place").encode()


def test_refuses_swapped_value(stored: Person, deployment: Deployment) -> None:
    sealed_fetch(deployment, lambda body, row: (other_body(body), row))
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_value_of_another_service(stored: Person, deployment: Deployment, tmp_path: Path) -> None:
    stored("cred", "put", "another", "--file", tmp_path / "value")
    _, body, row = next(found for (_, name), found in deployment.objects.items() if name == "another")
    sealed_fetch(deployment, lambda *_: (body, row))
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_value_of_another_operator(
    stored: Person, deployment: Deployment, person: Callable[[str], Person], tmp_path: Path
) -> None:
    other = person("other")
    assert other.init().code == 0
    other("cred", "put", "openrouter", "--file", tmp_path / "value")
    _, body, row = list(deployment.objects.values())[-1]
    sealed_fetch(deployment, lambda *_: (body, row))
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_value_whose_row_is_no_store(stored: Person, deployment: Deployment) -> None:
    request, _, _ = next(iter(deployment.objects.values()))
    fetch_row = deployment.ledger.of_request(request, OpKind.CRED_FETCH)
    sealed_fetch(deployment, lambda body, _: (body, fetch_row))
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def rewrap_row(deployment: Deployment, *, req: bytes | None) -> AuditRow:
    """A row of the signer's over what it re-wrapped; it holds `req` only where a legacy envelope came in."""
    request, _, _ = next(iter(deployment.objects.values()))
    return deployment.ledger.append(
        AuditEnvelope.compose(
            ts_unix=1_764_000_000,
            actor_omni=request.operator_omni,
            operator_omni=request.operator_omni,
            op_kind=OpKind.CRED_REWRAP,
            op_body=OpBody(cap=b"m" * 32, req=req, svc=request.service.text, epoch=1, salt=bytes(32)),
        )
    )


def test_takes_a_value_that_the_signer_took_over_and_says_so(stored: Person, deployment: Deployment) -> None:
    deployment.released = (1, bytes(32))
    sealed_fetch(deployment, lambda body, _: (body, rewrap_row(deployment, req=sha256(body))))
    told = stored("cred", "get", "openrouter").data
    assert (told["migrated"], told["store"]) == (True, (b"m" * 32).hex())
    assert "no device signed it" in stored("cred", "get", "openrouter", as_json=False).err
    deployment.hooks.clear()
    deployment.tamper = deployment.released = None
    assert stored("cred", "get", "openrouter").data["migrated"] is False


def test_refuses_a_value_that_a_rewrap_does_not_name(stored: Person, deployment: Deployment) -> None:
    deployment.released = (1, bytes(32))
    for req in (None, bytes(32)):
        sealed_fetch(deployment, lambda body, _, req=req: (body, rewrap_row(deployment, req=req)))  # type: ignore[misc]
        untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_value_of_a_failed_store(stored: Person, deployment: Deployment) -> None:
    request, _, _ = next(iter(deployment.objects.values()))
    failed = deployment.ledger.of_request(request, OpKind.CRED_STORE, result=OpResult.FAILURE)
    sealed_fetch(deployment, lambda body, _: (body, failed))
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_value_stored_by_an_agent(stored: Person, deployment: Deployment) -> None:
    request, _, _ = next(iter(deployment.objects.values()))
    by_agent = deployment.ledger.of_request(replace(request, actor_omni=bytes(32)), OpKind.CRED_STORE)
    sealed_fetch(deployment, lambda body, _: (body, by_agent))
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_value_of_a_store_that_another_one_replaced(
    stored: Person, deployment: Deployment, tmp_path: Path
) -> None:
    _, body, row = next(iter(deployment.objects.values()))
    assert stored("cred", "put", "openrouter", "--file", tmp_path / "value").code == 0
    sealed_fetch(deployment, lambda *_: (body, row))
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


@pytest.mark.parametrize("salt", [None, bytes(32)])
def test_refuses_value_that_no_released_key_opened(stored: Person, deployment: Deployment, salt: bytes | None) -> None:
    """Also where neither row names a salt: the row of a list would be as good as that of a fetch."""
    deployment.released = (1, salt)
    if salt is None:
        request, _, _ = next(iter(deployment.objects.values()))
        bare = deployment.ledger.of_request(request, OpKind.CRED_STORE)
        deployment.stored_row = lambda _: bare
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_takes_a_value_that_was_rewrapped_under_a_later_epoch(stored: Person, deployment: Deployment) -> None:
    deployment.released = (2, bytes(32))
    assert stored("cred", "get", "openrouter").code == 0


def test_refuses_value_whose_row_has_a_forged_signature(stored: Person, deployment: Deployment) -> None:
    deployment.stored_row = lambda row: replace(row, sig=Ledger().append(row.content()).sig)
    untrusted(stored("cred", "get", "openrouter"), "row_not_trusted")


def test_refuses_acknowledgement_of_another_row(master: Person, deployment: Deployment, tmp_path: Path) -> None:
    def hook(body: bytes) -> Reply | None:
        request = Cap.from_json(json.loads(body)["cap"]).request

        def tamper(answer: dict[str, object]) -> None:
            if "store" in str(request.op):
                plain = StoreAnswer(row_hash=bytes(32)).encode()
                answer["sealed"] = b64u_encode(seal(request.reply_key, request.digest, plain))

        deployment.tamper = tamper
        return None

    deployment.hooks[STORE] = hook
    (tmp_path / "v").write_bytes(b"v")
    untrusted(master("cred", "put", "x", "--file", tmp_path / "v"), "answer_not_trusted")


@pytest.mark.parametrize(
    "answer",
    [
        ListAnswer(names=(ListedName(name="b", store=bytes(32)), ListedName(name="a", store=bytes(32))), next=None),
        ListAnswer(names=(ListedName(name="\x1b[2J", store=bytes(32)),), next=None),
        ListAnswer(names=(ListedName(name="list", store=bytes(32)),), next=None),
        ListAnswer(names=(ListedName(name="b", store=bytes(32)),), next="a"),
    ],
    ids=["order", "control characters", "reserved", "backwards"],
)
def test_refuses_lists_that_cannot_be(master: Person, deployment: Deployment, answer: ListAnswer) -> None:
    def hook(body: bytes) -> Reply | None:
        request = Cap.from_json(json.loads(body)["cap"]).request
        deployment.tamper = lambda told: told.update(
            sealed=b64u_encode(seal(request.reply_key, request.digest, answer.encode()))
        )
        return None

    deployment.hooks[LIST] = hook
    untrusted(master("cred", "list"), "answer_not_trusted")


def test_not_found_needs_the_row_of_a_failure(master: Person, deployment: Deployment) -> None:
    honest = master("cred", "get", "nothing")
    assert (honest.code, honest.reason) == (4, "object_not_found")

    def lie(body: bytes) -> Reply:
        request = Cap.from_json(json.loads(body)["cap"]).request
        row = deployment.ledger.of_request(request, OpKind.CRED_FETCH)  # of a success
        return problem(Reason.OBJECT_NOT_FOUND, 404, row=row.to_json())

    deployment.hooks[FETCH] = lie
    untrusted(master("cred", "get", "nothing"), "row_not_trusted")


@pytest.mark.parametrize("cosign", [{}, {"cosign": "AA", "kid": "k"}, {"cosign": b64u_encode(bytes(64)), "kid": 1}, []])
def test_refuses_odd_cosignatures(master: Person, deployment: Deployment, cosign: object) -> None:
    deployment.hooks["broker", "/v1/caps"] = lambda _: (200, cosign)
    untrusted(master("cred", "list"), "answer_not_trusted")


@pytest.mark.parametrize("document", [{}, {"keys": []}, {"keys": [{"kty": "RSA"}]}, []])
def test_refuses_odd_audit_keys(master: Person, deployment: Deployment, document: object) -> None:
    (master.home / "audit-keys.json").unlink()
    deployment.hooks["issuer", "/.well-known/agentkeys-audit-jwks.json"] = lambda _: (200, document)
    untrusted(master("cred", "list"), "keys_not_trusted")


def test_damaged_copy_of_the_audit_keys_is_fetched_anew(master: Person) -> None:
    (master.home / "audit-keys.json").write_bytes(b"rubbish")
    assert master("cred", "list").code == 0


def test_no_secret_in_words_of_errors(stored: Person, deployment: Deployment) -> None:
    sealed_fetch(deployment, lambda body, row: (other_body(body), row))
    outcome = stored("cred", "get", "openrouter", as_json=False)
    assert "swapped-in-its-place" not in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


def test_words_of_a_refusal_cannot_draw_on_the_terminal(master: Person, deployment: Deployment) -> None:
    deployment.hooks[LIST] = lambda _: problem(Reason.POLICY_REFUSED, detail="\x1b[31mred[/bold]\u202e")
    outcome = master("cred", "list", as_json=False)
    assert outcome.code == 3
    assert "\x1b" not in outcome.err
    assert "\u202e" not in outcome.err
