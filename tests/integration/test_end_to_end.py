"""The main job through real processes: a device's signed request becomes a decrypted credential, byte for byte."""

import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.audit import OpKind, OpResult
from agentkeys_core.bodies import ListAnswer, ListBody, StoreBody
from agentkeys_core.caprequest import CapRequest
from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import parse_jwks
from agentkeys_core.ops import Op, Service
from agentkeys_core.proof import k10_digest
from agentkeys_core.sealing import open_sealed
from agentkeys_runtime.signer_client import SignerClient
from demo.attacker import Asked, cosign
from device.agents import revoke_device
from device.audit_trail import export_own
from device.client import prepare, send
from device.credentials import MAX_VALUE_BYTES, get, listed, put, remove
from device.errors import DeviceError, Trouble
from tests.adversarial.town import OPENROUTER, Member, Town, eventually, reason, reason_of, town_in

ALL_BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def master(town: Town) -> Member:
    return town.master()


@pytest.fixture(scope="module")
def agent(town: Town, master: Member) -> Member:
    return town.agent(master, "cred:value", "cred:page-1")


def store_request(member: Member, name: str, value: bytes, *, expect: bytes | None = None, k11: bool = False) -> Asked:
    """A store as a device composes it, ready to be sent more than once."""
    body = StoreBody(blind=secrets.token_bytes(32), expect=expect, value=value).encode()
    return member.asked(Op.CRED_STORE, f"cred:{name}", body, k11=k11)


@pytest.mark.parametrize(
    "value",
    [b"\x00", b"sk-or-1", ALL_BYTES, b"\r\n\x00\xff" * 7, b"x" * MAX_VALUE_BYTES, secrets.token_bytes(MAX_VALUE_BYTES)],
    ids=["one byte", "text", "all bytes", "line ends", "64 KiB", "64 KiB of noise"],
)
def test_a_value_comes_back_byte_for_byte(town: Town, master: Member, agent: Member, value: bytes) -> None:
    """The master stores, the agent fetches; at rest there is ciphertext."""
    put(master.device, "value", value)
    assert get(agent.device, "value").value == value
    at_rest = town.object_file(master, "cred:value").read_bytes()
    assert at_rest[0] == 5
    assert len(value) < 4 or value not in at_rest


@pytest.mark.parametrize("size", [0, MAX_VALUE_BYTES + 1])
def test_nothing_and_too_much_are_refused(town: Town, master: Member, size: int) -> None:
    """By the device, and by the worker where a device does not."""
    with pytest.raises(DeviceError) as caught:
        put(master.device, "wrong-size", b"x" * size)
    assert caught.value.reason is Trouble.USAGE
    answer = town.ask_worker(store_request(master, "wrong-size", b"x" * size))
    assert reason_of(answer) == ("too_large" if size else "invalid_body")
    assert "wrong-size" not in dict(listed(master.device))


def test_a_value_is_replaced_only_by_who_knows_what_it_replaces(town: Town, master: Member) -> None:
    first = put(master.device, "replaced", b"one")
    second = put(master.device, "replaced", b"two")
    assert second.replaced == first.cap_digest
    for expect in (first.cap_digest, secrets.token_bytes(32)):
        answer = town.ask_worker(store_request(master, "replaced", b"three", expect=expect, k11=True))
        assert reason_of(answer) == "version_not_current"
    assert reason_of(town.ask_worker(store_request(master, "replaced", b"three", k11=True))) == "version_not_current"
    found = get(master.device, "replaced")
    assert (found.value, found.store) == (b"two", second.cap_digest)


def test_a_body_that_was_not_signed_is_refused(town: Town, master: Member) -> None:
    asked = store_request(master, "body", b"signed")
    other = store_request(master, "body", b"not signed")
    assert reason_of(town.ask_worker(replace(asked, body=other.body))) == "invalid_body"


