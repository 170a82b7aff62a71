"""Commands about the state as a whole: replaying the journal, backing up, restoring."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from agentkeys_runtime.config import load_config
from signer.adapters.journal_file import replay
from signer.backup import back_up
from signer.cli_options import PATH, config_option, json_option, passphrase_options, print_facts
from signer.clock import SystemClock
from signer.config import SignerConfig
from signer.hardening import harden
from signer.hostsocket import HostSocketError, ask_host
from signer.journal import JournalTamperedError
from signer.keyring import Keyring
from signer.restore import restore
from signer.serving import only_signer_of
from signer.unsealing import unsealer_of
from signer.vault import Vault

#: Exit status of a journal that is not what this signer wrote; 1 says that it could not be checked, 2 bad usage.
TAMPERED: Final = 3
_HASH_DIGITS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")

journal_app = click.Group("journal", help="The hash-chained journal.")


@journal_app.command("verify")
@config_option
@click.option("--state", type=PATH, help="Another state file, e.g. a copy.")
@click.option("--known-head", help="NUMBER:HASH of a line that is known from an earlier run or from status.")
@passphrase_options
@json_option
def verify(
    *,
    config: Path,
    state: Path | None,
    known_head: str | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    as_json: bool,
) -> None:
    """Replay the journal and every audit row. Exit 0: as written; 3: tampered, named by position; 1: not checked.

    May run while the signer serves.
    """
    harden()
    known = None if known_head is None else parse_head(known_head)
    found = load_config(config, SignerConfig)
    with unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd) as unsealer:
        secrets = Vault(found.vault).open(unsealer)
    with Keyring(secrets) as keyring:
        try:
            report = replay(state or found.database, keyring, known=known)
        except JournalTamperedError as fault:
            facts = {"ok": False, "fault": str(fault), "line": fault.line, "row": fault.row}
            if as_json:
                print_facts(facts, as_json=True)
            else:
                print(f"agentkeys-signer: {fault}", file=sys.stderr)  # noqa: T201
            raise click.exceptions.Exit(TAMPERED) from fault
    head = f"{report.head.sequence}:{report.head.hash.hex()}"
    print_facts({"ok": True, "lines": report.lines, "rows": report.rows, "head": head}, as_json=as_json)


@click.command(short_help="Copy vault and state, also while serving.")
@config_option
@click.argument("folder", type=PATH)
@passphrase_options
def backup(*, config: Path, folder: Path, passphrase_file: Path | None, passphrase_fd: int | None) -> None:
    """Copy vault and state into FOLDER, which must not exist yet, consistently, also while the signer serves.

    What unseals them is not copied.
    """
    harden()
    found = load_config(config, SignerConfig)
    try:
        answer = ask_host(found.host_socket, "backup")
    except HostSocketError:  # nobody serves, so nobody writes
        answer = {"ok": True}
    if answer["ok"] is not True:
        raise HostSocketError(f"the signer refused: {answer.get('reason')}")
    with unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd) as unsealer:
        back_up(found, folder, unsealer, now=int(SystemClock().now()))
    print_facts({"backup": str(folder)}, as_json=False)


@click.command("restore", short_help="Put a backup in force; everybody is frozen then.")
@config_option
@click.argument("folder", type=PATH)
@passphrase_options
@json_option
def restore_command(
    *, config: Path, folder: Path, passphrase_file: Path | None, passphrase_fd: int | None, as_json: bool
) -> None:
    """Put the backup in FOLDER in force: new incarnation, earlier requests void.

    Every user is frozen until a master unfreezes.
    """
    harden()
    found = load_config(config, SignerConfig)
    found.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        only_signer_of(found),
        unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd) as unsealer,
    ):
        done = restore(found, folder, unsealer, now=int(SystemClock().now()))
    print_facts(asdict(done), as_json=as_json)


def parse_head(text: str) -> tuple[int, bytes]:
    """Number and hash (32 bytes) of a journal line, as `verify` and `status` print them. Raises click.BadParameter."""
    number, _, digest = text.partition(":")
    if not number.isascii() or not number.isdigit() or len(number) > 15 or int(number) < 1:  # noqa: PLR2004
        raise click.BadParameter("a head is NUMBER:HASH")
    if len(digest) != _HASH_DIGITS or not _HEX.issuperset(digest):
        raise click.BadParameter("the hash of a head is 64 lower-case hex digits")
    return int(number), bytes.fromhex(digest)
