"""What people are shown of texts that others chose: all of it, whole, and never looking like another text."""

import contextlib
import io
import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from device.console.render import page
from device.errors import DeviceError, Trouble
from device.intent import Intent
from device.k11.page import Task
from device.show import Show
from device.visible import visible

WIDTH = 50
#: What rich reads as markup, emoji, links and escapes, and what a terminal reads as orders.
PIECES = st.sampled_from(
    [
        "[",
        "]",
        "\\",
        "\\[",
        "[/]",
        "[bold]",
        "[link=x]",
        ":key:",
        "  ",
        "a",
        "pay",
        "\n",
        "\x1b[2J",
        "\u202e",
        "\u200b",
        "\u27e8",
    ]
)
TEXTS = st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=60).map("".join)
NARROW = st.lists(st.sampled_from(["[", "]", "\\", "[/]", "[red]", ":key:", "  ", " ", "a", "\n"]), max_size=200).map(
    "".join
)


@pytest.fixture(scope="module", autouse=True)
def terminal() -> Iterator[None]:
    """What rich takes for a terminal of 50 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("COLUMNS", str(WIDTH))
        yield


def drawn(intent: Intent) -> list[str]:
    """The rows inside the box."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        Show().about(intent)
    rows = re.sub(r"\x1b\[[0-9;]*m", "", err.getvalue()).splitlines()
    return [row[2:-2] for row in rows if row.startswith("│ ")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [words] \\ :key:", "plain [words] \\ :key:"),
        ("a\x1b[31m\u202eb\n", "a⟨U+001B⟩[31m⟨U+202E⟩b⟨U+000A⟩"),
        ("\u27e8U+000A\u27e9", "⟨U+27E8⟩U+000A⟩"),
        ("\u3164\u2800\ufe0f\u00a0", "⟨U+3164⟩⟨U+2800⟩⟨U+FE0F⟩⟨U+00A0⟩"),
        ("\u0301e\u0301", "⟨U+0301⟩e\u0301"),
        ("e" + "\u0301" * 6, "e" + "\u0301" * 4 + "⟨U+0301⟩" * 2),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(TEXTS)
def test_every_text_can_be_told_from_what_is_shown(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert re.sub(r"⟨U\+([0-9A-F]{4,6})⟩", lambda found: chr(int(found[1], 16)), shown) == text


@given(NARROW)
def test_the_box_shows_every_character_in_its_place(text: str) -> None:
    rows = drawn(Intent(title="Sign", lines=(("to", text),), digest=bytes(32)))[1:]
    value = "".join(row[7:] for row in rows[: -(-len(visible(text)) // (WIDTH - 11)) or 1])  # "digest" and a gap
    assert value.rstrip() == visible(text).rstrip()


@given(TEXTS, TEXTS)
def test_the_box_loses_nothing_of_any_text(name: str, value: str) -> None:
    rows = drawn(Intent(title=value or "x", lines=((name, value),), digest=bytes(32)))
    inside = "".join(rows).replace(" ", "")
    for text in (name, value):  # cut into rows, a name beside its value: each still stands there in its order
        letters = iter(inside)
        assert all(letter in letters for letter in visible(text).replace(" ", ""))


@given(TEXTS)
def test_a_result_is_one_line_as_it_is(text: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        Show().result({}, [text])
    assert out.getvalue() == visible(text) + "\n"


@given(TEXTS)
def test_a_refusal_says_what_was_said(text: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as err, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "")
        patch.setenv("COLUMNS", "20")
        Show().error(DeviceError(Trouble.USAGE, text))
    assert err.getvalue() == (f"usage: {visible(text)}\n" if text else "usage\n")


EVIL = "a\x1b[2J\u202eb"
SAID = {
    "note": lambda show: show.note(EVIL),
    "warn": lambda show: show.warn(EVIL),
    "hint": lambda show: show.hint(EVIL),
    "mail": lambda show: show.mail(EVIL, EVIL, EVIL, again=False),
    "page": lambda show: show.identity_page(EVIL, EVIL, EVIL, EVIL),
    "table": lambda show: show.table({}, ("x",), [(EVIL,)]),
    "error": lambda show: show.error(DeviceError(Trouble.USAGE, EVIL)),
    "refusal": lambda show: show.error(KeyServiceError(Reason.POLICY_REFUSED, EVIL, metadata={"server_time": EVIL})),
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize(("width", "drawn"), [("200", "1"), ("20", "1"), ("20", "")], ids=["wide", "narrow", "plain"])
def test_nothing_that_is_said_gives_a_terminal_orders(name: str, width: str, drawn: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", drawn)
        patch.setenv("COLUMNS", width)
        SAID[name](Show())
    shown = said.getvalue()
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert "U+202E" in re.sub(r"\x1b\[[0-9;]*m|[\s│]", "", shown)


def test_an_error_beside_json_gives_no_orders_either() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as err:
        Show(as_json=True).error(DeviceError(Trouble.USAGE, EVIL))
    assert json.loads(err.getvalue())["error"]["detail"] == "a⟨U+001B⟩[2J⟨U+202E⟩b"


def test_the_pages_are_given_what_may_be_shown() -> None:
    task = Task(kind="get", title="a\n", lines=(("b\u202e", "c\u200b"),), digest="", options={}, accept=lambda _: None)
    told = json.loads(task.to_json())
    assert (told["title"], told["lines"]) == ("a⟨U+000A⟩", [["b⟨U+202E⟩", "c⟨U+200B⟩"]])
    html = page("question.html", id="1", task=task, window=None, said="").body.decode()
    for shown in ("a⟨U+000A⟩", "b⟨U+202E⟩", "c⟨U+200B⟩"):
        assert shown in html
