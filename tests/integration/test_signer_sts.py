"""Cloud sessions against an STS endpoint that verifies everything, and against ones that answer nonsense."""

import re
import time
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

import pytest
from cryptography.x509 import DNSName
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.audit import AuditRow
from agentkeys_core.captoken import Cap
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op
from signer.adapters.sts import MAX_ANSWER, StsClient
from signer.clock import SystemClock
from tests.fakes.sts_endpoint import StsEndpoint, answer_xml, sts_endpoint
from tests.integration.signer_process import SignerProcess, refusal
from tests.integration.signer_user import Deployed, store, stub
from tests.unit.runtime.certificates import SERVER, Files, Issuer

ARN = "arn:aws:iam::000000000000:role/credentials"
ISSUER = "https://issuer.example.org"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("sts")
    files = Files(folder / "tls")
    files.write(Issuer(), names=(DNSName("localhost"),), usages=(SERVER,))
    made = StsEndpoint(issuer=ISSUER, audience="sts.amazonaws.com", role_arns=frozenset({ARN}))
    (folder / "site").mkdir()
    with sts_endpoint(made, published=folder / "site", certificate=files.certificate, key=files.key):
        made.folder = folder
        yield made


@pytest.fixture(scope="module")
def signer(endpoint: Any, tmp_path_factory: Any) -> Any:
    tables = (
        f'[sts]\nendpoint = "{endpoint.url}"\nca = "{endpoint.folder / "tls" / "ca.pem"}"\naudience = "sts.amazonaws.com"\n'
        f'issuer = "{ISSUER}"\nbucket = "keys-bucket"\n[sts.role_arns]\ncredentials = ["{ARN}"]\n'
    )
    made = SignerProcess(tmp_path_factory.mktemp("signer"), tables=tables)
    made.prepare()
    made.command("oidc", "export", str(endpoint.folder / "site"), check=True)
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


def ask(channel: Any, cap: Any, arn: Any = ARN) -> Any:
    return stub(channel).StsCredentials(signer_pb2.StsCredentialsRequest(cap=cap, role_arn=arn), timeout=20)


@pytest.mark.parametrize(
    ("op", "verb"),
    [(Op.CRED_FETCH, "s3:GetObject"), (Op.CRED_STORE, "s3:PutObject"), (Op.CRED_DELETE, "s3:DeleteObject")],
)
def test_a_session_opens_exactly_the_object_and_verb_of_its_cap(
    signer: Any, endpoint: Any, user: Any, op: Any, verb: Any
) -> None:
    cap = user.cap(op, f"cred:{op}", touch=op is not Op.CRED_STORE)
    with signer.channel("worker") as channel:
        found = ask(channel, cap)
    granted = endpoint.granted[-1]
    digest = Cap.parse(cap).digest
    assert granted["session"] == digest.hex()
    assert granted["claims"]["sub"] == user.person.operator.hex()
    assert granted["statement"]["Action"] == [verb]
    path = f"arn:aws:s3:::keys-bucket/bots/{user.person.operator.hex()}/credentials/{op}.enc"
    assert granted["statement"]["Resource"] == [path]
    assert (found.access_key_id, found.session_token) == ("AKIDEXAMPLE", "token-of-the-session")
    assert 0 < found.expires_at - time.time() <= 900
    assert AuditRow.parse(found.row).actor == user.person.operator
    assert found.secret_access_key not in signer.log


def test_a_role_off_the_list_is_refused_before_the_endpoint_is_asked(signer: Any, endpoint: Any, user: Any) -> None:
    before = len(endpoint.granted) + len(endpoint.refused)
    with signer.channel("worker") as channel:
        cap = user.cap(Op.CRED_FETCH, "cred:cloud", touch=True)
        error = refusal(lambda: ask(channel, cap, arn=ARN + "-other"))
    assert error.reason is Reason.ROLE_ARN_NOT_ALLOWED
    assert len(endpoint.granted) + len(endpoint.refused) == before


def test_a_session_of_an_object_does_not_replace_its_key(signer: Any, user: Any) -> None:
    with signer.channel("worker") as channel:
        _, released, _ = store(channel, user, "cred:both")
        cap = user.cap(Op.CRED_FETCH, "cred:both", touch=True)
        ask(channel, cap)
        request = signer_pb2.DeriveCredKekRequest(cap=cap, epoch=released.epoch, salt=released.salt)
        assert stub(channel).DeriveCredKek(request, timeout=10).key == released.key


