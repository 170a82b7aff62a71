from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from broker.adapters.store.engine import database_url
from tests.fakes.postgres import Postgres
from tests.fakes.services_kit import Services, services_in


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(folder=tmp_path_factory.mktemp("postgres")) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """An empty database of each kind: what holds on one must hold on the other."""
    if request.param == "sqlite":
        return database_url(None, tmp_path)
    postgres: Postgres = request.getfixturevalue("postgres")
    return database_url(postgres.database(), tmp_path)


@pytest.fixture
def services(tmp_path: Path, database: URL) -> Iterator[Services]:
    with services_in(tmp_path, database=database) as made:
        yield made
