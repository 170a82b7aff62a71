"""The command `agentkeys-broker`: parse, call, print."""

import sys
from pathlib import Path
from typing import Final

import click

from agentkeys_runtime.config import ConfigError, load_config
from agentkeys_runtime.logs import configure
from broker.app import redirect_uri, run
from broker.config import BrokerConfig
from broker.keyfile import (
    JWK_NAME,
    KEY_NAME,
    NEXT_JWK_NAME,
    PREVIOUS_KEY_NAME,
    create_key,
    forget_key,
    prepare_key,
    promote_key,
)

app = click.Group("agentkeys-broker", help="Checks and co-signs what devices ask for; releases nothing.")
key_app = click.Group("key", help="Replace K1 step by step: prepare, pin, promote, forget.")
app.add_command(key_app)
_PATH: Final = click.Path(path_type=Path)
_state_dir: Final = click.option("--state-dir", type=_PATH, required=True, help="Folder of the broker's state.")


@app.command(short_help="Make K1, the co-signing key.")
@click.option("--state-dir", type=_PATH, required=True, help="Folder of the broker's state, made if missing.")
def init(*, state_dir: Path) -> None:
    """Make K1, the co-signing key, and write its public half for signer and workers to pin. Never overwrites."""
    public = create_key(state_dir)
    print(f"key     {state_dir / KEY_NAME}")
    print(f"public  {state_dir / JWK_NAME}")
    print(f"kid     {public.kid}")


@key_app.command(short_help="Make the next K1, which signs nothing yet.")
@_state_dir
def prepare(*, state_dir: Path) -> None:
    """Make the next K1 and its public half, for signer and workers to pin beside the present one. It signs nothing."""
    public = prepare_key(state_dir)
    print(f"public  {state_dir / NEXT_JWK_NAME}")
    print(f"kid     {public.kid}")
    print("next    add that file to `cosign_keys` of signer and workers and restart them; then `key promote`")


@key_app.command(short_help="Let the prepared key sign from the next start on.")
@_state_dir
def promote(*, state_dir: Path) -> None:
    """Let the prepared key sign from the next start on. Sessions signed by the one before stay good until `forget`."""
    public = promote_key(state_dir)
    print(f"kid     {public.kid}")
    print("next    restart the broker; 10 minutes later drop the old file from `cosign_keys`, then `key forget`")


@key_app.command(short_help="Remove the key that was replaced.")
@_state_dir
def forget(*, state_dir: Path) -> None:
    """Remove the key that was replaced."""
    forget_key(state_dir)
    print(f"removed {state_dir / PREVIOUS_KEY_NAME}")


@app.command(short_help="Print the address to register at each configured provider.")
@click.option("--config", type=_PATH, required=True, help="broker.toml")
def providers(*, config: Path) -> None:
    """Print each configured provider and the address to register there, to which it alone sends people back."""
    found = load_config(config, BrokerConfig)
    for provider in found.providers:
        print(f"issuer    {provider.issuer}")
        print(f"redirect  {redirect_uri(found, provider)}")


@app.command("serve", short_help="Serve until SIGTERM.")
@click.option("--config", type=_PATH, required=True, help="broker.toml")
@click.option("--verbose", is_flag=True, help="Log health checks as well.")
def serve_command(*, config: Path, verbose: bool) -> None:
    """Serve until SIGTERM; prints `ready https://HOST:PORT` once requests are taken."""
    configure("broker", level=10 if verbose else 20)
    run(load_config(config, BrokerConfig))


def main() -> None:
    """Run the command line; what a host can mend ends it with one line on stderr and exit 1."""
    try:
        app()
    except ConfigError as error:
        print(f"agentkeys-broker: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
