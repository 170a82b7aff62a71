"""One deployment of real processes for the tests that leave it as they found it."""

from collections.abc import Iterator

import pytest

from tests.adversarial.town import Town, town_in
from tests.integration.wired import Wired, wired_services


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("town") / "stack") as made:
        yield made


@pytest.fixture(scope="session")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with wired_services(tmp_path_factory.mktemp("wired")) as made:
        yield made
