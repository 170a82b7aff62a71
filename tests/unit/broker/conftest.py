from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.services_kit import Services, services_in


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with services_in(tmp_path) as made:
        yield made
