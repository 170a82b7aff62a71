"""The command `agentkeys-signer`: parse, call, print."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from agentkeys_core.encoding import hex_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError, load_config
from agentkeys_runtime.identity import CallerRole
from agentkeys_runtime.logs import configure
from signer import oidc, profile_file
from signer.adapters.database import Database, StateError, read_meta
from signer.cli_options import PATH, config_option, json_option, passphrase_options, print_facts
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

app = click.Group("agentkeys-signer", help="Keeps K3, and answers broker and workers alone.")
oidc_app = click.Group("oidc", help="What the host publishes at the issuer's origin.")
for _command in (oidc_app, journal_app, backup, restore_command):
    app.add_command(_command)


@app.command(short_help="Make a vault with a new master secret, and the state file.")
@config_option
@passphrase_options
def init(*, config: Path, passphrase_file: Path | None, passphrase_fd: int | None) -> None:
    """Make a vault with a new master secret, and the state file. Nothing is ever overwritten."""
    harden()
    found = load_config(config, SignerConfig)
    if ensure_key_file(found):
        print(f"key file   {found.unseal.key_file} (made now: keep a copy elsewhere)")
    with unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd, new=True) as unsealer:
        registry_id = create_deployment(found, unsealer, new_k3())
    _print_made(found, registry_id)


@app.command("import-k3", short_help="Like init, with an existing master secret.")
@config_option
@click.argument("secret_file", type=PATH, required=False)
@passphrase_options
def import_k3(
    *, config: Path, secret_file: Path | None, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    """Like init, with an existing development master secret as K3 of epoch 1: every address stays.

    SECRET_FILE holds 32 bytes or 64 hex digits, mode 0600; without it the secret is asked for.
    """
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
@config_option
@passphrase_options
@click.option("--allow-software-k11", is_flag=True, help="Development: let software authenticators be enrolled.")
@click.option("--verbose", is_flag=True, help="Log served calls as well as refused ones.")
def serve_command(
    *,
    config: Path,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    allow_software_k11: bool,
    verbose: bool,
) -> None:
    """Serve until SIGTERM; prints `ready HOST:PORT` once calls are answered."""
    harden()
    configure("signer", level=10 if verbose else 20)
    found = load_config(config, SignerConfig)
    software = allow_software_k11 or found.registry.allow_software_k11
    with unsealer_of(found.unseal, passphrase_file=passphrase_file, passphrase_fd=passphrase_fd) as unsealer:
        serve(found, unsealer, allow_software_k11=software)


@app.command(short_help="Say how the signer is.")
@config_option
@json_option
def status(*, config: Path, as_json: bool) -> None:
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
@config_option
def seal(*, config: Path) -> None:
    """Make the serving signer forget every secret; only a new start opens the vault again."""
    print_facts(_asked(load_config(config, SignerConfig), "seal"), as_json=False)


@app.command("clock-reset", short_help="Reset the high-water mark of time.")
@config_option
def clock_reset(*, config: Path) -> None:
    """Reset the signer's high-water mark of time, after the longest window; nothing is served until then."""
    print_facts(_asked(load_config(config, SignerConfig), "clock-reset"), as_json=False)


@app.command(short_help="Advance K3 to a new epoch, in two steps.")
@config_option
@click.option("--prepare", is_flag=True, help="Generate the next epoch, write its public keys.")
@click.option("--commit", is_flag=True, help="Make the prepared epoch current.")
@click.option("--out", type=PATH, help="With --prepare: folder that the issuer's origin serves.")
@json_option
def rotate(*, config: Path, prepare: bool, commit: bool, out: Path | None, as_json: bool) -> None:
    """Advance K3 to a new epoch: prepare, publish the files, commit. At most once an hour, while the signer serves."""
    if prepare == commit or prepare != (out is not None):
        raise click.UsageError("either --prepare with --out FOLDER, or --commit")
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
@config_option
@click.option("--minutes", type=click.IntRange(min=1), help="Open the window for so long (at most 240).")
@click.option("--close", is_flag=True, help="Close it now.")
@json_option
def rewrap_window(*, config: Path, minutes: int | None, close: bool, as_json: bool) -> None:
    """Let workers re-wrap envelopes under the current epoch for a while; without options, say how long still."""
    if close and minutes is not None:
        raise ConfigError("--minutes opens the window and --close closes it")
    asked = {"minutes": 0} if close else {} if minutes is None else {"minutes": minutes}
    print_facts(_asked(load_config(config, SignerConfig), "rewrap-window", **asked), as_json=as_json)


@app.command(short_help="Undo a first bind by e-mail.")
@config_option
@click.argument("operator", metavar="OMNI")
@json_option
def annul(*, config: Path, operator: str, as_json: bool) -> None:
    """Undo a first bind by e-mail that the wrong person made; refused once anything was released to it.

    OMNI is the operator's, 64 hex digits. Its devices are revoked for ever, and the identity may bind again.
    """
    omni = hex_decode(operator.lower(), length=32, reason=Reason.INVALID_OMNI)
    print_facts(_asked(load_config(config, SignerConfig), "annul", operator=omni.hex()), as_json=as_json)


@app.command(short_help="Write the profile that devices take; print its hash.")
@config_option
@click.option("--out", type=PATH, required=True, help="File to write the profile to.")
@click.option("--ca", type=PATH, help="Root certificate, PEM.")
@click.option("--broker", help="Origin of the broker.")
@click.option("--issuer", help="Origin of the issuer.")
@click.option("--worker", multiple=True, help="class=origin, once for each class.")
@json_option
def profile(
    *,
    config: Path,
    out: Path,
    ca: Path | None,
    broker: str | None,
    issuer: str | None,
    worker: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the profile that devices take, and print its hash, which each user compares once."""
    found = load_config(config, SignerConfig)
    database = Database(found.database)
    try:
        with database.reading() as conn:
            registry_id = read_meta(conn).registry_id
    finally:
        database.close()
    workers = profile_file.parse_workers(list(worker))
    composed = profile_file.compose(
        found, registry_id=registry_id, ca=ca, broker=broker, issuer=issuer, workers=workers
    )
    oidc.export_file(out, composed.encode())
    print_facts({"profile": str(out), "profile_hash": composed.hash().hex()}, as_json=as_json)


@oidc_app.command("export", short_help="Write discovery and both key sets.")
@click.argument("folder", type=PATH)
@config_option
@click.option("--issuer", help="Origin of the issuer; by default as configured.")
@passphrase_options
def oidc_export(
    *, folder: Path, config: Path, issuer: str | None, passphrase_file: Path | None, passphrase_fd: int | None
) -> None:
    """Write discovery and both key sets below FOLDER, which the issuer's origin serves; replaces an earlier export."""
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
