"""One deployment for all attacks that leave it as they found it; those that break a part have their own."""

from collections.abc import Iterator

import pytest

from tests.adversarial.town import Town, town_in


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/adversarial" in str(item.path):
            item.add_marker(pytest.mark.adversarial)


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("town") / "stack") as made:
        yield made
