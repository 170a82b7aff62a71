"""K11: the software authenticator, the page on localhost, and what comes back from a browser."""

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fido2 import cbor
from fido2.cose import ES256, RS256, CoseKey
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

from agentkeys_core.changes import Freeze
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_ORIGIN, K11Assertion
from agentkeys_core.webauthn_check import verify_assertion
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent, change_intent
from device.k11 import browser, page
from device.k11.browser import BrowserAuthenticator
from device.k11.ceremony import read_assertion, read_creation
from device.k11.port import K11Kind, K11Record
from device.k11.software import SOFTWARE_FILE, SoftwareAuthenticator
from device.keys import K10, SignedDigest
from tests.unit.device.conftest import Person

UP_UV = 0x05
CHALLENGE = bytes(range(32))


class Key:
    """A browser with an authenticator, made of fido2's parts."""

    def __init__(self, *, rp: str = "localhost", origin: str = K11_ORIGIN) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.id = bytes(range(16))
        self.rp, self.origin = hashlib.sha256(rp.encode()).digest(), origin

    def client_data(self, kind: str, challenge: bytes, **more: object) -> bytes:
        members = {"type": kind, "challenge": b64u_encode(challenge), "origin": self.origin, "crossOrigin": False}
        return json.dumps(members | more).encode()

    def create(
        self, challenge: bytes, *, flags: int = UP_UV, key: CoseKey | None = None, kind: str = "webauthn.create"
    ) -> dict[str, str]:
        cose = key if key is not None else ES256.from_cryptography_key(self.private.public_key())  # type: ignore[no-untyped-call]
        credential = AttestedCredentialData.create(Aaguid(bytes(16)), self.id, cose)
        data = AuthenticatorData.create(self.rp, AuthenticatorData.FLAG(flags | 0x40), 1, credential)
        return {
            "attestation_object": b64u_encode(bytes(AttestationObject.create("none", data, {}))),
            "client_data_json": b64u_encode(self.client_data(kind, challenge)),
            "credential_id": b64u_encode(self.id),
        }

    def get(
        self, challenge: bytes, *, flags: int = UP_UV, kind: str = "webauthn.get", **more: object
    ) -> dict[str, str]:
        data = bytes(AuthenticatorData.create(self.rp, AuthenticatorData.FLAG(flags), 2))
        client_data = self.client_data(kind, challenge, **more)
        signature = self.private.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(hashes.SHA256()))
        return {
            "authenticator_data": b64u_encode(data),
            "client_data_json": b64u_encode(client_data),
            "credential_id": b64u_encode(self.id),
            "signature": b64u_encode(signature),
        }


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Home.open(tmp_path / "home", create=True) as opened:
        yield opened


@pytest.fixture
def signed(home: Home) -> tuple[SignedDigest, Intent]:
    change = Freeze(operator_omni=bytes(32), incarnation=1, freeze_nonce=0)
    made = K10.load_or_make(home).sign_change(change, Domain.embedded("ab" * 32))
    return made, change_intent(change, made.name)


def invalid(call: Callable[..., object], *args: object, **words: object) -> None:
    with pytest.raises(KeyServiceError) as caught:
        call(*args, **words)
    assert caught.value.reason in (Reason.K11_INVALID, Reason.UNKNOWN_FIELDS)


# --- software -------------------------------------------------------------------------------------------------------


