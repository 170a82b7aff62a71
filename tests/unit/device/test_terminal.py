"""On a terminal: what is signed is shown, and a person can say no."""

import os
from pathlib import Path

import pytest

from device.intent import Intent
from device.show import Show
from tests.unit.device.conftest import Person
from tests.unit.device.terminal import Terminal, unbroken


def converse(person: Person, answer: bytes, *words: str, columns: int = 100) -> tuple[int, str]:
    """Run `agentkeys` on a terminal of its own, and answer its question."""
    with Terminal(person, *words, columns=columns) as terminal:
        if answer:
            terminal.until(r"\[y/N\]")
            terminal.write(answer)
        return terminal.end()


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
def test_person_is_asked_before_anything_is_signed(master: Person, answer: bytes, code: int) -> None:
    done, shown = converse(master, answer, "freeze")
    assert done == code, shown
    assert "Freeze everything of this operator" in shown
    assert "digest" in shown
    assert ("declined" in shown) == bool(code)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_whatever_is_signed_is_shown_in_full(master: Person, columns: int) -> None:
    """A digest or a name that is cut short could not be compared with what another machine shows."""
    operator = master("whoami").data["operator_omni"]
    _, shown = converse(master, b"n\n", "freeze", columns=columns)
    assert "…" not in shown
    assert operator in unbroken(shown)


def test_a_table_cuts_no_hash_short(master: Person, agent: Person) -> None:
    for columns in (40, 60, 100, 250):
        _, shown = converse(master, b"", "device", "list", columns=columns)
        assert "…" not in shown
        assert agent("whoami").data["device"] in shown


def test_a_value_ends_its_line_on_a_terminal_only(master: Person, tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"value")
    master("cred", "put", "x", "--file", tmp_path / "v")
    _, shown = converse(master, b"", "cred", "get", "x")
    assert shown.endswith("value\r\n")
    assert master("cred", "get", "x", as_json=False).out == "value"


def test_tables_are_drawn_for_people(master: Person, agent: Person) -> None:
    assert agent.home.exists()
    done, shown = converse(master, b"", "agent", "list")
    assert done == 0
    assert "research/0" in shown


def test_plain_tables_are_tab_separated(master: Person, tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"v")
    stored = master("cred", "put", "x", "--file", tmp_path / "v").data["store"]
    assert master("cred", "list", as_json=False).out == f"x\t{stored}\n"


def test_value_comes_from_standard_input(master: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe\n")
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert master("cred", "put", "x").code == 0
    monkeypatch.undo()
    assert master("cred", "get", "x", as_json=False).out == "from a pipe\n"


def test_words_between_colons_stay_words(capsys: pytest.CaptureFixture[str]) -> None:
    """What is shown is what is signed: no picture takes the place of a text."""
    Show().about(Intent(title="pay :key:", lines=(("to", "a :heavy_dollar_sign: b"),), digest=bytes(32)))
    shown = capsys.readouterr().err
    assert "pay :key:" in shown
    assert "a :heavy_dollar_sign: b" in shown


def test_who_agrees_is_shown_what_beside_json_too(master: Person) -> None:
    """The document alone goes to stdout; whoever is asked at the terminal reads what they agree to."""
    operator = master("whoami").data["operator_omni"]
    with Terminal(master, "--json", "freeze") as terminal:
        asked = terminal.until(r"\[y/N\]")
        terminal.write(b"n\n")
        code, _ = terminal.end()
    assert code == 1
    assert "Freeze everything of this operator" in asked
    assert operator in unbroken(asked)


def test_nothing_is_drawn_beside_json_where_nobody_is_asked(master: Person) -> None:
    assert "Freeze" not in master("freeze").err
