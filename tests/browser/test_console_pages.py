"""How the console's pages look and read: every one wide and narrow, dark and light, for eyes and for screen readers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from device.collected import Collected
from device.pairing_desk import MachineSide
from tests.browser.console_steps import NAMES, heading, open_page, press
from tests.browser.readable import CONTRAST, LANDMARKS, UNNAMED
from tests.fakes.browser import picture
from tests.unit.device.console_kit import Visitor, console_at
from tests.unit.device.masters_kit import Named, device_of, offer
from tests.unit.device.persons import Person
from tests.unit.device.real_registry import RealRegistry


@pytest.fixture
def visitor(first: Person) -> Iterator[Visitor]:
    with console_at(first.home) as made:
        yield made


@pytest.fixture
def full(first: Person, second: Person, person: Named, registry: RealRegistry, tmp_path: Path) -> Person:
    """A user with everything that a page can show: long names, an agent, one that was revoked, a trail."""
    (tmp_path / "v").write_bytes(b"v")
    operator = first("whoami", "--offline").data["operator_omni"]
    for number, label in enumerate(("research", "a-label-as-long-as-labels-may-be")):
        machine, file = person(f"agent{number}"), tmp_path / f"offer{number}"
        told = machine("pair", "--operator", operator, *machine.profile_words(), "--out", file).data["pairing_hash"]
        services = ("cred:openrouter", f"cred:{'long' * 16}")
        words = [word for service in services for word in ("--service", service)]
        added = first("agent", "add", file, "--label", label, *words, "--pairing-hash", told)
        assert added.code == 0, added.err
    assert first("device", "revoke", device_of(machine).hex()).code == 0
    return first


def visit(context: BrowserContext, visitor: Visitor) -> Page:
    page = context.new_page()
    page.goto(visitor.address)
    expect(heading(page)).to_have_text("My devices")
    return page


def look(page: Page, name: str) -> None:
    """See the page that is open narrow and wide, dark and light, and leave pictures."""
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} at {width}"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(CONTRAST) == [], f"{name}, {scheme}"
            picture(page, f"console-{name}-{width}-{scheme}")
    assert page.evaluate(UNNAMED) == [], name
    assert page.evaluate(LANDMARKS) == [], name


def opened(page: Page, name: str) -> None:
    open_page(page, name)
    expect(page.locator(f'nav a:text("{name}")')).to_have_attribute("aria-current", "page")
    expect(heading(page)).not_to_have_text("One moment …")
    expect(page.locator("#message")).to_be_empty()


def test_every_page_of_a_user_who_has_everything(context: BrowserContext, full: Person, visitor: Visitor) -> None:
    page = visit(context, visitor)
    for name in NAMES[:-1]:
        opened(page, name)
        look(page, name.lower())
    opened(page, "Devices")
    page.get_by_role("link", name="Destroy stored data").click()
    expect(heading(page)).to_have_text("Destroy my own data")
    look(page, "destroy")


def test_the_trail_of_a_user_and_of_agents(
    context: BrowserContext, master: Person, agent: Person, tmp_path: Path
) -> None:
    (tmp_path / "v").write_bytes(b"v")
    for name in ("openrouter", "long" * 16):
        assert master("cred", "put", name, "--file", tmp_path / "v").code == 0
    assert agent("cred", "get", "openrouter").code == 0
    with console_at(master.home) as visitor:
        page = visit(context, visitor)
        opened(page, "Audit")
        look(page, "audit")
        filtered(page)


def filtered(page: Page) -> None:
    page.get_by_label("Whose").select_option("tree")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator(".good")).to_be_visible()
    look(page, "audit-tree")
    page.get_by_label("Service or words").fill("nothing is called this")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("No row fits")).to_be_visible()
    look(page, "audit-empty")


def test_every_page_of_a_user_who_has_nothing_yet(context: BrowserContext, master: Person) -> None:
    with console_at(master.home) as visitor:
        page = visit(context, visitor)
        for name in NAMES:
            opened(page, name)
            look(page, f"{name.lower()}-new")


def test_what_is_decided_and_what_went_wrong(
    context: BrowserContext, first: Person, visitor: Visitor, person: Named, tmp_path: Path
) -> None:
    offer(person("machine"), first, tmp_path / "offer.json")
    page = visit(context, visitor)
    opened(page, "Pair")
    page.get_by_label("The offer").set_input_files(tmp_path / "offer.json")
    expect(page.locator("#message")).to_have_text("offer.json is read.")
    press(page, "Look at the offer")
    expect(heading(page)).to_have_text("Compare before you let this master in")
    expect(page.get_by_label("very same pairing hash")).not_to_be_checked()
    look(page, "new-master")
    page.get_by_label("very same pairing hash").check()
    page.get_by_label("manage agents").uncheck()
    press(page, "Approve …")
    expect(heading(page)).to_have_text("Let a further master in")
    look(page, "question")
    press(page, "Sign and send")
    expect(heading(page)).to_have_text("Approved")
    look(page, "approved")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save the file").click()
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    assert Collected.read(saved).encode().decode().strip() == page.get_by_label("or copy").input_value().strip()
    opened(page, "Devices")
    press(page, "Freeze …")
    press(page, "Decline")
    expect(page.get_by_role("alert")).to_contain_text("declined")
    look(page, "declined")
    opened(page, "Masters")
    page.get_by_label("or paste what is in it").fill("nonsense")
    press(page, "Look at it")
    expect(page.locator("#message")).to_contain_text("no file of agentkeys")
    look(page, "refused-file")


def test_two_masters_sign_together(
    context: BrowserContext, first: Person, second: Person, third: Person, visitor: Visitor, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        page = visit(context, visitor)
        page.get_by_role("button", name=f"Revoke master {device_of(third).hex()[:8]}").click()
        expect(page.locator(".warning", has_text="instead of 2 masters")).to_be_visible()
        look(page, "question-warned")
        press(page, "Sign and send")
        expect(heading(page)).to_have_text("Approved")
        text = page.get_by_label("or copy").input_value()
        other = visit(context, stack.enter_context(console_at(second.home)))
        opened(other, "Masters")
        other.get_by_label("or paste what is in it").fill(text)
        press(other, "Look at it")
        expect(heading(other)).to_have_text("Revoke a device for ever")
        look(other, "changes")
        press(other, "Approve …")
        press(other, "Sign and send")
        expect(heading(other)).to_have_text("Done")
        look(other, "done")
        # The first one's page was not looked at meanwhile, and is told.
        opened(page, "Devices")
        expect(page.locator(".card.over")).to_have_count(1)


def test_what_alarms(context: BrowserContext, first: Person, second: Person) -> None:
    (first.home / "k10.json").unlink()
    with console_at(first.home) as visitor:
        page = visit(context, visitor)
        expect(page.get_by_role("alert")).to_contain_text("does not know this machine")
        look(page, "devices-lost")
        page.get_by_role("link", name="ask for this one").click()
        expect(heading(page)).to_have_text("My masters")
        look(page, "masters-lost")
        press(page, "Ask for it …")
        press(page, "Sign and send")
        expect(page.get_by_text("holds in 72 hours")).to_be_visible()
    with console_at(second.home) as visitor:
        page = visit(context, visitor)
        expect(page.get_by_role("alert")).to_contain_text("gets another key")
        look(page, "devices-rotation")
        press(page, "Freeze …")
        press(page, "Sign and send")
        expect(heading(page)).to_have_text("Done")
        opened(page, "Devices")
        expect(page.get_by_role("alert")).to_contain_text("frozen")
        look(page, "devices-frozen")


def test_a_machine_that_is_waited_for(context: BrowserContext, visitor: Visitor, machine: MachineSide) -> None:
    begun = machine.begin(label="research", services=("cred:openrouter",))
    page = visit(context, visitor)
    opened(page, "Pair")
    page.get_by_label("Code").fill(begun.code)
    press(page, "Look it up")
    expect(heading(page)).to_have_text("Compare before you let it in")
    look(page, "compare")
    page.get_by_label("very same pairing hash").check()
    press(page, "Let it in …")
    expect(heading(page)).to_have_text("Waiting")
    look(page, "waiting")
    press(page, "Stop")
    expect(heading(page)).to_have_text("My devices")


def test_a_change_elsewhere_is_announced_and_nothing_typed_is_lost(
    context: BrowserContext, full: Person, visitor: Visitor
) -> None:
    page = visit(context, visitor)
    opened(page, "Agents")
    field = page.get_by_label("Grant as well").first
    field.fill("cred:being-typed")
    expect(page.locator("#live")).to_be_empty()
    assert full("scope", "set", "research", "--grant", "cred:elsewhere").code == 0
    live = page.get_by_role("status", name="Changes")
    expect(live).to_contain_text("Something changed since this page was loaded.")
    assert live.get_attribute("aria-live") == "polite"
    expect(field).to_have_value("cred:being-typed")
    expect(field).to_be_focused()
    look(page, "changed")
    live.get_by_role("button", name="Show it").click()
    expect(page.get_by_label("take away cred:elsewhere")).to_be_visible()
    expect(live).to_be_empty()
    expect(heading(page)).to_be_focused()


def test_a_hidden_page_asks_nothing_and_asks_again_when_it_is_seen(
    context: BrowserContext, full: Person, visitor: Visitor
) -> None:
    page = visit(context, visitor)
    opened(page, "Agents")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/live" in request.url else None)
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    assert full("scope", "set", "research", "--grant", "cred:elsewhere").code == 0
    expect(page.locator("#live")).to_be_empty()
    assert asked == []
    page.evaluate(hide, False)
    page.evaluate(hide, True)
    page.evaluate(hide, False)
    expect(page.get_by_role("status", name="Changes")).to_contain_text("Something changed")


def test_a_console_that_was_ended_says_so(context: BrowserContext, first: Person) -> None:
    with console_at(first.home) as visitor:
        page = visit(context, visitor)
    expect(page.get_by_role("status", name="Changes")).to_contain_text("does not answer")
    expect(heading(page)).to_have_text("My devices")
    look(page, "ended")


def test_a_file_that_is_too_large_is_not_sent(context: BrowserContext, visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "huge.json").write_bytes(b"x" * 60_000)
    page = visit(context, visitor)
    opened(page, "Pair")
    page.get_by_label("The offer").set_input_files(tmp_path / "huge.json")
    expect(page.locator("#message")).to_contain_text("too large")
    expect(page.get_by_label("or paste what is in it")).to_have_value("")


def test_the_skip_link_and_the_order_of_focus(context: BrowserContext, visitor: Visitor) -> None:
    page = visit(context, visitor)
    page.evaluate("document.activeElement.blur(); window.getSelection().removeAllRanges()")
    page.reload()
    expect(heading(page)).to_be_focused()
    page.get_by_role("link", name="To the page").focus()
    box = page.get_by_role("link", name="To the page").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    seen: list[Any] = []
    page.get_by_role("link", name="To the page").focus()
    for _ in ("Freeze all …", *NAMES):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent"))
    assert seen == ["Freeze all …", *NAMES]
