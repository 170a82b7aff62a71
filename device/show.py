"""What people see: on stderr, so that stdout carries results alone; rich on a terminal, plain elsewhere."""

import json
import sys
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
from device.errors import DeviceError, Trouble
from device.intent import Intent
from device.k11.software import BANNER
from device.problems import RETRY_AFTER

_GAP: Final = "  "
#: Light modules around a QR code.
_QUIET: Final = 2
#: Two modules, one above the other, as one character: dark is ink.
_HALVES: Final = {(0, 0): " ", (1, 0): "\u2580", (0, 1): "\u2584", (1, 1): "\u2588"}


def clean(text: str) -> str:
    """Return the text without control characters: no answer may draw on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


class Show:
    """One run's output. `json` mode prints one JSON document on stdout, and errors as one on stderr."""

    def __init__(self, *, as_json: bool = False, yes: bool = False) -> None:
        self.as_json = as_json
        self._yes = yes
        self._err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self._out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._warned = False

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
        self._compared("Go on there only if it shows this:", device, enrolment)

    def mail(self, address: str, device: str, *, again: bool) -> None:
        """Say which mail to wait for; shown in every mode, since nothing goes on without it."""
        told = "The mail of before still counts; it went to" if again else "A mail goes to"
        self._err.print(f"{told} {escape(clean(address))}. Its link is good for 10 minutes in all, on any machine.")
        self._compared("Confirm there only if the page shows this:", device, "")

    def _compared(self, words: str, device: str, enrolment: str) -> None:
        self._err.print(words)
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
        return Show(as_json=self.as_json)

    def approval_needed(self, request: str) -> None:
        """Ask for a master's K11; shown in every mode, since nothing goes on without it."""
        self._err.print("Have a master approve this line by agentkeys sign approve, and enter its answer here:")
        self._err.print(escape(request), soft_wrap=True)

    def signing(self, intent: Intent) -> None:
        """Show what is about to be signed."""
        if self.as_json:
            return
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
        advice = _advice(error)
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


_ADVICE: Final[Mapping[str, str]] = {
    "cap_expired": "Your clock may be behind; compare it with the server's.",
    "cap_not_yet_valid": "Your clock may be ahead; compare it with the server's.",
    "service_not_in_scope": "A master can grant it: agentkeys scope set AGENT --grant SERVICE",
    "operator_frozen": "A master or a restore froze everything: see agentkeys device list, then agentkeys unfreeze.",
    "change_not_authorised": "The registry's state does not fit it, or who signed it may not; see agentkeys whoami.",
    "device_unknown": "The registry does not know this device yet; a master lets it in: agentkeys agent approve CODE.",
    "k11_required": "Only a master device with its K11 can do that; for typed data an agent may --ask-master.",
    "proof_invalid": "This machine's clock may be off; it must be right to a minute.",
    "policy_refused": "The signer's host does not allow that, or the wallet is your own and signs by itself.",
    "version_not_current": "Somebody changed it meanwhile; look with agentkeys cred list and try again.",
    "ceremony_ended": "Its ten minutes are over, or it was used. Run the command again to begin anew.",
    "not_confirmed": "Run the command again to begin anew.",
    "identity_not_offered": "Ask your host which identities this deployment takes.",
    "invalid_evidence": "What was proved does not count here: too old, not the deployment's, or not taken by its host.",
    "already_bound": "That identity or device has a tree already: a master of it can let this machine in.",
    "rate_limited": "That was asked too often; wait a while.",
    "mail_unreachable": "The broker could not hand the mail over; check the address, or try again later.",
    "k11_invalid": "A software K11 works only with a registry started with --allow-software-k11.",
}


def _advice(error: DeviceError | KeyServiceError) -> str:
    words = _ADVICE.get(str(error.reason), "")
    if isinstance(error, KeyServiceError) and str(error.reason).startswith("cap_") and "server_time" in error.metadata:
        words += f" Server time: {clean(error.metadata['server_time'])} (Unix seconds)."
    if isinstance(error, KeyServiceError) and RETRY_AFTER in error.metadata:
        words += f" Try again in {clean(error.metadata[RETRY_AFTER])} s."
    return words.strip()
