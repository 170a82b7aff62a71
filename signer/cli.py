"""The command `agentkeys-signer`: parse, call, print."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from agentkeys_core.encoding import hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError, load_config
from agentkeys_runtime.identity import CallerRole
from agentkeys_runtime.logs import configure
from signer import oidc, profile_file
from signer.adapters.database import Database, StateError, read_meta
from signer.cli_options import ConfigOption, JsonOption, PassphraseFd, PassphraseFile, print_facts
from signer.cli_state import backup, journal_app, restore_command
from signer.config import SignerConfig, UnsealConfig, origin_or_value_error
from signer.hardening import HardeningError, harden
from signer.hostsocket import TIMEOUT_S, HostSocketError, ask_host
from signer.journal import JournalTamperedError
from signer.keyring import Keyring
from signer.ports import VaultError
from signer.prefork import ChildError
from signer.private_files import read_private
from signer.rpc.permissions import PERMISSIONS
from signer.serving import StartError, serve
from signer.setup import create_deployment, ensure_key_file, parse_k3
from signer.unsealing import ask_secretly, unsealer_of
from signer.vault import Vault, new_k3

#: What a host can do something about: one line on stderr and exit 1. BindError is an OSError.
_EXPECTED: Final = (
    ConfigError,
    VaultError,
    StateError,
    StartError,
    HardeningError,
    HostSocketError,
    JournalTamperedError,
    KeyServiceError,
    ChildError,
    OSError,
)
_K3_FILE_LIMIT: Final = 128  # bytes
_ROTATE_S: Final = 60.0  # longer than every wait of a rotation together

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Keeps K3, and answers broker and workers alone.",
)
oidc_app = typer.Typer(no_args_is_help=True, help="What the host publishes at the issuer's origin.")
app.add_typer(oidc_app, name="oidc")
app.add_typer(journal_app, name="journal")
app.command(short_help="Copy vault and state, also while serving.")(backup)
app.command("restore", short_help="Put a backup in force; everybody is frozen then.")(restore_command)


@app.command(short_help="Make a vault with a new master secret, and the state file.")
def init(config: ConfigOption, passphrase_file: PassphraseFile = None, passphrase_fd: PassphraseFd = None) -> None:
    """Make a vault with a new master secret, and the state file. Nothing is ever overwritten."""
    harden()
    found = load_config(config, SignerConfig)
    if ensure_key_file(found):
        print(f"key file   {found.unseal.key_file} (made now: keep a copy elsewhere)")
    with unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd, new=True) as unsealer:
        registry_id = create_deployment(found, unsealer, new_k3())
    _print_made(found, registry_id)


@app.command("import-k3", short_help="Like init, with an existing master secret.")
def import_k3(
    config: ConfigOption,
    secret_file: Annotated[
        Path | None, typer.Argument(help="32 bytes or 64 hex digits, mode 0600; else asked for.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
) -> None:
    """Like init, with an existing development master secret as K3 of epoch 1: every address stays."""
    harden()
    found = load_config(config, SignerConfig)
    if ensure_key_file(found):
        print(f"key file   {found.unseal.key_file} (made now: keep a copy elsewhere)")
    content = (
        ask_secretly("Master secret, hex: ") if secret_file is None else read_private(secret_file, limit=_K3_FILE_LIMIT)
    )
    with (
        parse_k3(content) as k3,
        unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd, new=True) as unsealer,
    ):
        registry_id = create_deployment(found, unsealer, k3)
    _print_made(found, registry_id)


@app.command("serve", short_help="Serve until SIGTERM.")
def serve_command(
    config: ConfigOption,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
    allow_software_k11: Annotated[
        bool, typer.Option(help="Development: let software authenticators be enrolled.")
    ] = False,
    verbose: Annotated[bool, typer.Option(help="Log served calls as well as refused ones.")] = False,
) -> None:
    """Serve until SIGTERM; prints `ready HOST:PORT` once calls are answered."""
    harden()
    configure("signer", level=10 if verbose else 20)
    found = load_config(config, SignerConfig)
    software = allow_software_k11 or found.registry.allow_software_k11
    with unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd) as unsealer:
        serve(found, unsealer, allow_software_k11=software)


@app.command(short_help="Say how the signer is.")
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Say how the signer is: asks the one that serves, else reads its state file."""
    found = load_config(config, SignerConfig)
    try:
        facts: Mapping[str, object] = _asked(found, "status")
    except HostSocketError:
        database = Database(found.database)
        try:
            with database.reading() as conn:
                meta = read_meta(conn)
        finally:
            database.close()
        facts = {
            "registry_id": meta.registry_id,
            "k3_epoch": meta.k3_epoch,
            "incarnation": meta.incarnation,
            "serving": False,
        }
    print_facts(facts, as_json=as_json)


@app.command(short_help="Make the serving signer forget every secret.")
def seal(config: ConfigOption) -> None:
    """Make the serving signer forget every secret; only a new start opens the vault again."""
    print_facts(_asked(load_config(config, SignerConfig), "seal"), as_json=False)


@app.command("clock-reset", short_help="Reset the high-water mark of time.")
def clock_reset(config: ConfigOption) -> None:
    """Reset the signer's high-water mark of time, after the longest window; nothing is served until then."""
    print_facts(_asked(load_config(config, SignerConfig), "clock-reset"), as_json=False)


