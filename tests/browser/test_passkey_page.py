"""The page of passkeys in a real browser with a virtual authenticator, at a domain of its own over HTTPS."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from agentkeys_core.encoding import b64u_decode
from agentkeys_core.evidence import PasskeyEvidence, parse_evidence
from agentkeys_core.ids import IdentityType, identity_omni, passkey_value
from agentkeys_core.webauthn_check import verify_passkey
from broker.adapters.store.engine import database_url
from tests.fakes.browser import chromium, picture, virtual_authenticator
from tests.fakes.https_app import https_app, loopback
from tests.unit.broker.identity_world import DOMAIN, IdentityWorld, identity_world
from tests.unit.broker.test_email import FORM, page_reason, status
from tests.unit.broker.test_passkey import REGISTER, RP_ID, SIGN_IN, begin, enrol, soft
from tests.unit.broker.visitor import Visit

#: The broker's domain and a stranger's, both here. Nothing of this leaves the machine.
ARGUMENTS = ("--host-resolver-rules=MAP *.test 127.0.0.1", "--ignore-certificate-errors")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(*ARGUMENTS) as made:
        yield made


class Site:
    """A broker and its origin."""

    def __init__(self, world: IdentityWorld, origin: str) -> None:
        self.world, self.origin = world, origin

    def begun(self, visit: Visit, asked: Mapping[str, object]) -> Any:
        answer = begin(visit, asked)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        listener = loopback()
        origin = f"https://{RP_ID}:{listener.getsockname()[1]}"
        world = stack.enter_context(identity_world(database_url(None, tmp_path), passkeys=origin))
        stack.enter_context(https_app(world.app, listener, RP_ID, "elsewhere.test"))
        yield Site(world, origin)


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """Ends before the site does, and its connections with it."""
    made = browser.new_context(viewport={"width": 800, "height": 600}, locale="en", ignore_https_errors=True)
    made.set_default_timeout(10_000)
    yield made
    made.close()


def opened(context: BrowserContext, **changed: Any) -> tuple[Page, Any, str]:
    page = context.new_page()
    session, authenticator = virtual_authenticator(context, page, **changed)
    return page, session, authenticator


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def make(site: Site, page: Page, visit: Visit) -> Any:
    begun = site.begun(visit, REGISTER)
    page.goto(begun["page"])
    press(page, "Make the passkey")
    expect(page.get_by_role("heading", level=1)).to_have_text("Done")
    return status(visit, begun["id"]).json()["passkey"]


def test_a_passkey_is_made_found_again_and_signs_an_enrol(context: BrowserContext, site: Site) -> None:
    visit = site.world.visit()
    page, _, _ = opened(context)
    begun = site.begun(visit, REGISTER)
    page.goto(begun["page"])
    expect(page.locator("main")).to_contain_text(begun["device"])
    picture(page, "passkey-make")
    press(page, "Make the passkey")
    expect(page.get_by_role("status")).to_contain_text(begun["device"])
    picture(page, "passkey-made")
    made = status(visit, begun["id"]).json()["passkey"]

    asked = site.begun(visit, SIGN_IN)
    page.goto(asked["page"])
    picture(page, "passkey-sign-in")
    press(page, "Use the passkey")
    expect(page.get_by_role("heading", level=1)).to_have_text("Done")
    assert status(visit, asked["id"]).json()["passkey"] == made

    x, y = b64u_decode(made["x"]), b64u_decode(made["y"])
    change = enrol(visit, soft(), identity_omni=identity_omni(IdentityType.PASSKEY, passkey_value(x, y)))
    bind = {"action": "bind", "change": {"type": "Enrol", "message": change.to_message()}}
    bound = site.begun(visit, {**bind, "credential_id": made["credential_id"]})
    page.goto(bound["page"])
    expect(page.locator("main")).to_contain_text(change.digest(DOMAIN).hex())
    page.get_by_label("Code on your own terminal").fill(bound["code"])
    picture(page, "passkey-bind")
    press(page, "Use the passkey")
    expect(page.get_by_role("heading", level=1)).to_have_text("Done")
    evidence = parse_evidence(json.dumps(status(visit, bound["id"]).json()["evidence"]).encode())
    assert isinstance(evidence, PasskeyEvidence)
    verify_passkey(
        evidence.assertion,
        challenge=change.digest(DOMAIN),
        x=evidence.x,
        y=evidence.y,
        rp_id=RP_ID,
        origins={site.origin},
    )


def test_who_leaves_instead_of_touching_sent_nothing_and_may_come_back(context: BrowserContext, site: Site) -> None:
    visit = site.world.visit()
    page, session, authenticator = opened(context, automaticPresenceSimulation=False)
    begun = site.begun(visit, REGISTER)
    page.goto(begun["page"])
    press(page, "Make the passkey")
    expect(page.get_by_role("status")).to_have_text("Waiting for your passkey …")
    picture(page, "passkey-waiting")
    page.reload()
    assert status(visit, begun["id"]).json()["state"] == "pending"
    touched = {"authenticatorId": authenticator, "enabled": True}
    session.send("WebAuthn.setAutomaticPresenceSimulation", touched)
    press(page, "Make the passkey")
    expect(page.get_by_role("heading", level=1)).to_have_text("Done")


@pytest.mark.parametrize("bad", ["isBogusSignature", "isBadUV", "isBadUP"])
def test_an_authenticator_that_answers_wrongly_is_refused_by_the_broker(
    context: BrowserContext, site: Site, bad: str
) -> None:
    visit = site.world.visit()
    page, session, authenticator = opened(context)
    make(site, page, visit)
    session.send("WebAuthn.setResponseOverrideBits", {"authenticatorId": authenticator, bad: True})
    begun = site.begun(visit, SIGN_IN)
    page.goto(begun["page"])
    press(page, "Use the passkey")
    expect(page.get_by_role("heading", level=1)).to_have_text("That did not work")
    expect(page.locator("main")).to_contain_text("invalid_evidence")
    assert status(visit, begun["id"]).json()["state"] == "pending"


def test_a_user_who_is_not_verified_makes_and_uses_no_passkey(context: BrowserContext, site: Site) -> None:
    visit = site.world.visit()
    page, session, authenticator = opened(context)
    make(site, page, visit)
    session.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": False})
    for asked, button in ((REGISTER, "Make the passkey"), (SIGN_IN, "Use the passkey")):
        begun = site.begun(visit, asked)
        page.goto(begun["page"])
        press(page, button)
        expect(page.get_by_role("status")).to_contain_text("Nothing was sent")
        assert status(visit, begun["id"]).json()["state"] == "pending"


def test_a_page_of_another_domain_gets_no_answer_of_the_passkey(context: BrowserContext, site: Site) -> None:
    """The browser refuses to ask for it; and what a stranger's own passkey answers, the broker refuses."""
    visit = site.world.visit()
    page, _, _ = opened(context)
    make(site, page, visit)
    begun = site.begun(visit, SIGN_IN)
    stranger = begun["page"].replace(RP_ID, "elsewhere.test")
    page.goto(stranger)  # the very page, served by a broker's look-alike
    press(page, "Use the passkey")
    expect(page.get_by_role("status")).to_contain_text("Nothing was sent")
    assert status(visit, begun["id"]).json()["state"] == "pending"