def test_what_is_deleted_is_gone(town: Town, master: Member) -> None:
    put(master.device, "deleted", b"x")
    done = remove(master.device, "deleted")
    assert done.row.content().op_kind == OpKind.CRED_DELETE
    assert "deleted" not in dict(listed(master.device))
    assert not town.object_file(master, "cred:deleted").exists()
    with pytest.raises(KeyServiceError) as caught:
        get(master.device, "deleted")
    assert caught.value.reason is Reason.OBJECT_NOT_FOUND
    put(master.device, "deleted", b"stored anew")
    assert get(master.device, "deleted").value == b"stored anew"


def test_names_come_in_pages(town: Town) -> None:
    """In order, each once, with the store that is current; the agent's pages hold what its scope grants."""
    owner = town.master()
    stores = {f"page-{number}": put(owner.device, f"page-{number}", b"x").cap_digest for number in range(5)}
    reader = town.agent(owner, "cred:page-1", "cred:page-3", "cred:page-absent")
    assert dict(listed(owner.device)) == stores
    assert [page for page, _ in pages(town, owner, 2)] == [["page-0", "page-1"], ["page-2", "page-3"], ["page-4"]]
    assert [page for page, _ in pages(town, reader, 1)][:2] == [["page-1"], ["page-3"]]
    assert dict(listed(reader.device)) == {name: stores[name] for name in ("page-1", "page-3")}


def pages(town: Town, member: Member, limit: int) -> Iterator[tuple[list[str], str | None]]:
    after: str | None = None
    while True:
        asked = member.asked(Op.CRED_LIST, "cred:list", ListBody(after=after, limit=limit).encode())
        sealed = b64u_decode(town.ask_worker(asked).json()["sealed"])
        answer = ListAnswer.parse(open_sealed(asked.reply_key, asked.cap.request.digest, sealed))
        yield [entry.name for entry in answer.names], answer.next
        if answer.next is None:
            return
        after = answer.next


def test_the_device_asks_again_by_itself(town: Town, master: Member) -> None:
    """`send` with the same prepared request gives the same verified row, as often as it is called."""
    body = StoreBody(blind=secrets.token_bytes(32), expect=None, value=b"x").encode()
    service = Service.parse("cred:again", Op.CRED_STORE)
    prepared = prepare(master.device, Op.CRED_STORE, service, body, epoch=1, k11=False)
    first, second = send(master.device, prepared), send(master.device, prepared)
    assert first.row is not None
    assert first.row == second.row


def test_of_stores_at_once_exactly_one_wins(town: Town, master: Member) -> None:
    asked = [store_request(master, "contended", f"value {number}".encode()) for number in range(8)]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(town.ask_worker, asked))
    won = [each for each, answer in zip(asked, answers, strict=True) if answer.is_success]
    assert len(won) == 1
    lost = Counter(reason_of(answer) for answer in answers if not answer.is_success)
    assert set(lost) <= {"version_not_current", "k11_required"}
    found = get(master.device, "contended")
    assert found.store == won[0].cap.request.digest
    assert found.value == StoreBody.parse(won[0].body).value


