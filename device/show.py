"""What people see: on stderr, so that stdout carries results alone; rich on a terminal, plain elsewhere."""

import getpass
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

import segno
from rich import box
from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agentkeys_core.encoding import hex_encode
from agentkeys_core.errors import KeyServiceError
from device.advice import advice_on
from device.errors import DeviceError, Trouble
from device.intent import Intent
from device.k11.port import AskedBy
from device.k11.software import BANNER
from device.visible import visible

_GAP: Final = "  "
#: Cells of a box's lines and of the blanks inside them.
_FRAME: Final = 4
_ANY_WIDTH: Final = 100_000
#: Light modules around a QR code.
_QUIET: Final = 2
#: Two modules, one above the other, as one character: dark is ink.
_HALVES: Final = {(0, 0): " ", (1, 0): "\u2580", (0, 1): "\u2584", (1, 1): "\u2588"}


class Show:
    """One run's output. `json` mode prints one JSON document on stdout, and errors as one on stderr.

    `asked_by` is how this person wants to be asked for K11, None for the way in which the key was made.
    """

    def __init__(self, *, as_json: bool = False, yes: bool = False, asked_by: AskedBy | None = None) -> None:
        self.as_json = as_json
        self.asked_by = asked_by
        self._yes = yes
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._warned = False
        self._shown: bytes | None = None
        self._intent: Intent | None = None

    def note(self, text: str) -> None:
        """A line on stderr for people."""
        if not self.as_json:
            self._say(text)

    def warn(self, text: str) -> None:
        """A line that people must see, also beside JSON output."""
        self._say(text, style="bold yellow")

    def software_k11(self) -> None:
        """Say once a run that K11 is a toy."""
        if not self._warned and not self.as_json:
            self.warn(BANNER)
        self._warned = True

    def k11_page(self, address: str) -> None:
        """Ask the person to open the K11 page; shown in every mode, since nothing goes on without it."""
        self._say("Open this page in your browser to approve with K11:")
        self._say(address, whole=True)

    def wallet_page(self, address: str) -> None:
        """Ask the person to open the page of their wallet; shown in every mode, since nothing goes on without it."""
        self._say("Open this page in the browser that has your wallet, and give its address to nobody:")
        self._say(address, whole=True)
        self._say("For a wallet that is in no browser, stop this with Ctrl-C and name it: --wallet ADDRESS")

    def console_page(self, address: str) -> None:
        """Ask the person to open the console; its address opens everything, so it is shown here and in no argv."""
        self._say("Your console, until you press Ctrl-C. Open this address in your browser, and give it to nobody:")
        self._say(address, whole=True)

    def identity_page(self, doing: str, address: str, device: str, code: str = "", *, enrolment: str = "") -> None:
        """Ask the person to go on at a page of the broker, which asks for `code` where it is not empty.

        Shown in every mode, since nothing goes on without it.
        """
        self._say(f"{doing}: open this page in your browser, and give its address to nobody.")
        self._say(address, whole=True)
        self._compared(device, code, enrolment)

    def mail(self, address: str, device: str, code: str, *, again: bool) -> None:
        """Say which mail to wait for, whose page asks for `code`; shown in every mode, as `identity_page`."""
        told = "The mail of before still counts; it went to" if again else "A mail goes to"
        self._say(f"{told} {address}. Its link is good for 10 minutes in all, on any machine.")
        self._compared(device, code, "")

    def _compared(self, device: str, code: str, enrolment: str) -> None:
        self._say("Go on only if its page shows the same:")
        self._say(f"{_GAP}device     {device}", whole=True)
        if enrolment:
            self._say(f"{_GAP}enrolment  {enrolment}", whole=True)
        if code:
            self._say("Type this code there. Tell it to nobody, and never type one that somebody sent you or told you:")
            self._say(f"{_GAP}code       {code}", whole=True)
        self._say("Waiting … Ctrl-C stops this; the same command goes on where it was.")

    def pairing(self, code: str, pairing: str, link: str) -> None:
        """Show what a person carries to a master; shown in every mode, since nothing goes on without it."""
        self.code(link)
        self._say("On a master's machine: agentkeys agent approve CODE")
        self._say(f"code: {code}", whole=True)
        self._say(f"pairing hash: {pairing}", whole=True)

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
        self._say("Have a master approve this line by agentkeys sign approve, and enter its answer here:")
        self._say(request, whole=True)

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
        self._say(words)

    def pin(self, question: str) -> str:
        """Return a PIN that was typed on the terminal, where it is not shown.

        Raises:
            DeviceError: `usage` where there is no terminal, `declined` where nothing was typed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)  # it would show what is typed
                typed = getpass.getpass(visible(question))
        except (getpass.GetPassWarning, EOFError, OSError):
            raise DeviceError(Trouble.USAGE, "a PIN is read from a terminal alone, and there is none here") from None
        if not typed:
            raise DeviceError(Trouble.DECLINED, "no PIN given; nothing was approved")
        return typed

    def _draw(self, intent: Intent) -> None:
        self._shown = intent.digest
        lines = [*intent.lines, ("digest", hex_encode(intent.digest))]
        if not self._err.is_terminal:
            self._say(f"signing: {intent.title}", whole=True)
            for name, value in lines:
                self._say(f"{_GAP}{name}: {value}", whole=True)
            return
        width = self._err.width - _FRAME
        title = "\n".join(chop_cells(visible(intent.title), width))
        self._err.print(Panel(Text.assemble((f"{title}\n", "bold"), _in_columns(lines, width)), box=box.ROUNDED))

    def _say(self, text: str, *, style: str = "", whole: bool = False) -> None:
        """Print a line on stderr; a `whole` one is broken by the terminal alone, so that it can be copied."""
        unbroken = whole or not self._err.is_terminal
        self._err.print(Text(visible(text), style=style if self._err.is_terminal else ""), soft_wrap=unbroken)

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
        self._err.print(f"{visible(question)} [y/N] ", end="", soft_wrap=True)
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
            sys.stdout.write(visible(line) + "\n")

    def table(self, data: Mapping[str, object], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows: a table on a terminal, tab-separated elsewhere, the JSON document in `json` mode."""
        if self.as_json:
            self.result(data)
        elif not self._out.is_terminal:
            for row in rows:
                sys.stdout.write("\t".join(visible(cell) for cell in row) + "\n")
        else:
            table = Table(box=box.SIMPLE_HEAD)
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(Text(visible(cell)) for cell in row))
            unbounded = self._out.options.update_width(_ANY_WIDTH)
            if self._out.measure(table, options=unbounded).maximum <= self._out.width:
                self._out.print(table)
            else:  # hashes in pieces could not be compared or copied
                self._list(columns, rows)

    def _list(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print each row as lines of `column  cell`, which the terminal alone breaks."""
        indent = max(map(cell_len, columns))
        for row in rows:
            lines = (f"{column:<{indent}}{_GAP}{visible(cell)}" for column, cell in zip(columns, row, strict=True))
            sys.stdout.write("\n".join(lines) + "\n\n")

    def error(self, error: DeviceError | KeyServiceError) -> None:
        """Print a refusal on stderr: `reason: detail`, or `{"error":{"reason",…}}`."""
        advice = visible(advice_on(error))
        if self.as_json:
            members: dict[str, object] = {"detail": visible(error.detail), "reason": str(error.reason)}
            if isinstance(error, KeyServiceError):
                members |= {name: visible(value) for name, value in error.metadata.items()}
            if advice:
                members["advice"] = advice
            sys.stderr.write(json.dumps({"error": members}, sort_keys=True) + "\n")
            return
        words = f": {visible(error.detail)}" if error.detail else ""
        unbroken = not self._err.is_terminal
        self._err.print(Text.assemble((str(error.reason), "bold red"), words), soft_wrap=unbroken)
        if advice:
            self._say(advice)


def _in_columns(lines: Sequence[tuple[str, str]], width: int) -> Text:
    """Names and values side by side, cut into lines of `width` cells here: wrapping by words would swallow blanks."""
    named = [(visible(name), visible(value)) for name, value in lines]
    indent = min(max(cell_len(name) for name, _ in named), width // 3)
    room = width - indent - 1  # so that a hash has its 64 cells beside the usual names, on 80 columns
    text = Text(no_wrap=True, overflow="fold")
    for name, value in named:
        for left, right in zip_longest(chop_cells(name, indent), chop_cells(value, room), fillvalue=""):
            text.append(set_cell_size(left, indent) + " ", style="dim").append(f"{right}\n")
    text.right_crop()  # the last line end
    return text


def described(data: Mapping[str, object]) -> list[str]:
    """A document as lines for people: `name: value`."""
    return [f"{name}: {_plain(value)}" for name, value in data.items()]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "none"
    return "none" if value is None else str(value)