@app.command(short_help="Advance K3 to a new epoch, in two steps.")
def rotate(
    config: ConfigOption,
    prepare: Annotated[bool, typer.Option("--prepare", help="Generate the next epoch, write its public keys.")] = False,
    commit: Annotated[bool, typer.Option("--commit", help="Make the prepared epoch current.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --prepare: folder that the issuer's origin serves.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Advance K3 to a new epoch: prepare, publish the files, commit. At most once an hour, while the signer serves."""
    if prepare == commit or prepare != (out is not None):
        raise typer.BadParameter("either --prepare with --out FOLDER, or --commit")
    found = load_config(config, SignerConfig)
    if commit:
        print_facts(_asked(found, "rotate-commit", timeout_s=_ROTATE_S), as_json=as_json)
        return
    answer = _asked(found, "rotate-prepare", timeout_s=_ROTATE_S)
    files = answer.pop("files", None)
    if out is None or not isinstance(files, dict) or set(files) != {oidc.JWKS, oidc.AUDIT_JWKS}:
        raise HostSocketError("the signer answered with other files than the two key sets")
    written = oidc.export(out, {name: str(text).encode() for name, text in files.items()})
    print_facts({**answer, "written": ", ".join(str(path) for path in written)}, as_json=as_json)


@app.command("rewrap-window", short_help="Let workers re-wrap envelopes for a while.")
def rewrap_window(
    config: ConfigOption,
    minutes: Annotated[int | None, typer.Option(min=1, help="Open the window for so long (at most 240).")] = None,
    close: Annotated[bool, typer.Option("--close", help="Close it now.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let workers re-wrap envelopes under the current epoch for a while; without options, say how long still."""
    if close and minutes is not None:
        raise ConfigError("--minutes opens the window and --close closes it")
    asked = {"minutes": 0} if close else {} if minutes is None else {"minutes": minutes}
    print_facts(_asked(load_config(config, SignerConfig), "rewrap-window", **asked), as_json=as_json)


@app.command(short_help="Undo a first bind by e-mail.")
def annul(
    config: ConfigOption,
    operator: Annotated[str, typer.Argument(metavar="OMNI", help="The operator's omni, 64 hex digits.")],
    as_json: JsonOption = False,
) -> None:
    """Undo a first bind by e-mail that the wrong person made; refused once anything was released to it.

    Its devices are revoked for ever, and the identity may bind again.
    """
    omni = hex_decode(operator.lower(), length=32, reason=Reason.INVALID_OMNI)
    print_facts(_asked(load_config(config, SignerConfig), "annul", operator=omni.hex()), as_json=as_json)


@app.command(short_help="Write the profile that devices take; print its hash.")
def profile(  # noqa: PLR0917  # typer passes them by name
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="File to write the profile to.")],
    ca: Annotated[Path | None, typer.Option(help="Root certificate, PEM.")] = None,
    broker: Annotated[str | None, typer.Option(help="Origin of the broker.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Origin of the issuer.")] = None,
    worker: Annotated[list[str] | None, typer.Option(help="class=origin, once for each class.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the profile that devices take, and print its hash, which each user compares once."""
    found = load_config(config, SignerConfig)
    database = Database(found.database)
    try:
        with database.reading() as conn:
            registry_id = read_meta(conn).registry_id
    finally:
        database.close()
    workers = profile_file.parse_workers(worker or [])
    composed = profile_file.compose(
        found, registry_id=registry_id, ca=ca, broker=broker, issuer=issuer, workers=workers
    )
    oidc.export_file(out, composed.encode())
    print_facts({"profile": str(out), "profile_hash": composed.hash().hex()}, as_json=as_json)


@oidc_app.command("export", short_help="Write discovery and both key sets.")
def oidc_export(
    folder: Annotated[Path, typer.Argument(help="Folder that the issuer's origin serves.")],
    config: ConfigOption,
    issuer: Annotated[str | None, typer.Option(help="Origin of the issuer; by default as configured.")] = None,
    passphrase_file: PassphraseFile = None,
    passphrase_fd: PassphraseFd = None,
) -> None:
    """Write discovery and both key sets below FOLDER, replacing what an earlier export wrote."""
    harden()
    found = load_config(config, SignerConfig)
    origin = issuer or found.issuer_origin
    if origin is not None:
        _checked_issuer(origin)
    with unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd) as unsealer:
        secrets = Vault(found.vault).open(unsealer)
    with Keyring(secrets) as keyring:
        files = oidc.documents(keyring, origin)
    for path in oidc.export(folder, files):
        print(path)
    if origin is None:
        print("no discovery document: no issuer is configured", file=sys.stderr)


@app.command()
def permissions() -> None:
    """Print who may call what."""
    for method, roles in sorted(PERMISSIONS.items()):
        print(f"{method:<64} {' '.join(role for role in CallerRole if role in roles)}")


def main() -> None:
    """Run the command line; what a host can mend ends it with one line on stderr and exit 1."""
    try:
        app()
    except _EXPECTED as error:
        print(f"agentkeys-signer: {error}", file=sys.stderr)
        sys.exit(1)


def _asked(
    config: SignerConfig, command: str, *, timeout_s: float = TIMEOUT_S, **arguments: object
) -> dict[str, object]:
    answer = ask_host(config.host_socket, command, timeout_s=timeout_s, **arguments)
    if answer.pop("ok", False) is not True:
        detail = answer.get("detail")
        raise HostSocketError(f"the signer refused: {answer.get('reason')}{f' ({detail})' if detail else ''}")
    return answer


def _checked_issuer(origin: str) -> None:
    try:
        origin_or_value_error(origin, "issuer")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _print_made(config: SignerConfig, registry_id: str) -> None:
    print(f"vault      {config.vault}")
    print(f"state      {config.database}")
    print(f"registry   {registry_id}")
    if config.unseal == UnsealConfig():
        print("keep the passphrase: without it the vault never opens again")