def test_an_answer_opens_with_the_reply_key_alone(town: Town, master: Member, agent: Member) -> None:
    put(master.device, "value", b"sealed")
    asked = agent.asked(Op.CRED_FETCH, "cred:value")
    sealed = b64u_decode(town.ask_worker(asked).json()["sealed"])
    digest = asked.cap.request.digest
    assert open_sealed(asked.reply_key, digest, sealed)
    for key, name, data in (
        (X25519PrivateKey.generate(), digest, sealed),
        (asked.reply_key, bytes(32), sealed),
        (asked.reply_key, digest, sealed[:-1] + bytes([sealed[-1] ^ 1])),
    ):
        assert reason(partial(open_sealed, key, name, data)) == "invalid_encoding"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"k3_epoch": 2}, "future_epoch"),
        ({"aud": "00" * 32}, "wrong_audience"),
        ({"issued_at": 200, "expires_at": 501}, "window_too_long"),
        ({"operator_omni": b"\x01" * 32}, "actor_binding_mismatch"),
    ],
)
def test_a_request_for_another_time_place_or_user_is_refused(
    town: Town, agent: Member, changed: dict[str, object], expected: str
) -> None:
    """By broker, worker and signer alike, each by itself."""
    names = ("actor_omni", "aud", "device", "expires_at", "issued_at", "k3_epoch", "nonce", "op", "operator_omni")
    asked = agent.asked(Op.CRED_FETCH, "cred:value")
    members = {name: getattr(asked.cap.request, name) for name in (*names, "reply_key", "request_hash", "service")}
    if expected == "window_too_long":
        raw = asked.cap.request.raw
        raw = raw.replace(f'"expires_at":{members["expires_at"]}'.encode(), f'"expires_at":{2**40}'.encode())
    else:
        raw = CapRequest.compose(**{**members, **changed}).raw
    signature = agent.key.sign(k10_digest("cap", raw))
    if expected == "window_too_long":
        assert reason(lambda: CapRequest.parse(raw)) == expected
        return
    cap = replace(asked.cap, request=CapRequest.parse(raw), device_signature=signature)
    signed = cosign(town.stack, cap)
    assert reason_of(town.post("broker", "/v1/caps", cap.encode())) == expected
    assert reason_of(town.ask_worker(asked, signed)) == expected
    assert reason(partial(town.signer().derive_cred_kek, signed.encode(), epoch=1, salt=bytes(32))) == expected


def test_the_audit_trail_tells_all_of_it(town: Town) -> None:
    """Exported through the audit worker, verified with the issuer's keys: successes and failures, in order."""
    owner = town.master()
    put(owner.device, "told", b"x")
    get(owner.device, "told")
    with pytest.raises(KeyServiceError):
        get(owner.device, "absent")
    remove(owner.device, "told")
    export, verdict = export_own(owner.device)
    assert verdict.ok, verdict.lines()
    told = [(row.content().op_kind, row.content().result) for row in export.rows]
    wanted = [
        (OpKind.DEVICE_ADD, OpResult.SUCCESS),
        (OpKind.CRED_STORE, OpResult.SUCCESS),
        (OpKind.CRED_FETCH, OpResult.SUCCESS),
        (OpKind.CRED_FETCH, OpResult.FAILURE),
        (OpKind.CRED_DELETE, OpResult.SUCCESS),
    ]
    assert [entry for entry in told if entry[0] != OpKind.CRED_LIST] == wanted
    keys = parse_jwks((town.stack.root / "issuer" / ".well-known" / "agentkeys-audit-jwks.json").read_bytes())
    assert {row.kid for row in export.rows} <= set(keys)


def test_a_restarted_signer_is_found_again(town: Town, master: Member) -> None:
    """Broker and workers keep running; what was stored before is there after."""
    put(master.device, "restart", b"before")
    town.restart("signer")
    assert get(master.device, "restart").value == b"before"
    put(master.device, "restart", b"after")
    assert get(master.device, "restart").value == b"after"


def test_renewed_certificates_are_taken_up_without_a_restart(town: Town, master: Member) -> None:
    """Of a worker, on both of its sides: devices see the new leaf, and the signer too, as the old one is revoked."""
    put(master.device, "renewed", b"x")
    folder = town.stack.certificate("credentials")
    old = folder.parent / "old.pem"
    old.write_bytes((folder / "cert.pem").read_bytes())
    pids = {name: service.pid for name, service in town.stack.services.items()}
    authority: list[str | Path] = [sys.executable, "-m", "certs", "--dir", town.stack.root / "ca"]
    subprocess.run([*authority, "renew", folder], check=True, capture_output=True)
    renewed = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes()).serial_number
    eventually(lambda: serial_at(town, "credentials") == renewed)
    subprocess.run([*authority, "revoke", old], check=True, capture_output=True)
    time.sleep(1.5)  # the signer looks at its list twice a second
    eventually(lambda: _fetches(master, "renewed"))
    town.settle()
    assert get(master.device, "renewed").value == b"x"
    assert {name: service.pid for name, service in town.stack.services.items()} == pids