def test_software_assertions_pass_two_webauthn_libraries(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    made = SoftwareAuthenticator(home)
    record = made.create(home, device_key_hash=bytes(32))
    counts = []
    for _ in range(2):
        assertion = made.approve(record, *signed)
        counts.append(verify_assertion(assertion, challenge=signed[0].challenge, public=record.public))
        data = CollectedClientData(assertion.client_data_json)
        assert data.challenge == signed[0].challenge
        AuthenticatorData(assertion.authenticator_data)
        cose = CoseKey.parse({1: 2, 3: -7, -1: 1, -2: record.x, -3: record.y})
        cose.verify(assertion.authenticator_data + data.hash, assertion.signature)
    assert counts == [1, 2]
    assert record.kind is K11Kind.SOFTWARE
    assert b"DEVELOPMENT ONLY" in (home.path / SOFTWARE_FILE).read_bytes()


def test_software_key_is_made_once(home: Home) -> None:
    made = SoftwareAuthenticator(home)
    assert made.create(home, device_key_hash=bytes(32)) == made.create(home, device_key_hash=bytes(32))


def test_nothing_that_k10_did_not_sign_is_approved(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    from dataclasses import replace

    forged = replace(signed[0], digest=bytes(32), challenge=bytes(32))
    made = SoftwareAuthenticator(home)
    record = made.create(home, device_key_hash=bytes(32))
    opened: list[str] = []
    for authenticator in (made, BrowserAuthenticator(opened.append)):
        with pytest.raises(DeviceError) as caught:
            authenticator.approve(record, forged, signed[1])
        assert caught.value.reason is Trouble.INTERNAL
    assert not opened


def test_page_shows_only_what_was_signed(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    from dataclasses import replace

    record = SoftwareAuthenticator(home).create(home, device_key_hash=bytes(32))
    with pytest.raises(DeviceError) as caught:
        BrowserAuthenticator(lambda _: None).approve(record, signed[0], replace(signed[1], digest=bytes(32)))
    assert caught.value.reason is Trouble.INTERNAL


def test_lost_software_key_is_named(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    made = SoftwareAuthenticator(home)
    record = made.create(home, device_key_hash=bytes(32))
    home.remove(SOFTWARE_FILE)
    with pytest.raises(DeviceError) as caught:
        made.approve(record, *signed)
    assert caught.value.reason is Trouble.K11_MISSING


# --- what a browser answers -----------------------------------------------------------------------------------------


def test_reads_a_new_key_and_its_assertion() -> None:
    key = Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    numbers = key.private.public_key().public_numbers()
    assert (record.x, record.y) == (numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))
    assertion = read_assertion(key.get(CHALLENGE), challenge=CHALLENGE, record=record)
    assert verify_assertion(assertion, challenge=CHALLENGE, public=record.public) == 2
    assert K11Record.parse(record.encode()) == record


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Key().create(bytes(32)),
        lambda: Key(origin="http://localhost:8723").create(CHALLENGE),
        lambda: Key(rp="example.org").create(CHALLENGE),
        lambda: Key().create(CHALLENGE, kind="webauthn.get"),
        lambda: Key().create(CHALLENGE, flags=0x01),
        lambda: Key().create(CHALLENGE, flags=0x04),
        lambda: Key().create(CHALLENGE, key=RS256({1: 3, 3: -257, -1: bytes(256), -2: b"\1\0\1"})),
        lambda: Key().create(CHALLENGE) | {"credential_id": "AAAA"},
        lambda: Key().create(CHALLENGE) | {"more": "AAAA"},
        lambda: Key().create(CHALLENGE) | {"attestation_object": b64u_encode(cbor.encode({"fmt": "none"}))},
        lambda: Key().create(CHALLENGE) | {"attestation_object": b64u_encode(b"\xff" * 40)},
        lambda: Key().create(CHALLENGE) | {"attestation_object": 1},
        list,
    ],
    ids=[
        "challenge",
        "origin",
        "rp",
        "type",
        "no uv",
        "no up",
        "rsa",
        "id",
        "unknown",
        "no data",
        "no cbor",
        "no text",
        "list",
    ],
)
def test_refuses_odd_creation(answer: Callable[[], object]) -> None:
    invalid(read_creation, answer(), challenge=CHALLENGE)


@pytest.mark.parametrize("cut", [40, 60, 75, 90])
def test_refuses_truncated_authenticator_data(cut: int) -> None:
    key = Key()
    whole = key.create(CHALLENGE)
    data = bytes(AttestationObject(b64u_decode(whole["attestation_object"])).auth_data)[:cut]
    broken = cbor.encode({"attStmt": {}, "authData": data, "fmt": "none"})
    invalid(read_creation, whole | {"attestation_object": b64u_encode(broken)}, challenge=CHALLENGE)


def test_refuses_bytes_behind_the_key() -> None:
    key = Key()
    whole = key.create(CHALLENGE)
    data = bytes(AttestationObject(b64u_decode(whole["attestation_object"])).auth_data) + b"\x00"
    broken = cbor.encode({"attStmt": {}, "authData": data, "fmt": "none"})
    invalid(read_creation, whole | {"attestation_object": b64u_encode(broken)}, challenge=CHALLENGE)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ({"challenge": bytes(32)}, {}),
        ({"flags": 0x01}, {}),
        ({"flags": 0x04}, {}),
        ({"kind": "webauthn.create"}, {}),
        ({"crossOrigin": True}, {}),
        ({"origin": "http://localhost:8723"}, {}),
        ({}, {"signature": "AAAA"}),
        ({}, {"credential_id": "AAAA"}),
        ({}, {"authenticator_data": "AAAA"}),
        ({}, {"client_data_json": "AAAA"}),
        ({}, {"more": "AAAA"}),
    ],
)
def test_refuses_odd_assertion(words: dict[str, Any], change: dict[str, str]) -> None:
    key = Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    answer = key.get(**({"challenge": CHALLENGE} | words)) | change
    invalid(read_assertion, answer, challenge=CHALLENGE, record=record)


