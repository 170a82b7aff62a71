"""The command `agentkeys-worker`: parse, call, print."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from agentkeys_runtime.config import ConfigError, load_config
from agentkeys_runtime.logs import configure
from worker.app import run
from worker.config import WorkerConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def root() -> None:
    """Keeps credentials for devices: verifies every request by itself, holds no key at rest."""


@app.command("serve", short_help="Serve until SIGTERM.")
def serve_command(
    config: Annotated[Path, typer.Option("--config", help="worker.toml")],
    verbose: Annotated[bool, typer.Option(help="Log health checks as well.")] = False,
) -> None:
    """Serve until SIGTERM; prints `ready https://HOST:PORT` once requests are taken."""
    configure("worker", level=10 if verbose else 20)
    run(load_config(config, WorkerConfig))


def main() -> None:
    """Run the command line; what a host can mend ends it with one line on stderr and exit 1."""
    try:
        app()
    except ConfigError as error:
        print(f"agentkeys-worker: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