def _fetches(member: Member, name: str) -> bool:
    try:
        return bool(get(member.device, name).value)
    except (KeyServiceError, DeviceError):
        return False


def serial_at(town: Town, part: str) -> int:
    """Serial number of the certificate that a part shows now."""
    context = ssl.create_default_context(cafile=str(town.stack.ca))
    with (
        socket.create_connection(("127.0.0.1", town.stack.ports[part]), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        found = tls.getpeercert(binary_form=True)
    assert found is not None
    return x509.load_der_x509_certificate(found).serial_number


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A signer of two processes, and a broker that allows little."""
    settings = {"signer": "processes = 2\n", "broker": "[quota]\ndevice_per_minute = 5\nuser_per_minute = 1000\n"}
    with town_in(tmp_path_factory.mktemp("several") / "stack", settings=settings) as made:
        yield made


def fresh_channels(town: Town, call: Iterator[bytes], **salt: object) -> Counter[str]:
    """Ask over many connections, so that every process of the signer is met; counts what came of it."""
    found: Counter[str] = Counter()
    for cap in call:
        with town.channel("credentials") as channel:
            try:
                SignerClient(channel).derive_cred_kek(cap, **salt)  # type: ignore[arg-type]
            except KeyServiceError as exc:
                found[exc.reason.value] += 1
            else:
                found["released"] += 1
    return found


def test_several_processes_serve_one_user_and_forget_a_revoked_device_together(several: Town) -> None:
    owner = several.master()
    reader = several.agent(owner, OPENROUTER)
    version = several.store(owner, OPENROUTER, b"x")
    caps = [reader.cap(Op.CRED_FETCH, OPENROUTER).encode() for _ in range(16)]
    assert fresh_channels(several, iter(caps), **version.salt) == {"released": 16}
    revoke_device(owner.device, reader.key.key_hash)
    time.sleep(1.0)
    assert fresh_channels(several, iter(caps), **version.salt) == {"device_revoked": 16}
    assert several.store(owner, "cred:after", b"x").released.key


def test_a_store_is_burned_in_all_processes(several: Town) -> None:
    owner = several.master()
    version = several.store(owner, OPENROUTER, b"x")
    again = fresh_channels(several, iter([version.cap.encode()] * 8))
    assert again == {"cap_replayed": 8}


def test_a_device_has_so_many_requests_a_minute(several: Town) -> None:
    """The broker's quota, told as 429 with the time to wait; junk in the device's name uses nothing up."""
    owner = several.master()
    junk = owner.asked(Op.CRED_FETCH, OPENROUTER, signer=several.master().key).cap.encode()
    for _ in range(6):
        assert reason_of(several.post("broker", "/v1/caps", junk)) == "device_signature_invalid"
    answers = [
        several.post("broker", "/v1/caps", owner.asked(Op.CRED_LIST, "cred:list", b"{}").cap.encode())
        for _ in range(11)  # enough for two minutes, should one end here
    ]
    assert answers[0].is_success
    assert reason_of(answers[-1]) == "rate_limited"
    assert answers[-1].status_code == 429
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


def test_a_sealed_signer_releases_nothing_until_it_is_started_anew(several: Town) -> None:
    owner = several.master()
    version = several.store(owner, OPENROUTER, b"x")
    caps = [owner.cap(Op.CRED_FETCH, OPENROUTER, k11=True).encode() for _ in range(8)]
    command: list[str | Path] = [sys.executable, "-m", "signer", "seal", "--config", several.stack.config("signer")]
    subprocess.run(command, check=True, capture_output=True)
    time.sleep(0.5)
    assert fresh_channels(several, iter(caps), **version.salt) == {"sealed": 8}
    several.restart("signer")
    assert fresh_channels(several, iter(caps), **version.salt) == {"released": 8}
