"""Calls of many devices travel to the signer together: what is another one's answer reaches no device."""

from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from tests.fakes.services_kit import Services


@pytest.mark.parametrize("call", ["derive_cred_kek", "sign_audit_row"])
def test_the_answer_to_another_request_is_refused(
    services: Services, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    given: list[Any] = []
    genuine = getattr(services.signer, call)

    def keep(*args: Any, **named: Any) -> Any:
        given.append(genuine(*args, **named))
        return given[0]

    monkeypatch.setattr(services.signer, call, keep)
    assert services.send(services.store(b"one", service="cred:first")).reason == "ok"
    assert services.send(services.store(b"two", service="cred:second")).reason == "internal"


def test_the_row_of_another_ones_replay_is_refused(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    first = services.store(b"one", service="cred:first")
    assert services.send(first).reason == "ok"
    row = services.world.ack(first.cap)

    def replayed(*_: Any, **__: Any) -> Any:
        raise KeyServiceError(Reason.CAP_REPLAYED, row=row)

    monkeypatch.setattr(services.signer, "derive_cred_kek", replayed)
    assert services.send(first).reason == "ok"
    assert services.send(services.store(b"two", service="cred:second")).reason == "internal"
