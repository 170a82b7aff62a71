"""Store, fetch, list and delete against the real signer's use cases: what is kept, answered, recorded, and refused."""

import threading

import pytest

from agentkeys_core.audit import AuditRow, OpResult
from agentkeys_core.bodies import DeleteAnswer, FetchAnswer, ListAnswer, StoreAnswer, StoreBody, request_hash
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.secret import Secret
from tests.fakes.services_kit import Answered, Services


def row_of(answered: Answered, services: Services) -> AuditRow:
    row = AuditRow.parse(canonical_json(answered.row))
    row.verify(services.world.audit_keys())
    return row


def value_in(answered: Answered) -> bytes:
    return StoreBody.parse(FetchAnswer.parse(answered.plaintext).body).value


def stored(services: Services, value: bytes = b"secret", expect: bytes | None = None) -> Answered:
    answered = services.send(services.store(value, expect=expect))
    assert answered.reason == "ok", answered.json
    return answered


def fetched(services: Services) -> Answered:
    return services.send(services.fetch())


def fail_once(services: Services, call: str, reason: Reason, *, after: bool = False) -> None:
    left = [call]

    def hook(name: str) -> None:
        if name in left:
            left.remove(name)
            raise KeyServiceError(reason)

    if after:
        services.signer.after = hook
    else:
        services.signer.before = hook


@pytest.mark.parametrize("value", [b"\x00", b"secret", bytes(range(256)) * 256])
def test_a_stored_value_comes_back_byte_for_byte(services: Services, value: bytes) -> None:
    answer = stored(services, value)
    row = row_of(answer, services)
    assert StoreAnswer.parse(answer.plaintext).row_hash == row.row_hash
    got = fetched(services)
    assert value_in(got) == value
    inside = FetchAnswer.parse(got.plaintext)
    assert inside.row == row
    assert inside.row.content().op_body.req == request_hash(inside.body)
    assert row_of(got, services).row_hash != row.row_hash


def test_an_agent_whose_scope_grants_it_fetches_what_the_master_stored(services: Services) -> None:
    stored(services)
    assert value_in(services.send(services.fetch(key=services.world.user.agent))) == b"secret"


def test_what_lies_at_rest_is_ciphertext(services: Services) -> None:
    stored(services, b"a very secret value")
    data = services.object_file().read_bytes()
    assert b"secret" not in data
    assert data[0] == 0x05
    assert services.object_file().stat().st_mode & 0o777 == 0o600


def test_names_are_listed_with_their_stores(services: Services) -> None:
    asked = services.store()
    services.send(asked)
    answered = services.send(services.names())
    (entry,) = ListAnswer.parse(answered.plaintext).names
    assert (entry.name, entry.store) == ("openrouter", asked.digest)
    row_of(answered, services)


def test_a_lost_answer_is_given_again(services: Services) -> None:
    asked = services.store()
    first, again = services.send(asked), services.send(asked)
    assert again.reason == "ok"
    assert again.row == first.row
    assert again.plaintext == first.plaintext


def test_a_store_that_expects_another_version_is_refused_and_changes_nothing(services: Services) -> None:
    stored(services)
    before = services.object_file().read_bytes()
    assert services.send(services.store(b"other", expect=bytes(32))).reason == "version_not_current"
    assert services.object_file().read_bytes() == before
    assert value_in(fetched(services)) == b"secret"


def test_replacing_needs_k11_and_the_current_digest(services: Services) -> None:
    asked = services.store()
    services.send(asked)
    calls = len(services.signer.calls)
    assert services.send(services.store(b"new", expect=asked.digest, touch=False)).reason == "k11_required"
    assert len(services.signer.calls) == calls  # the worker itself refused
    assert services.send(services.store(b"new", expect=asked.digest)).reason == "ok"
    assert value_in(fetched(services)) == b"new"


def test_a_put_that_fails_is_recorded_and_the_old_object_stands(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = services.store()
    services.send(asked)

    def no_space(path: str, data: bytes) -> None:
        raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE)

    with monkeypatch.context() as patched:
        patched.setattr(services.objects, "write", no_space)
        answered = services.send(services.store(b"new", expect=asked.digest))
    assert (answered.status, answered.reason) == (503, "object_store_unavailable")
    assert row_of(answered, services).content().result is OpResult.FAILURE
    assert value_in(fetched(services)) == b"secret"


