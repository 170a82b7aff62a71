from collections.abc import Iterator
from pathlib import Path

import pytest

from device.identities import ceremony
from tests.unit.device.deployment import Deployment
from tests.unit.device.identity_kit import World, identity_world


@pytest.fixture
def world(deployment: Deployment, tmp_path: Path) -> Iterator[World]:
    with identity_world(deployment, tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for what cannot come gives up at once."""
    monkeypatch.setattr(ceremony, "WAIT_S", 0.0)
