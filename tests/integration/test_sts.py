"""Cloud sessions through a running signer: each class with its own roles, keys that change hands, peers that break."""

import json
import shutil
import socket
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import DNSName

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import AuditRow, OpKind, OpResult
from agentkeys_core.bodies import ListBody
from agentkeys_core.captoken import Cap
from agentkeys_core.errors import Reason
from agentkeys_core.keys import ES256PublicKey, parse_jwks
from agentkeys_core.ops import Op
from signer.tokens import BACKDATED_S
from tests.fakes.sts_endpoint import NAMESPACE, TAGS, StsEndpoint, answer_xml, sts_endpoint
from tests.integration.signer_process import SignerProcess, refusal
from tests.integration.signer_user import Deployed, stub
from tests.integration.sts_endpoint import Peer, http_answer, says_nothing, sends, sends_for_ever
from tests.unit.runtime.certificates import SERVER, Files, Issuer, uri

CREDENTIALS = "arn:aws:iam::000000000000:role/credentials"
MEMORY = "arn:aws:iam::000000000000:role/memory"
ISSUER = "https://issuer.example.org"
AUDIENCE = "sts.amazonaws.com"
SECRET = "secret-of-the-session"


@pytest.fixture(scope="module")
def site(tmp_path_factory: Any) -> Any:
    """The folder that the issuer's origin serves, and the endpoint that reads its keys there."""
    folder = tmp_path_factory.mktemp("issuer")
    files = Files(folder / "tls")
    files.write(Issuer(), names=(DNSName("localhost"),), usages=(SERVER,))
    made = StsEndpoint(issuer=ISSUER, audience=AUDIENCE, role_arns=frozenset({CREDENTIALS, MEMORY}))
    (folder / "site").mkdir()
    with sts_endpoint(made, published=folder / "site", certificate=files.certificate, key=files.key):
        made.folder = folder / "site"
        yield made


@pytest.fixture(scope="module")
def peer(site: Any) -> Any:
    made = Peer(site)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def signer(peer: Any, site: Any, tmp_path_factory: Any) -> Any:
    tables = (
        f'[sts]\nendpoint = "{peer.url}"\naudience = "{AUDIENCE}"\nissuer = "{ISSUER}"\nbucket = "keys-bucket"\n'
        f'[sts.role_arns]\ncredentials = ["{CREDENTIALS}"]\nmemory = ["{MEMORY}"]\n'
    )
    made = SignerProcess(tmp_path_factory.mktemp("signer"), tables=tables)
    made.prepare()
    made.leaf("memory", names=(uri("worker/memory/main"),))
    made.command("oidc", "export", str(site.folder), check=True)
    made.start()
    try:
        yield made
    finally:
        assert made.stop() == 0


@pytest.fixture(scope="module")
def user(signer: Any) -> Any:
    made = Deployed(signer)
    made.enrol()
    return made


@pytest.fixture(autouse=True)
def honest(peer: Any) -> Any:
    """Every test begins and ends with a peer that verifies."""
    yield
    peer.behaviour = None


def ask(signer: Any, cap: Any, *, worker: Any = "worker", arn: Any = CREDENTIALS) -> Any:
    with signer.channel(worker) as channel:
        return stub(channel).StsCredentials(signer_pb2.StsCredentialsRequest(cap=cap, role_arn=arn), timeout=30)


def fetch(user: Any) -> Any:
    return user.cap(Op.CRED_FETCH, "cred:cloud", touch=True)


def reason_of(signer: Any, cap: Any, **given: Any) -> Any:
    return refusal(lambda: ask(signer, cap, **given)).reason


@pytest.mark.parametrize(
    ("op", "verb"),
    [(Op.MEMORY_GET, "s3:GetObject"), (Op.MEMORY_PUT, "s3:PutObject"), (Op.MEMORY_DELETE, "s3:DeleteObject")],
)
def test_a_memory_session_opens_the_actors_own_object(signer: Any, site: Any, user: Any, op: Any, verb: Any) -> None:
    ask(signer, user.cap(op, f"memory:{op}"), worker="memory", arn=MEMORY)
    granted = site.granted[-1]
    owner = user.person.operator.hex()
    assert granted["role"] == MEMORY
    assert granted["statement"] == {
        "Action": [verb],
        "Effect": "Allow",
        "Resource": [f"arn:aws:s3:::keys-bucket/bots/{owner}/memory/{op}.enc"],
    }
    assert granted["claims"][TAGS] == {"principal_tags": {"agentkeys_actor_omni": [owner]}}


