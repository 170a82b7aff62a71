"""A real headless Chromium of the tests, with a virtual authenticator where a page needs one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.services import program

#: Where the tests leave pictures of pages, for a person to look at.
SCREENSHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"
_ARGUMENTS = ("--no-sandbox", "--no-zygote", "--font-render-hinting=none")  # as root its sandbox cannot start


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser, which is ended with every process of its own."""
    path = program("chromium")
    libraries = path.parent / "al2023" / "lib"  # what a bare system may lack
    env: dict[str, str | float | bool] = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "HOME": str(path.parent)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(path), args=[*_ARGUMENTS, *arguments], env=env, chromium_sandbox=False
        )
        try:
            yield browser
        finally:
            browser.close()


def virtual_authenticator(context: BrowserContext, page: Page, **changed: Any) -> Any:
    """Give the page a platform authenticator that verifies its user; returns the CDP session and the authenticator."""
    session = context.new_cdp_session(page)
    session.send("WebAuthn.enable", {})
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
        **changed,
    }
    made = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return session, made["authenticatorId"]


def with_the_keys_of(source: Any, context: BrowserContext, page: Page) -> None:
    """Give another page an authenticator that holds the same keys: each page of a browser under test has its own."""
    session, authenticator = virtual_authenticator(context, page)
    told = source[0].send("WebAuthn.getCredentials", {"authenticatorId": source[1]})
    for credential in told["credentials"]:
        session.send("WebAuthn.addCredential", {"authenticatorId": authenticator, "credential": credential})


def picture(page: Page, name: str) -> None:
    """Leave a picture of the whole page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"{name}.png"), full_page=True)
