"""Pictures of a page, for a person to look at."""

from playwright.sync_api import Page

from tests.fakes.browser import picture


def pictures(page: Page, name: str) -> None:
    """Wide and narrow, light and dark; in none of them does the page run out of its window."""
    for width, height in ((1200, 800), (360, 640)):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="light")
        picture(page, f"{name}-{width}-light")
        page.emulate_media(color_scheme="dark")
        picture(page, f"{name}-{width}-dark")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