def test_a_token_says_who_asked_whom_and_for_five_minutes(signer: Any, site: Any, user: Any) -> None:
    before = int(time.time())
    ask(signer, fetch(user))
    claims = site.granted[-1]["claims"]
    assert (claims["iss"], claims["aud"], claims["sub"]) == (ISSUER, AUDIENCE, user.person.operator.hex())
    assert before <= claims["iat"] + BACKDATED_S == claims["nbf"] + BACKDATED_S <= time.time()
    assert claims["exp"] == claims["iat"] + 300
    assert claims["jti"].partition(".")[0] == site.granted[-1]["session"]
    ask(signer, fetch(user))
    assert site.granted[-1]["claims"]["jti"] != claims["jti"]


@pytest.mark.parametrize(("worker", "arn"), [("worker", MEMORY), ("worker", ""), ("worker", CREDENTIALS + "\n")])
def test_a_class_may_ask_for_its_own_roles_only(signer: Any, peer: Any, user: Any, worker: Any, arn: Any) -> None:
    asked = len(peer.forms)
    assert reason_of(signer, fetch(user), worker=worker, arn=arn) is Reason.ROLE_ARN_NOT_ALLOWED
    assert len(peer.forms) == asked


def test_a_worker_gets_no_session_for_a_cap_of_another_class(signer: Any, peer: Any, user: Any) -> None:
    asked = len(peer.forms)
    assert reason_of(signer, fetch(user), worker="memory", arn=MEMORY) is Reason.CLASS_MISMATCH
    cap = user.cap(Op.MEMORY_GET, "memory:travel")
    assert reason_of(signer, cap) is Reason.CLASS_MISMATCH
    assert reason_of(signer, fetch(user), worker="broker") is Reason.ROLE_NOT_ALLOWED
    assert len(peer.forms) == asked


def test_a_list_opens_no_object(signer: Any, peer: Any, user: Any) -> None:
    asked = len(peer.forms)
    cap = user.cap(Op.CRED_LIST, "cred:list", body=ListBody(after=None, limit=1).encode())
    assert reason_of(signer, cap) is Reason.INVALID_CAP
    assert len(peer.forms) == asked


def test_a_store_gets_one_session(signer: Any, peer: Any, user: Any) -> None:
    cap = user.cap(Op.CRED_STORE, "cred:once")
    ask(signer, cap)
    asked = len(peer.forms)
    assert reason_of(signer, cap) is Reason.CAP_REPLAYED
    assert len(peer.forms) == asked


def test_a_fetch_may_ask_again_and_each_session_has_its_row(signer: Any, site: Any, user: Any) -> None:
    cap = fetch(user)
    rows = [AuditRow.parse(ask(signer, cap).row) for _ in range(2)]
    assert rows[1].prev == rows[0].row_hash
    keys = parse_jwks((site.folder / ".well-known" / "agentkeys-audit-jwks.json").read_bytes())
    for row in rows:
        content = row.verify(keys)
        assert content.op_body.cap == Cap.parse(cap).digest
        assert (content.op_kind, content.op_body.svc) == (OpKind.CRED_FETCH, "cred:cloud")
        assert (content.op_body.salt, content.result) == (None, OpResult.SUCCESS)


def test_an_endpoint_of_another_issuer_refuses_the_token(signer: Any, site: Any, user: Any) -> None:
    site.issuer = "https://other.example.org"
    try:
        assert reason_of(signer, fetch(user)) is Reason.STS_UNREACHABLE
    finally:
        site.issuer = ISSUER
    assert "InvalidIssuer" in site.refused[-1]


def test_only_the_published_key_makes_a_token_count(signer: Any, site: Any, user: Any) -> None:
    published = site.folder / ".well-known" / "jwks.json"
    kept = site.folder / "kept.json"
    shutil.copy(published, kept)
    (key,) = json.loads(published.read_bytes())["keys"]
    foreign = ES256PublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key()).jwk()
    try:
        for keys, fault in (([foreign | {"kid": key["kid"]}], "InvalidSignature"), ([foreign], "PyJWKClientError")):
            published.write_text(json.dumps({"keys": keys}))
            assert reason_of(signer, fetch(user)) is Reason.STS_UNREACHABLE
            assert fault in site.refused[-1]
    finally:
        shutil.move(kept, published)
    assert ask(signer, fetch(user)).access_key_id


def test_a_cap_that_got_no_session_is_not_used_up(signer: Any, peer: Any, user: Any) -> None:
    cap = user.cap(Op.CRED_STORE, "cred:later")
    peer.stop()
    try:
        assert reason_of(signer, cap) is Reason.STS_UNREACHABLE
    finally:
        peer.start()
    assert ask(signer, cap).session_token


