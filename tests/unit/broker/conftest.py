import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from broker.adapters.store.engine import database_url
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.mail_server import MailServer
from tests.fakes.postgres import Postgres
from tests.fakes.services_kit import Services, services_in
from tests.unit.broker.identity_world import NONCE, IdentityWorld, identity_world, mail_settings


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    with MailServer(tmp_path, "starttls") as made:
        yield made


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[HostileProvider]:
    """One that does as it is told; nobody signs in there, any code is good."""
    with HostileProvider(folder=tmp_path / "provider", nonce=NONCE) as made:
        yield made


@pytest.fixture
def world(database: URL, server: MailServer, provider: HostileProvider) -> Iterator[IdentityWorld]:
    """A broker with every ceremony."""
    with identity_world(database, mail=mail_settings(server), provider=provider.settings, at=time.time()) as made:
        yield made
