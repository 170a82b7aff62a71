"""The page that a provider sends people back to, loaded again while the provider is slow, in a real browser."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from broker.adapters.store.engine import database_url
from tests.browser.pictures import pictures
from tests.fakes.browser import chromium
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.https_app import https_app, loopback
from tests.unit.broker.identity_world import NONCE, IdentityWorld, identity_world
from tests.unit.broker.test_oidc_hostile import Ceremony, stuck_ones

NAME = "broker.agentkeys.test"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--host-resolver-rules=MAP *.test 127.0.0.1", "--ignore-certificate-errors") as made:
        yield made


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[HostileProvider]:
    with HostileProvider(folder=tmp_path / "provider", nonce=NONCE) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, provider: HostileProvider) -> Iterator[IdentityWorld]:
    with identity_world(database_url(None, tmp_path), provider=provider.settings, at=time.time()) as made:
        yield made


def test_whoever_loads_it_again_waits_there_and_is_led_on(
    browser: Browser, world: IdentityWorld, provider: HostileProvider
) -> None:
    ceremony = Ceremony(world, provider)
    with ExitStack() as stack:
        listener = loopback()
        stack.enter_context(https_app(world.app, listener, NAME))
        context = stack.enter_context(browser.new_context(locale="en", ignore_https_errors=True))
        page = context.new_page()
        with stuck_ones(world, provider, [ceremony]):
            page.goto(f"https://{NAME}:{listener.getsockname()[1]}{ceremony.way()}")
            expect(page.get_by_role("heading", level=1)).to_have_text("One moment")
            pictures(page, "way-back-waits")
        expect(page.get_by_role("heading", level=1)).to_have_text("Bind this device?", timeout=20_000)
        assert "code=" not in page.url
    assert provider.codes == ["x"]