def test_an_endpoint_that_stays_silent_is_given_up(signer: Any, peer: Any, user: Any) -> None:
    peer.behaviour = says_nothing(7)
    since = time.monotonic()
    assert reason_of(signer, fetch(user)) is Reason.STS_UNREACHABLE
    assert 4 < time.monotonic() - since < 9


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(signer: Any, peer: Any, user: Any, status: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.3)
        location = b"Location: http://127.0.0.1:%d/\r\n" % elsewhere.getsockname()[1]
        peer.behaviour = sends(http_answer(good(), status=status, headers=location))
        assert reason_of(signer, fetch(user)) is Reason.STS_UNREACHABLE
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def good() -> bytes:
    return answer_xml(expires=time.time() + 900)


def bad_xml(changes: dict[str, str], prefix: bytes = b"") -> bytes:
    data = good()
    for old, new in changes.items():
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode())
    return prefix + data


LAUGHS = b"<!DOCTYPE l [<!ENTITY a0 'ha'>%s]>" % b"".join(
    b"<!ENTITY a%d '%s'>" % (number + 1, b"&a%d;" % number * 10) for number in range(9)
)
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BREAKS = {
    "nothing": lambda: sends(b""),
    "not http": lambda: sends(b"\x16\x03\x03\x00\x02\x02\x28"),
    "http 0.9": lambda: sends(good()),
    "bad status": lambda: sends(b"HTTP/1.1 two-hundred OK\r\n\r\n" + good()),
    "long header": lambda: sends(HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n"),
    "headers for ever": lambda: sends_for_ever(HEAD, b"X: y\r\n" * 1000),
    "body for ever": lambda: sends_for_ever(HEAD + b"\r\n", b" " * 65_536),
    "chunks for ever": lambda: sends_for_ever(CHUNKED, b"4000\r\n" + b" " * 0x4000 + b"\r\n"),
    "bad chunk": lambda: sends(CHUNKED + b"zz\r\nxx\r\n"),
    "cut off": lambda: sends(HEAD + b"Content-Length: 5000\r\n\r\n" + good()[:-5]),
    "100 for ever": lambda: sends_for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, pause_s=0.01),
    "byte by byte": lambda: sends_for_ever(HEAD + b"Content-Length: 5000\r\n\r\n", b" ", pause_s=0.5),
    "error": lambda: sends(http_answer(good(), status=403)),
    "created": lambda: sends(http_answer(good(), status=201)),
    "laughs": lambda: sends(http_answer(LAUGHS + bad_xml({SECRET: "&a9;"}))),
    "file entity": lambda: sends(
        http_answer(b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>' + bad_xml({SECRET: "&e;"}))
    ),
    "outer dtd": lambda: sends(http_answer(b'<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">' + good())),
    "unknown encoding": lambda: sends(http_answer(bad_xml({}, b'<?xml version="1.0" encoding="none-such"?>'))),
    "wide encoding": lambda: sends(http_answer(bad_xml({}, b'<?xml version="1.0" encoding="utf-7"?>'))),
    "deep": lambda: sends(http_answer(b"<a>" * 9000 + b"</a>" * 9000)),
    "unclosed": lambda: sends(http_answer(good()[:-5])),
    "two roots": lambda: sends(http_answer(good() + good())),
    "json": lambda: sends(http_answer(b'{"Credentials":{}}')),
    "other namespace": lambda: sends(http_answer(bad_xml({NAMESPACE: "https://sts.example.org/"}))),
    "no token": lambda: sends(http_answer(bad_xml({"token-of-the-session": ""}))),
    "no key id": lambda: sends(http_answer(bad_xml({"AccessKeyId": "AccessKey"}))),
    "year one": lambda: sends(http_answer(answer_xml(expires=-62_135_000_000))),
    "never": lambda: sends(http_answer(answer_xml(expires=253_402_000_000))),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_answer_is_a_named_refusal_and_leaves_nothing(signer: Any, peer: Any, user: Any, kind: Any) -> None:
    peer.behaviour = BREAKS[kind]()
    cap = fetch(user)
    since = time.monotonic()
    error = refusal(lambda: ask(signer, cap))
    assert error.reason is Reason.STS_UNREACHABLE
    assert time.monotonic() - since < 9  # a caller waits for 10 s
    assert not leaks(str(error), peer)
    assert not leaks(signer.log, peer)
    digest = Cap.parse(cap).digest.hex()
    lines = [line for line in signer.journal() if line["cap"] == digest]
    assert [line["kind"] for line in lines] in ([], ["refusal"])  # a refusal's line may be on its way still


def leaks(text: str, peer: Any) -> list[str]:
    """What of tokens and session secrets a text holds."""
    secrets = {SECRET, "token-of-the-session", *(form["WebIdentityToken"] for form in peer.forms)}
    return [secret for secret in secrets if secret in text]


def test_a_served_session_is_in_no_log(signer: Any, peer: Any, user: Any) -> None:
    found = ask(signer, fetch(user))
    assert found.secret_access_key == SECRET
    assert not leaks(signer.log, peer)
    assert not leaks(json.dumps(signer.journal()), peer)