def test_an_endpoint_that_does_not_take_the_token_is_a_named_refusal(signer: Any, endpoint: Any, user: Any) -> None:
    endpoint.audience, before = "another audience", endpoint.audience
    try:
        with signer.channel("worker") as channel:
            cap = user.cap(Op.CRED_FETCH, "cred:cloud", touch=True)
            assert refusal(lambda: ask(channel, cap)).reason is Reason.STS_UNREACHABLE
    finally:
        endpoint.audience = before
    assert "InvalidAudienceError" in endpoint.refused[-1]


def xml(text: Any, **changes: Any) -> Any:
    data = answer_xml(expires=time.time() + 900)
    for old, new in changes.items():
        data = data.replace(old.encode(), new.encode())
    return text or data


BOMB = b'<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><x>&c;</x>'
REFUSAL = (
    '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Code>%s</Code></Error></ErrorResponse>'
)
NONSENSE = {
    "a code that quotes": lambda: (403, (REFUSAL % "a token").encode()),
    "a code for ever": lambda: (403, (REFUSAL % ("A" * 65)).encode()),
    "a refusal that is no xml": lambda: (403, b"a token"),
    "a refusal with entities": lambda: (403, BOMB),
    "status": lambda: (302, b""),
    "empty": lambda: (200, b""),
    "text": lambda: (200, b"hello"),
    "not utf-8": lambda: (200, b"\xff\xfe\xfa"),
    "other xml": lambda: (200, b"<a/>"),
    "entities": lambda: (200, BOMB),
    "too large": lambda: (200, b" " * (MAX_ANSWER + 1)),
    "no secret": lambda: (200, xml(None, **{"secret-of-the-session": ""})),
    "no time": lambda: (200, xml(None, **{datetime.now(UTC).strftime("%Y-"): "soon"})),
    "over already": lambda: (200, answer_xml(expires=time.time() - 1)),
    "too long": lambda: (200, answer_xml(expires=time.time() + 86_400)),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_a_named_refusal(endpoint: Any, kind: Any) -> None:
    client = StsClient(endpoint=endpoint.url, ca=endpoint.folder / "tls" / "ca.pem", clock=SystemClock())
    endpoint.answer = NONSENSE[kind]
    try:
        with pytest.raises(KeyServiceError) as caught:
            client.assume_role(role_arn=ARN, session_name="ab", token="a token", policy="{}")
    finally:
        endpoint.answer = None
    assert caught.value.reason is Reason.STS_UNREACHABLE
    assert "secret-of" not in caught.value.detail
    assert "a token" not in caught.value.detail


@settings(max_examples=60, deadline=None)
@given(
    status=st.sampled_from([200, 400, 403, 500]),
    answer=st.binary(max_size=300) | st.text(max_size=80).map(lambda text: (REFUSAL % escape(text)).encode()),
)
def test_whatever_an_endpoint_answers_is_a_named_refusal_in_its_own_words_or_none(
    endpoint: Any, status: Any, answer: Any
) -> None:
    client = StsClient(endpoint=endpoint.url, ca=endpoint.folder / "tls" / "ca.pem", clock=SystemClock())
    endpoint.answer = lambda: (status, answer)
    try:
        with pytest.raises(KeyServiceError) as caught:
            client.assume_role(role_arn=ARN, session_name="ab", token="a token", policy="{}")
    finally:
        endpoint.answer = None
    assert caught.value.reason is Reason.STS_UNREACHABLE
    assert re.fullmatch(r"HTTP status \d{3}, (no code|[A-Za-z]{1,64})|the answer [a-zA-Z ]+", caught.value.detail)


@pytest.mark.parametrize("url", ["https://localhost:1", "http://127.0.0.1:1"])
def test_an_endpoint_that_is_not_there_is_a_named_refusal(url: Any) -> None:
    client = StsClient(endpoint=url, ca=None, clock=SystemClock())
    with pytest.raises(KeyServiceError) as caught:
        client.assume_role(role_arn=ARN, session_name="ab", token="a token", policy="{}")
    assert caught.value.reason is Reason.STS_UNREACHABLE


def test_an_endpoint_with_a_foreign_certificate_gets_no_token(endpoint: Any) -> None:
    client = StsClient(endpoint=endpoint.url, ca=None, clock=SystemClock())
    before = len(endpoint.granted) + len(endpoint.refused)
    with pytest.raises(KeyServiceError) as caught:
        client.assume_role(role_arn=ARN, session_name="ab", token="a token", policy="{}")
    assert caught.value.reason is Reason.STS_UNREACHABLE
    assert len(endpoint.granted) + len(endpoint.refused) == before