def test_a_put_that_cannot_be_recorded_is_answered_by_that(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(path: str, data: bytes) -> None:
        raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE)

    monkeypatch.setattr(services.objects, "write", no_space)
    fail_once(services, "row1", Reason.JOURNAL_UNAVAILABLE)
    answered = services.send(services.store())
    assert answered.reason == "journal_unavailable"
    assert answered.row is None


@pytest.mark.parametrize("after", [False, True])
def test_an_acknowledgement_that_got_lost_is_asked_for_again(services: Services, *, after: bool) -> None:
    fail_once(services, "row0", Reason.SIGNER_UNREACHABLE, after=after)
    stored(services)
    assert services.signer.calls == ["derive", "row0", "row0"]
    assert value_in(fetched(services)) == b"secret"


def test_a_store_whose_acknowledgement_never_came_ends_when_asked_again(services: Services) -> None:
    def down(name: str) -> None:
        if name == "row0":
            raise KeyServiceError(Reason.SIGNER_UNREACHABLE)

    services.signer.before = down
    asked = services.store()
    assert services.send(asked).reason == "signer_unreachable"
    assert services.pauses == [0.1, 0.4]
    services.signer.before = lambda _: None
    answered = services.send(asked)
    assert answered.reason == "ok"
    assert row_of(answered, services).content().result is OpResult.SUCCESS
    assert value_in(fetched(services)) == b"secret"


def test_after_a_crash_before_the_acknowledgement_the_old_or_the_new_value_is_served(services: Services) -> None:
    first = services.store(b"old")
    services.send(first)

    def crash(name: str) -> None:
        if name == "row0":
            raise SystemExit  # nothing of the process runs on

    services.signer.before = crash
    second = services.store(b"new", expect=first.digest)
    admitted = services.admission().admit(second.parsed.request.op, second.cap, second.body)
    with pytest.raises(SystemExit):
        services.service.store(admitted)
    services.signer.before = lambda _: None
    services.restart()
    assert services.send(second).reason == "cap_replayed"
    assert value_in(fetched(services)) == b"new"
    (entry,) = ListAnswer.parse(services.send(services.names()).plaintext).names
    assert entry.store == second.digest


def test_nothing_stored_is_a_recorded_failure(services: Services) -> None:
    answered = fetched(services)
    assert (answered.status, answered.reason) == (404, "object_not_found")
    assert row_of(answered, services).content().result is OpResult.FAILURE
    assert "sealed" not in answered.json


@pytest.mark.parametrize(
    ("at", "reason"),
    [(-1, "invalid_envelope"), (0, "unsupported_version"), (5, "class_mismatch"), (40, "invalid_envelope")],
)
def test_a_changed_byte_is_a_recorded_failure(services: Services, at: int, reason: str) -> None:
    stored(services)
    path = services.object_file()
    data = bytearray(path.read_bytes())
    data[at] ^= 3
    path.write_bytes(data)
    answered = fetched(services)
    assert answered.reason == reason
    assert row_of(answered, services).content().result is OpResult.FAILURE


@pytest.mark.parametrize("data", [b"", b"\x05", b"\x05" + bytes(97), bytes(3_000_000)])
def test_what_is_no_envelope_is_a_recorded_failure(services: Services, data: bytes) -> None:
    stored(services)
    services.object_file().write_bytes(data)
    answered = fetched(services)
    assert answered.reason in {"invalid_envelope", "unsupported_version", "class_mismatch"}
    assert row_of(answered, services).content().result is OpResult.FAILURE


def test_an_older_version_put_back_is_not_served(services: Services) -> None:
    asked = services.store(b"old")
    services.send(asked)
    old = services.object_file().read_bytes()
    stored(services, b"new", asked.digest)
    services.object_file().write_bytes(old)
    answered = fetched(services)
    assert answered.reason == "version_not_current"
    assert "sealed" not in answered.json


def test_another_names_object_put_in_place_is_not_served(services: Services) -> None:
    stored(services)
    assert services.send(services.store(b"other", service="cred:other")).reason == "ok"
    services.object_file().write_bytes(services.object_file("other").read_bytes())
    assert fetched(services).reason == "version_not_current"


