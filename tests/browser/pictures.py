"""Pictures of a page for a person to look at, once nothing is amiss with it."""

from playwright.sync_api import Page

from tests.browser.readable import CONTRAST, UNNAMED
from tests.fakes.browser import picture


def pictures(page: Page, name: str) -> None:
    """Wide and narrow, light and dark: everything can be read, has a name, and stays within the window."""
    for width, height in ((1200, 800), (360, 640)):
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            assert page.evaluate(CONTRAST) == [], f"{name}, {scheme}"
            picture(page, f"{name}-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate(UNNAMED) == [], name