def test_an_answer_that_is_sent_again_is_refused(context: BrowserContext, site: Site) -> None:
    visit = site.world.visit()
    page, _, _ = opened(context)
    make(site, page, visit)
    begun = site.begun(visit, SIGN_IN)
    page.goto(begun["page"])
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.post_data or "") if request.method == "POST" else None)
    press(page, "Use the passkey")
    expect(page.get_by_role("heading", level=1)).to_have_text("Done")
    assert len(sent) == 1
    again = site.begun(visit, SIGN_IN)
    for page_of, expected in ((begun, "ceremony_ended"), (again, "invalid_evidence")):
        path = page_of["page"].removeprefix(site.origin)
        assert page_reason(site.world.client.post(path, content=sent[0], headers=FORM)) == expected
    assert status(visit, again["id"]).json()["state"] == "pending"


def test_the_page_is_used_by_keyboard_in_a_narrow_dark_window_and_asks_nobody_else(
    context: BrowserContext, site: Site
) -> None:
    visit = site.world.visit()
    page, _, _ = opened(context)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.set_viewport_size({"width": 360, "height": 640})
    page.emulate_media(color_scheme="dark")
    page.goto(site.begun(visit, REGISTER)["page"])
    expect(page.get_by_role("button", name="Make the passkey")).to_be_focused()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    picture(page, "passkey-make-narrow-dark")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Done")
    assert all(url.startswith(site.origin) for url in asked)
    assert [text for text in complaints if "favicon" not in text] == []
