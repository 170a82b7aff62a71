"""What every test of the console in a browser does."""

from playwright.sync_api import Locator, Page

NAMES = ("Devices", "Agents", "Masters", "Pair", "Audit", "Sessions")


def heading(page: Page) -> Locator:
    return page.get_by_role("heading", level=1)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def open_page(page: Page, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=name).click()