def test_a_read_that_a_store_overtook_is_repeated(services: Services) -> None:
    asked = services.store(b"old")
    services.send(asked)
    todo = ["derive"]

    def overtake(name: str) -> None:
        if name in todo:
            todo.clear()
            services.signer.before = lambda _: None
            stored(services, b"new", asked.digest)

    services.signer.before = overtake
    assert value_in(fetched(services)) == b"new"


def test_a_delete_closes_and_removes(services: Services) -> None:
    stored(services)
    old = services.object_file().read_bytes()
    answered = services.send(services.delete())
    assert DeleteAnswer.parse(answered.plaintext).row_hash == row_of(answered, services).row_hash
    assert not services.object_file().exists()
    assert fetched(services).reason == "object_not_found"
    services.object_file().write_bytes(old)
    assert fetched(services).reason == "version_not_current"


def test_deleting_nothing_is_fine(services: Services) -> None:
    assert services.send(services.delete()).reason == "ok"


def test_a_repeated_delete_is_answered_alike(services: Services) -> None:
    stored(services)
    asked = services.delete()
    first, again = services.send(asked), services.send(asked)
    assert (again.reason, again.row, again.plaintext) == ("ok", first.row, first.plaintext)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_delete_sent_again_does_not_remove_what_was_stored_since(services: Services, *, restarted: bool) -> None:
    stored(services, b"old")
    asked = services.delete()
    services.send(asked)
    stored(services, b"new")
    if restarted:
        services.restart()
    assert services.send(asked).reason == "ok"
    assert value_in(fetched(services)) == b"new"


def test_a_delete_that_the_signer_refused_can_be_repeated_later(services: Services) -> None:
    stored(services, b"old")
    asked = services.delete()
    fail_once(services, "row0", Reason.OPERATOR_FROZEN)
    assert services.send(asked).reason == "operator_frozen"
    assert services.object_file().exists()
    assert services.send(asked).reason == "ok"
    assert not services.object_file().exists()


def test_a_delete_whose_removal_failed_ends_when_asked_again(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(services)
    asked = services.delete()

    def busy(path: str) -> None:
        raise KeyServiceError(Reason.OBJECT_STORE_UNAVAILABLE)

    with monkeypatch.context() as patched:
        patched.setattr(services.objects, "remove", busy)
        assert services.send(asked).reason == "object_store_unavailable"
    assert fetched(services).reason == "version_not_current"  # closed already
    assert services.send(asked).reason == "ok"
    assert not services.object_file().exists()


def test_no_answer_without_the_signer(services: Services) -> None:
    stored(services)

    def down(name: str) -> None:
        raise KeyServiceError(Reason.SIGNER_UNREACHABLE)

    services.signer.before = down
    for asked in (services.store(), services.fetch(), services.delete(), services.names()):
        answered = services.send(asked)
        assert (answered.status, answered.reason) == (503, "signer_unreachable")
        assert answered.headers["retry-after"] == "1"
    services.signer.before = lambda _: None
    assert value_in(fetched(services)) == b"secret"


def test_of_many_stores_at_once_one_becomes_current_and_its_value_is_served(services: Services) -> None:
    answers: list[Answered] = []
    values = [f"value {number}".encode() for number in range(6)]

    def one(value: bytes) -> None:
        answers.append(services.send(services.store(value)))

    threads = [threading.Thread(target=one, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reasons = sorted(answered.reason for answered in answers)
    assert reasons.count("ok") == 1
    assert set(reasons) <= {"ok", "version_not_current", "k11_required"}
    assert value_in(fetched(services)) in values


def test_object_keys_are_wiped(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Secret] = []
    take = Secret.copy_of

    def watched(material: bytes) -> Secret:
        made.append(take(material))
        return made[-1]

    monkeypatch.setattr("worker.credentials.Secret.copy_of", watched)
    stored(services)
    fetched(services)
    assert len(made) == 2
    assert all(secret.wiped for secret in made)


def test_values_and_keys_are_in_no_log_and_no_repr(
    services: Services, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    asked = services.store(b"a very secret value")
    services.send(asked)
    fetched(services)
    admitted = services.admission().admit(asked.parsed.request.op, asked.cap, asked.body)
    told = caplog.text + "".join(capfd.readouterr()) + repr(admitted)
    told += "".join(str(record.__dict__) for record in caplog.records)
    assert "very secret" not in told
    assert "YSB2ZXJ5" not in told  # its base64
