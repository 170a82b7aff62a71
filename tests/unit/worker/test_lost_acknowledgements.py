"""Stores whose acknowledgement got no answer: asked again they end, but only while what they wrote still lies there."""

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from tests.fakes.services_kit import Asked, Services
from worker import credentials
from worker.credentials import _Unacknowledged


def store_without_acknowledgement(services: Services, value: bytes, expect: bytes | None = None) -> Asked:
    def down(name: str) -> None:
        if name == "row0":
            raise KeyServiceError(Reason.SIGNER_UNREACHABLE)

    services.signer.before = down
    asked = services.store(value, expect=expect)
    assert services.send(asked).reason == "signer_unreachable"
    services.signer.before = lambda _: None
    return asked


def test_asking_again_ends_it_without_a_second_key(services: Services) -> None:
    asked = store_without_acknowledgement(services, b"value")
    services.signer.calls.clear()
    assert services.send(asked).reason == "ok"
    assert services.signer.calls == ["row0"]


def test_what_another_store_overwrote_is_not_acknowledged(services: Services) -> None:
    first = store_without_acknowledgement(services, b"first")
    second = store_without_acknowledgement(services, b"second")
    assert services.send(first).reason == "cap_replayed"
    assert services.send(second).reason == "ok"
    assert services.send(services.fetch()).reason == "ok"


def test_what_was_deleted_is_not_acknowledged(services: Services) -> None:
    asked = store_without_acknowledgement(services, b"value")
    assert services.send(services.delete()).reason == "ok"
    assert services.send(asked).reason == "cap_replayed"
    assert services.send(services.fetch()).reason == "object_not_found"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_UNACKNOWLEDGED", 2)
    notes = _Unacknowledged()
    for number in range(3):
        notes.add(bytes([number]), b"version")
    assert [notes.get(bytes([number])) for number in range(3)] == [None, b"version", b"version"]
    notes.drop(bytes([1]))
    notes.drop(bytes([1]))
    assert notes.get(bytes([1])) is None


def test_a_row_that_came_with_another_refusal_is_no_success(services: Services) -> None:
    row = services.world.store("cred:other")[0].row

    def refuse(name: str) -> None:
        raise KeyServiceError(Reason.VERSION_NOT_CURRENT, row=row)

    services.signer.before = refuse
    answered = services.send(services.store())
    assert (answered.status, answered.reason) == (409, "version_not_current")


def test_a_replay_whose_row_is_none_is_no_success(services: Services) -> None:
    def refuse(name: str) -> None:
        raise KeyServiceError(Reason.CAP_REPLAYED, row=b"{}")

    services.signer.before = refuse
    answered = services.send(services.store())
    assert (answered.status, answered.reason) == (500, "internal")
