"""What every test of the console in a browser does."""

from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.unit.device.console_kit import Visitor

NAMES = ("Devices", "Agents", "Masters", "Pair", "Audit", "Sessions")


def console_tab(context: BrowserContext, visitor: Visitor) -> Page:
    """A tab with the console's first page."""
    made = context.new_page()
    made.goto(visitor.address)
    expect(heading(made)).to_have_text("My devices")
    return made


def heading(page: Page) -> Locator:
    return page.get_by_role("heading", level=1)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def open_page(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name).click()