def test_refuses_assertion_of_another_key() -> None:
    key, other = Key(), Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    invalid(read_assertion, other.get(CHALLENGE), challenge=CHALLENGE, record=record)


# --- the page -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Visit:
    """Runs a ceremony in a thread and talks to its page."""

    def __init__(self, run: Callable[[Callable[[str], None], int], object]) -> None:
        self.port = free_port()
        self.result: Any = None
        self.error: DeviceError | None = None
        self.key = Key()
        self._opened = threading.Event()

        def announce(address: str) -> None:
            self.base, _, self.token = address.partition("/#")
            self._opened.set()

        def work() -> None:
            try:
                self.result = run(announce, self.port)
            except DeviceError as exc:
                self.error = exc

        self.thread = threading.Thread(target=work)
        self.thread.start()
        assert self._opened.wait(10)
        self.origin = self.base
        self.client = httpx.Client(trust_env=False)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(self.base + path, headers=headers)

    def task(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/task", **{page.TOKEN_HEADER: self.token}).json()
        return found

    def post(self, body: object, **headers: str) -> httpx.Response:
        told = {page.TOKEN_HEADER: self.token, "Origin": self.origin, "Content-Type": "application/json"} | headers
        told = {name: value for name, value in told.items() if value}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(self.base + "/answer", content=content, headers=told)

    def end(self) -> None:
        if self.thread.is_alive():
            self.post({"declined": True})
        self.thread.join(10)
        self.client.close()


@pytest.fixture
def visit(home: Home, signed: tuple[SignedDigest, Intent]) -> Iterator[Visit]:
    key = Key()
    record = read_creation(key.create(CHALLENGE), challenge=CHALLENGE)
    made = Visit(lambda announce, port: BrowserAuthenticator(announce, port=port).approve(record, *signed))
    made.key = key
    yield made
    made.end()


def test_whole_approval_over_http(visit: Visit, signed: tuple[SignedDigest, Intent]) -> None:
    task = visit.task()
    assert task["title"] == "Freeze everything of this operator"
    assert task["digest"] == signed[0].name.hex()
    assert ["operator", "00" * 32] in task["lines"]
    assert task["options"]["userVerification"] == "required"
    challenge = b64u_decode(task["options"]["challenge"])
    assert challenge == signed[0].challenge
    assert visit.post(visit.key.get(bytes(32))).status_code == 400  # wrong challenge: may be tried again
    assert visit.post(visit.key.get(challenge)).status_code == 200
    visit.thread.join(10)
    assert isinstance(visit.result, K11Assertion)


def test_whole_creation_over_http(home: Home) -> None:
    key = Key()
    made = Visit(
        lambda announce, port: BrowserAuthenticator(announce, port=port).create(home, device_key_hash=bytes(32))
    )
    task = made.task()
    assert task["kind"] == "create"
    assert task["options"]["rp"]["id"] == "localhost"
    assert task["options"]["authenticatorSelection"]["userVerification"] == "required"
    assert made.post(key.create(b64u_decode(task["options"]["challenge"]))).status_code == 200
    made.thread.join(10)
    made.client.close()
    assert made.result.credential_id == key.id
    assert made.result.public.origin_hash != bytes(32)


def test_declining_is_an_answer(visit: Visit) -> None:
    assert visit.post({"declined": True}).status_code == 200
    visit.thread.join(10)
    assert visit.error is not None
    assert visit.error.reason is Trouble.DECLINED


def test_page_has_a_strict_policy_and_no_inline_script(visit: Visit) -> None:
    for path in ("/", "/page.js", "/page.css"):
        found = visit.get(path)
        assert found.status_code == 200
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert found.headers["x-frame-options"] == "DENY"
        assert found.headers["cache-control"] == "no-store"
        assert visit.token not in found.text
    html = visit.get("/").text
    assert "<script>" not in html
    assert "style=" not in html
    assert "onclick" not in html
    assert "innerHTML" not in visit.get("/page.js").text


def test_task_needs_the_token(visit: Visit) -> None:
    assert visit.get("/task").status_code == 403
    assert visit.get("/task", **{page.TOKEN_HEADER: "wrong"}).status_code == 403
    assert visit.get("/task?token=" + visit.token).status_code == 404
    assert visit.get("/task", **{page.TOKEN_HEADER: visit.token, "Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_answer_needs_token_origin_and_type(visit: Visit, signed: tuple[SignedDigest, Intent]) -> None:
    good = visit.key.get(signed[0].challenge)
    assert visit.post(good, **{page.TOKEN_HEADER: "wrong"}).status_code == 403
    assert visit.post(good, Origin="http://localhost:8723").status_code == 403
    assert visit.post(good, Origin="").status_code == 403
    assert visit.post(good, **{"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert visit.post(good, **{"Content-Type": "text/plain"}).status_code == 400
    assert visit.post(b"x" * (page.MAX_ANSWER_BYTES + 1)).status_code == 413
    assert visit.post(b"[").status_code == 400
    assert visit.client.post(visit.base + "/other").status_code == 404
    assert visit.client.request("OPTIONS", visit.base + "/answer").status_code == 501
    assert visit.thread.is_alive()


def test_rebound_host_names_are_refused(visit: Visit) -> None:
    for host in ("evil.example", f"evil.example:{visit.port}", f"127.0.0.1:{visit.port}", "localhost"):
        assert visit.get("/", Host=host).status_code == 403
        assert visit.get("/task", Host=host, **{page.TOKEN_HEADER: visit.token}).status_code == 403
        assert visit.post({"declined": True}, Host=host).status_code == 403


def test_nobody_approves_in_time(home: Home, signed: tuple[SignedDigest, Intent]) -> None:
    record = SoftwareAuthenticator(home).create(home, device_key_hash=bytes(32))
    with pytest.raises(DeviceError) as caught:
        BrowserAuthenticator(lambda _: None, port=free_port(), timeout_s=0.1).approve(record, *signed)
    assert caught.value.reason is Trouble.K11_TIMEOUT


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_taken_port_is_refused_on_either_loopback_address(
    home: Home, signed: tuple[SignedDigest, Intent], host: str
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    record = SoftwareAuthenticator(home).create(home, device_key_hash=bytes(32))
    opened: list[str] = []
    with taken, pytest.raises(DeviceError) as caught:
        BrowserAuthenticator(opened.append, port=taken.getsockname()[1]).approve(record, *signed)
    assert caught.value.reason is Trouble.K11_PAGE_UNAVAILABLE
    assert not opened


def test_init_with_the_page(person: Callable[[str], Person], monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key()

    def visit(task: page.Task, announce: Callable[[str], None], **_: object) -> None:
        announce("http://localhost:8722/#token")
        challenge = b64u_decode(task.options["challenge"])
        task.accept(key.create(challenge) if task.kind == "create" else key.get(challenge))

    monkeypatch.setattr(browser, "run_ceremony", visit)
    made = person("p")
    outcome = made("init", *made.profile_words(), "--wallet-key-file", made.wallet_file)
    assert outcome.code == 0, outcome.err
    assert "http://localhost:8722/#" in outcome.err
    assert made("unfreeze").code == 0
    assert made.init().data["status"] == "already_enrolled"
