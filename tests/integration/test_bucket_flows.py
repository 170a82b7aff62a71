"""Lost answers, refusals and races of the object service over a real bucket; the signer's use cases run in this process.

Sessions here are MinIO's own, of a user who may do everything: which session opens what is the business of
tests/adversarial/test_9_cloud_sessions.py.
"""

import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from minio.credentials.providers import AssumeRoleProvider

from agentkeys_core.audit import AuditRow, OpResult
from agentkeys_core.bodies import FetchAnswer, StoreBody
from agentkeys_core.encoding import canonical_json
from agentkeys_core.envelope import MAX_ENVELOPE_BYTES
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import HOLD_S
from signer.ports import StsSession
from tests.fakes.services_kit import Answered, Asked, Services, services_in
from tests.minio import BUCKET, REGION, MinioServer, minio_running
from tests.unit.signer.world import ARN
from worker.adapters.objects_s3 import BEGIN_WITHIN_S, Bucket, S3Held
from worker.adapters.signer import AdmittedSigner


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    root = tmp_path_factory.mktemp("minio")
    authority, certificate = trustme.CA(), root / "certificate"
    leaf = authority.issue_cert("127.0.0.1")
    certificate.mkdir()
    leaf.private_key_pem.write_to_path(certificate / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(certificate / "cert.pem")
    authority.cert_pem.write_to_path(certificate / "ca.pem")
    with minio_running(MinioServer(folder=root / "server", certificate=certificate)) as made:
        yield made


def session_of(store: MinioServer, **given: str) -> StsSession:
    """A session of the host's own user."""
    found = AssumeRoleProvider(
        sts_endpoint=store.url,
        access_key=store.root,
        secret_key=store.password,
        region=REGION,
        http_client=store._http(),
        **given,  # type: ignore[arg-type]
    ).retrieve()
    return StsSession(
        access_key_id=found.access_key,
        secret_access_key=found.secret_key,
        session_token=found.session_token or "",
        expires_at=1,
    )


class Exchange:
    """Sessions of a user who may do everything."""

    def __init__(self, store: MinioServer) -> None:
        self.session = session_of(store)

    def assume_role(self, **_asked: str) -> StsSession:
        return self.session


def bucket_of(store: MinioServer, **changed: object) -> Bucket:
    given = {"endpoint": store.url, "region": REGION, "name": BUCKET, "role_arn": ARN, "ca": store.ca.read_bytes()}
    return Bucket(**(given | changed))  # type: ignore[arg-type]


@pytest.fixture
def services(store: MinioServer, tmp_path: Path) -> Iterator[Services]:
    with services_in(tmp_path, exchange=Exchange(store), bucket=bucket_of(store)) as made:
        store.owner.remove_object(BUCKET, path_of(made))  # of the same user in the test before
        yield made


def path_of(services: Services, name: str = "openrouter") -> str:
    return f"bots/{services.world.user.operator.hex()}/credentials/{name}.enc"


def in_bucket(store: MinioServer, services: Services) -> bytes | None:
    found = [entry.object_name for entry in store.owner.list_objects(BUCKET, recursive=True)]
    if path_of(services) not in found:
        return None
    with store.owner.get_object(BUCKET, path_of(services)) as response:
        return bytes(response.data)


def put_in_bucket(store: MinioServer, services: Services, data: bytes) -> None:
    store.owner.put_object(BUCKET, path_of(services), io.BytesIO(data), len(data))


def value_in(answered: Answered) -> bytes:
    assert answered.reason == "ok", answered.json
    return StoreBody.parse(FetchAnswer.parse(answered.plaintext).body).value


def stored(services: Services, value: bytes = b"secret", expect: bytes | None = None) -> Asked:
    asked = services.store(value, expect=expect)
    assert services.send(asked).reason == "ok"
    return asked


def result_of(answered: Answered) -> OpResult:
    return AuditRow.parse(canonical_json(answered.row)).content().result


def refuse(services: Services, call: str, reason: Reason, *, after: bool = False, times: int = 1) -> None:
    """Let the signer refuse that call, or its answer get lost."""
    left = [call] * times

    def hook(name: str) -> None:
        if name in left:
            left.remove(name)
            raise KeyServiceError(reason)

    setattr(services.signer, "after" if after else "before", hook)


@pytest.mark.parametrize("value", [b"\x00", bytes(range(256)) * 256])
def test_a_stored_value_comes_back_byte_for_byte(services: Services, store: MinioServer, value: bytes) -> None:
    first = stored(services, b"first")
    stored(services, value, first.digest)
    assert value_in(services.send(services.fetch())) == value
    assert value not in (in_bucket(store, services) or b"") or len(value) == 1
    assert services.signer.calls[:3] == ["session", "derive", "row0"]


def test_a_lost_answer_is_given_again(services: Services) -> None:
    asked = services.store()
    first, again = services.send(asked), services.send(asked)
    assert (again.reason, again.row, again.plaintext) == ("ok", first.row, first.plaintext)


@pytest.mark.parametrize("after", [False, True])
def test_an_acknowledgement_that_got_lost_is_asked_for_again(services: Services, *, after: bool) -> None:
    refuse(services, "row0", Reason.SIGNER_UNREACHABLE, after=after)
    stored(services)
    assert value_in(services.send(services.fetch())) == b"secret"


def test_a_store_whose_acknowledgement_never_came_ends_when_asked_again(services: Services) -> None:
    refuse(services, "row0", Reason.SIGNER_UNREACHABLE, times=3)
    asked = services.store()
    assert services.send(asked).reason == "signer_unreachable"
    assert services.send(asked).reason == "ok"
    assert value_in(services.send(services.fetch())) == b"secret"


def test_what_another_worker_may_have_overwritten_is_not_acknowledged(services: Services) -> None:
    refuse(services, "row0", Reason.SIGNER_UNREACHABLE, times=3)
    early = services.store(b"early")
    assert services.send(early).reason == "signer_unreachable"
    services.world.clock.forward(HOLD_S + 1)
    service = services.service
    services.restart()  # another worker, which knows nothing of the first store
    stored(services, b"late")
    services.service = service
    assert services.send(early).reason == "version_not_current"
    assert value_in(services.send(services.fetch())) == b"late"


def test_after_a_crash_the_object_is_free_again_when_its_hold_is_over(services: Services) -> None:
    refuse(services, "row0", Reason.SIGNER_UNREACHABLE, times=3)
    assert services.send(services.store(b"old")).reason == "signer_unreachable"
    services.restart()
    assert services.send(services.store(b"new")).reason == "overloaded"
    services.world.clock.forward(HOLD_S + 1)
    assert value_in(services.send(services.fetch())) == b"old"  # the read makes it current
    expect = services.send(services.names())
    assert expect.reason == "ok"


def test_a_store_that_expects_another_version_writes_nothing_and_lets_go(services: Services) -> None:
    first = stored(services)
    assert services.send(services.store(b"other", expect=bytes(32))).reason == "version_not_current"
    assert services.world.count("holds") == 0
    stored(services, b"next", first.digest)
    assert value_in(services.send(services.fetch())) == b"next"


def test_a_session_that_is_refused_releases_no_key(services: Services, store: MinioServer) -> None:
    refuse(services, "session", Reason.STS_UNREACHABLE)
    asked = services.store()
    answered = services.send(asked)
    assert (answered.status, answered.reason) == (503, "sts_unreachable")
    assert services.signer.calls == ["session"]
    assert services.send(asked).reason == "ok"


def test_of_many_stores_at_once_one_becomes_current_and_its_value_is_served(services: Services) -> None:
    """Two workers, each with threads of its own: the signer lets one of them at the object at a time."""
    answers: list[Answered] = []
    values = [f"value {number}".encode() for number in range(6)]

    def one(value: bytes) -> None:
        answers.append(services.send(services.store(value)))

    threads = [threading.Thread(target=one, args=(value,)) for value in values]
    for number, thread in enumerate(threads):
        if number == len(threads) // 2:
            services.restart()
        thread.start()
    for thread in threads:
        thread.join()
    reasons = sorted(answered.reason for answered in answers)
    assert reasons.count("ok") == 1
    assert set(reasons) <= {"ok", "version_not_current", "k11_required", "overloaded"}
    assert value_in(services.send(services.fetch())) in values


def test_nothing_stored_is_a_recorded_failure(services: Services) -> None:
    answered = services.send(services.fetch())
    assert (answered.status, answered.reason) == (404, "object_not_found")
    assert result_of(answered) is OpResult.FAILURE


@pytest.mark.parametrize("data", [b"", b"\x05", bytes(200), bytes(MAX_ENVELOPE_BYTES + 1)])
def test_what_is_no_envelope_is_a_recorded_failure(services: Services, store: MinioServer, data: bytes) -> None:
    stored(services)
    put_in_bucket(store, services, data)
    answered = services.send(services.fetch())
    assert answered.reason in {"invalid_envelope", "unsupported_version"}
    assert result_of(answered) is OpResult.FAILURE


def test_a_restored_bucket_brings_no_old_value_back(services: Services, store: MinioServer) -> None:
    first = stored(services, b"old")
    old = in_bucket(store, services)
    stored(services, b"new", first.digest)
    assert old is not None
    put_in_bucket(store, services, old)
    assert services.send(services.fetch()).reason == "version_not_current"


def test_a_delete_closes_and_removes(services: Services, store: MinioServer) -> None:
    stored(services)
    asked = services.delete()
    first, again = services.send(asked), services.send(asked)
    assert (again.reason, again.row, again.plaintext) == ("ok", first.row, first.plaintext)
    assert in_bucket(store, services) is None
    assert services.send(services.fetch()).reason == "object_not_found"
    assert services.world.count("holds") == 0
    assert services.send(services.delete()).reason == "ok", "nothing to remove is fine"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_delete_sent_again_does_not_remove_what_was_stored_since(services: Services, *, restarted: bool) -> None:
    stored(services, b"old")
    asked = services.delete()
    assert services.send(asked).reason == "ok"
    stored(services, b"new")
    if restarted:
        services.restart()
    assert services.send(asked).reason == "ok"
    assert value_in(services.send(services.fetch())) == b"new"


@pytest.mark.parametrize("restarted", [False, True])
def test_a_delete_whose_removal_failed_ends_when_asked_again(
    services: Services, store: MinioServer, *, restarted: bool
) -> None:
    stored(services)
    asked = services.delete()
    refuse(services, "session", Reason.STS_UNREACHABLE)
    assert services.send(asked).reason == "sts_unreachable"
    assert in_bucket(store, services) is not None
    assert services.send(services.fetch()).reason == "version_not_current", "closed already"
    if restarted:
        services.restart()
    assert services.send(asked).reason == "ok"
    assert in_bucket(store, services) is None


def test_a_delete_that_the_signer_refused_removes_nothing(services: Services, store: MinioServer) -> None:
    stored(services)
    asked = services.delete()
    refuse(services, "row0", Reason.OPERATOR_FROZEN)
    assert services.send(asked).reason == "operator_frozen"
    assert in_bucket(store, services) is not None
    assert services.send(asked).reason == "ok"
    assert in_bucket(store, services) is None


@pytest.mark.parametrize("operation", ["store", "fetch", "delete"])
def test_a_store_that_is_gone_is_a_named_refusal(
    services: Services, store: MinioServer, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored(services)
    asked = {"store": lambda: services.store(service="cred:b"), "fetch": services.fetch, "delete": services.delete}
    services.bucket = bucket_of(store, endpoint="https://127.0.0.1:1")
    services.restart()
    answered = services.send(asked[operation]())
    assert (answered.status, answered.reason) == (503, "object_store_unavailable")
    if operation != "delete":
        assert result_of(answered) is OpResult.FAILURE
    assert "127.0.0.1:1" not in caplog.text + str(answered.json)


@pytest.mark.parametrize("changed", [{"ca": None}, {"name": "no-such-bucket"}])
def test_a_store_that_cannot_be_trusted_or_used_is_a_named_refusal(
    services: Services, store: MinioServer, changed: dict[str, object]
) -> None:
    services.bucket = bucket_of(store, **changed)
    services.restart()
    answered = services.send(services.store())
    assert (answered.status, answered.reason) == (503, "object_store_unavailable")
    assert result_of(answered) is OpResult.FAILURE


def test_a_refusal_that_says_nothing_of_the_object_is_no_missing_object(services: Services, store: MinioServer) -> None:
    stored(services)
    found = services.world.exchange
    assert isinstance(found, Exchange)
    session = found.session
    found.session = StsSession(
        access_key_id=session.access_key_id,
        secret_access_key="another secret",
        session_token=session.session_token,
        expires_at=1,
    )
    assert services.send(services.fetch()).reason == "object_store_unavailable"


def test_an_object_that_the_session_may_not_know_of_counts_as_missing(services: Services, store: MinioServer) -> None:
    """AWS answers so for every missing object: who may not list is not told."""
    stored(services)
    elsewhere = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{BUCKET}/elsewhere"]}
    found = services.world.exchange
    assert isinstance(found, Exchange)
    found.session = session_of(store, policy=json.dumps({"Version": "2012-10-17", "Statement": [elsewhere]}))
    answered = services.send(services.fetch())
    assert (answered.status, answered.reason) == (404, "object_not_found")
    assert result_of(answered) is OpResult.FAILURE


def test_what_would_outlast_its_hold_is_not_begun(services: Services, store: MinioServer) -> None:
    """A worker that slept between session and write could overwrite what another has stored since."""
    asked = services.store()
    admitted = services.admission().admit(asked.parsed.request.op, asked.cap, asked.body)
    now = [0.0]
    held = S3Held(bucket_of(store), AdmittedSigner(services.signer), admitted, lambda: now[0])
    held.claim()
    now[0] = BEGIN_WITHIN_S + 0.1
    with pytest.raises(KeyServiceError) as caught:
        held.write(b"late")
    assert caught.value.reason == "object_store_unavailable"
    assert in_bucket(store, services) is None


@pytest.mark.parametrize("name", ["AWS_SKIP_SIGNATURE", "AWS_ENDPOINT_URL", "AWS_SSE_KMS_KEY_ID"])
def test_the_environment_changes_nothing(services: Services, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "true")
    services.restart()
    assert name not in os.environ
    stored(services)


def test_sessions_show_nowhere(
    services: Services, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    exchange = services.world.exchange
    assert isinstance(exchange, Exchange)
    stored(services)
    services.send(services.fetch())
    services.send(services.delete())
    told = caplog.text + "".join(capfd.readouterr()) + repr(exchange.session)
    told += "".join(str(record.__dict__) for record in caplog.records)
    assert exchange.session.secret_access_key not in told
    assert exchange.session.session_token not in told


def test_nothing_of_a_session_is_kept(services: Services) -> None:
    """Two fetches are two sessions: what one request was given never serves another."""
    stored(services)
    services.signer.calls.clear()
    for _ in range(2):
        services.send(services.fetch())
    assert services.signer.calls == ["session", "derive"] * 2
