"""What people see: on stderr, so that stdout carries results alone; rich on a terminal, plain elsewhere."""

import getpass
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Final

import segno
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from agentkeys_core.encoding import hex_encode
from agentkeys_core.errors import KeyServiceError
from device.advice import advice_on
from device.errors import DeviceError, Trouble
from device.intent import Intent
from device.k11.port import AskedBy
from device.k11.software import BANNER

_GAP: Final = "  "
#: Light modules around a QR code.
_QUIET: Final = 2
#: Two modules, one above the other, as one character: dark is ink.
_HALVES: Final = {(0, 0): " ", (1, 0): "\u2580", (0, 1): "\u2584", (1, 1): "\u2588"}


def clean(text: str) -> str:
    """Return the text without control characters: no answer may draw on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


class Show:
    """One run's output. `json` mode prints one JSON document on stdout, and errors as one on stderr.

    `asked_by` is how this person wants to be asked for K11, None for the way in which the key was made.
    """

    def __init__(self, *, as_json: bool = False, yes: bool = False, asked_by: AskedBy | None = None) -> None:
        self.as_json = as_json
        self.asked_by = asked_by
        self._yes = yes
        self._err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())
        self._out = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
        self._warned = False
        self._shown: bytes | None = None
        self._intent: Intent | None = None

    def note(self, text: str) -> None:
        """A line on stderr for people."""
        if not self.as_json:
            self._err.print(escape(clean(text)))

    def warn(self, text: str) -> None:
        """A line that people must see, also beside JSON output."""
        self._err.print(f"[bold yellow]{escape(clean(text))}[/]" if self._err.is_terminal else escape(clean(text)))

    def software_k11(self) -> None:
        """Say once a run that K11 is a toy."""
        if not self._warned and not self.as_json:
            self.warn(BANNER)
        self._warned = True

    def k11_page(self, address: str) -> None:
        """Ask the person to open the K11 page; shown in every mode, since nothing goes on without it."""
        self._err.print("Open this page in your browser to approve with K11:")
        self._err.print(escape(address), soft_wrap=True)

    def wallet_page(self, address: str) -> None:
        """Ask the person to open the page of their wallet; shown in every mode, since nothing goes on without it."""
        self._err.print("Open this page in the browser that has your wallet, and give its address to nobody:")
        self._err.print(escape(address), soft_wrap=True)
        self._err.print("For a wallet that is in no browser, stop this with Ctrl-C and name it: --wallet ADDRESS")

    def console_page(self, address: str) -> None:
        """Ask the person to open the console; its address opens everything, so it is shown here and in no argv."""
        self._err.print(
            "Your console, until you press Ctrl-C. Open this address in your browser, and give it to nobody:"
        )
        self._err.print(escape(address), soft_wrap=True)

    def identity_page(self, doing: str, address: str, device: str, *, enrolment: str = "") -> None:
        """Ask the person to go on at a page of the broker; shown in every mode, since nothing goes on without it."""
        self._err.print(f"{escape(clean(doing))}: open this page in your browser, and give its address to nobody.")
        self._err.print(escape(clean(address)), soft_wrap=True)
        self._compared(device, enrolment)

    def mail(self, address: str, device: str, *, again: bool) -> None:
        """Say which mail to wait for; shown in every mode, since nothing goes on without it."""
        told = "The mail of before still counts; it went to" if again else "A mail goes to"
        self._err.print(f"{told} {escape(clean(address))}. Its link is good for 10 minutes in all, on any machine.")
        self._compared(device, "")

    def _compared(self, device: str, enrolment: str) -> None:
        self._err.print(
            "Its page leaves out the first four characters, for you to type. Go on only if the rest is the same:"
        )
        self._err.print(f"{_GAP}device     {escape(clean(device))}")
        if enrolment:
            self._err.print(f"{_GAP}enrolment  {escape(clean(enrolment))}", soft_wrap=True)
        self._err.print("Waiting … Ctrl-C stops this; the same command goes on where it was.")

    def pairing(self, code: str, pairing: str, link: str) -> None:
        """Show what a person carries to a master; shown in every mode, since nothing goes on without it."""
        self.code(link)
        self._err.print("On a master's machine: agentkeys agent approve CODE")
        self._err.print(f"code: {escape(clean(code))}")
        self._err.print(f"pairing hash: {escape(clean(pairing))}")

    def code(self, text: str) -> None:
        """Draw a QR code on a terminal that is wide enough for it; its quiet zone and colours are its own."""
        rows = [bytes(row) for row in segno.make_qr(text, error="l").matrix_iter(border=_QUIET)]
        if not self._err.is_terminal or self._err.width < len(rows):
            return
        for upper, lower in zip(rows[::2], [*rows[1::2], bytes(len(rows))], strict=False):
            cells = "".join(_HALVES[pair] for pair in zip(upper, lower, strict=True))
            self._err.print(cells, style="#000000 on #ffffff", no_wrap=True)

    def person_asked(self) -> "Show":
        """The same without --yes, for questions that nothing said beforehand can answer."""
        return Show(as_json=self.as_json, asked_by=self.asked_by)

    def approval_needed(self, request: str) -> None:
        """Ask for a master's K11; shown in every mode, since nothing goes on without it."""
        self._err.print("Have a master approve this line by agentkeys sign approve, and enter its answer here:")
        self._err.print(escape(request), soft_wrap=True)

    def signing(self, intent: Intent) -> None:
        """Show what is about to be signed; in `json` mode where somebody is asked to agree to it."""
        self._intent = intent
        if not self.as_json:
            self._draw(intent)

    def about(self, intent: Intent) -> None:
        """Show what a security key will approve, in every mode, unless it was shown just before."""
        if self._shown != intent.digest:
            self._draw(intent)

    def hint(self, words: str) -> None:
        """Say what to do with a security key; shown in every mode, since nothing goes on without it."""
        self._err.print(escape(clean(words)))

    def pin(self, question: str) -> str:
        """Return a PIN that was typed on the terminal, where it is not shown.

        Raises:
            DeviceError: `usage` where there is no terminal, `declined` where nothing was typed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)  # it would show what is typed
                typed = getpass.getpass(clean(question))
        except (getpass.GetPassWarning, EOFError, OSError):
            raise DeviceError(Trouble.USAGE, "a PIN is read from a terminal alone, and there is none here") from None
        if not typed:
            raise DeviceError(Trouble.DECLINED, "no PIN given; nothing was approved")
        return typed

    def _draw(self, intent: Intent) -> None:
        self._shown = intent.digest
        lines = [*intent.lines, ("digest", hex_encode(intent.digest))]
        if not self._err.is_terminal:
            self._err.print(f"signing: {escape(clean(intent.title))}")
            for name, value in lines:
                self._err.print(f"{_GAP}{name}: {escape(clean(value))}")
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")  # a digest that is cut short could not be compared
        for name, value in lines:
            grid.add_row(f"[dim]{escape(name)}[/]", escape(clean(value)))
        self._err.print(
            Panel(grid, title=f"[bold]{escape(clean(intent.title))}[/]", title_align="left", box=box.ROUNDED)
        )

    def confirm(self, question: str, *, instead: str = "add --yes to agree beforehand") -> None:
        """Have the person agree, unless --yes did already. `instead` is what to do where nobody can be asked.

        Raises:
            DeviceError: `declined`, or `usage` where nobody can be asked.
        """
        if self._yes:
            return
        self.need_person(instead=instead)
        if self._intent is not None:
            self.about(self._intent)
            self._intent = None
        self._err.print(f"{escape(clean(question))} [y/N] ".replace("[y/N]", "\\[y/N]"), end="")
        if input().strip().lower() not in ("y", "yes"):
            raise DeviceError(Trouble.DECLINED, "not confirmed; nothing was signed")

    def need_person(self, *, instead: str = "add --yes to agree beforehand") -> None:
        """Return where `confirm` can ask somebody, or need not: to know it before anybody is kept waiting.

        Raises:
            DeviceError: `usage`.
        """
        if not self._yes and not sys.stdin.isatty():
            raise DeviceError(Trouble.USAGE, f"nobody can be asked here; {instead}")

    def result(self, data: Mapping[str, object], text: Sequence[str] | None = None) -> None:
        """Print the result: the JSON document, or lines of text (by default `name: value`)."""
        if self.as_json:
            sys.stdout.write(json.dumps(data, sort_keys=True) + "\n")
            return
        for line in text if text is not None else described(data):
            self._out.print(escape(clean(line)))

    def table(self, data: Mapping[str, object], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows: a table on a terminal, tab-separated elsewhere, the JSON document in `json` mode."""
        if self.as_json:
            self.result(data)
        elif not self._out.is_terminal:
            for row in rows:
                sys.stdout.write("\t".join(clean(cell) for cell in row) + "\n")
        else:
            table = Table(box=box.SIMPLE_HEAD)
            for column in columns:
                table.add_column(escape(column), overflow="fold")
            for row in rows:
                table.add_row(*(escape(clean(cell)) for cell in row))
            self._out.print(table)

    def error(self, error: DeviceError | KeyServiceError) -> None:
        """Print a refusal on stderr: `reason: detail`, or `{"error":{"reason",…}}`."""
        advice = clean(advice_on(error))
        if self.as_json:
            members: dict[str, object] = {"detail": clean(error.detail), "reason": str(error.reason)}
            if isinstance(error, KeyServiceError):
                members |= {name: clean(value) for name, value in error.metadata.items()}
            if advice:
                members["advice"] = advice
            sys.stderr.write(json.dumps({"error": members}, sort_keys=True) + "\n")
            return
        words = f": {clean(error.detail)}" if error.detail else ""
        self._err.print(f"[bold red]{escape(str(error.reason))}[/]{escape(words)}")
        if advice:
            self._err.print(escape(advice))


def described(data: Mapping[str, object]) -> list[str]:
    """A document as lines for people: `name: value`."""
    return [f"{name}: {_plain(value)}" for name, value in data.items()]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    return "none" if value is None else str(value)
