"""`agentkeys init` on a terminal, and its person at the wallet's page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, expect

from tests.unit.device.persons import Person
from tests.unit.device.terminal import Terminal

ADDRESS = r"http://localhost:8722/\S+#\S{43}"


def heading(page: Page):
    return page.get_by_role("heading", level=1)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def opened(page: Page, terminal: Terminal) -> Page:
    """Open the address that the terminal shows."""
    found = re.findall(ADDRESS, terminal.until(rf"{ADDRESS}\s"))
    page.goto("about:blank")
    page.goto(found[-1])
    return page


@contextmanager
def init_at(page: Page, person: Person, *words: str) -> Iterator[Terminal]:
    """`init` without a wallet's name, its page open."""
    given = [str(word) for word in (*person.profile_words(), *words)]
    with Terminal(person, "init", *given) as terminal:
        opened(page, terminal)
        expect(heading(page)).to_have_text("Choose the wallet that names you")
        yield terminal


def choose(page: Page, name: str, number: int = 0) -> None:
    """Choose a wallet and one of its accounts."""
    press(page, name)
    page.get_by_role("radio").nth(number).check()
    press(page, "Use this account")


def status(page: Page):
    return page.get_by_role("status")
