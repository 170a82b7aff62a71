from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from device.home import Home
from device.pairing_desk import MachineSide
from device.setting_up import set_up
from device.show import Show
from tests.fakes.browser import chromium
from tests.fakes.k11_port import k11_port
from tests.unit.device.conftest import (
    agent,
    anvil,
    authority,
    deployment,
    first,
    master,
    person,
    registry,
    second,
    third,
    visitor,
    wallet_owner,
)
from tests.unit.device.deployment import Deployment

# a small deployment, for the console
__all__ = [
    "agent",
    "anvil",
    "authority",
    "deployment",
    "first",
    "master",
    "person",
    "registry",
    "second",
    "third",
    "visitor",
    "wallet_owner",
]


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


@pytest.fixture
def machine(deployment: Deployment, tmp_path: Path) -> Iterator[MachineSide]:
    """A machine that wants to become an agent."""
    with ExitStack() as stack:
        home = stack.enter_context(Home.open(tmp_path / "machine", create=True))
        device = stack.enter_context(set_up(home, deployment.profile, Show(as_json=True, yes=True)))
        yield MachineSide(device)
