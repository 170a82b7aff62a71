from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.fakes.browser import chromium
from tests.fakes.k11_port import k11_port
from tests.unit.device.conftest import agent, authority, deployment, first, master, person, registry, second, third

# a small deployment, for the console
__all__ = ["agent", "authority", "deployment", "first", "master", "person", "registry", "second", "third"]


@pytest.fixture(autouse=True)
def port() -> Iterator[None]:
    """K11's port, for one test at a time."""
    with k11_port():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile of somebody who reads English and has a narrow window."""
    made = browser.new_context(viewport={"width": 800, "height": 600}, locale="en")
    made.set_default_timeout(10_000)
    yield made
    made.close()
