"""The command `agentkeys-worker`: parse, call, print."""

import sys
from pathlib import Path
from typing import Final

import click

from agentkeys_core.errors import KeyServiceError
from agentkeys_runtime.config import ConfigError, load_config
from agentkeys_runtime.logs import configure
from worker.app import rewrap, run
from worker.config import WorkerConfig

app = click.Group(
    "agentkeys-worker",
    help="Keeps credentials, memories or audit rows for devices: verifies every request itself, holds no key at rest.",
)
_config: Final = click.option("--config", type=click.Path(path_type=Path), required=True, help="worker.toml")


@app.command("serve", short_help="Serve until SIGTERM.")
@_config
@click.option("--verbose", is_flag=True, help="Log health checks as well.")
def serve_command(*, config: Path, verbose: bool) -> None:
    """Serve until SIGTERM; prints `ready https://HOST:PORT` once requests are taken."""
    configure("worker", level=10 if verbose else 20)
    run(load_config(config, WorkerConfig))


@app.command("rewrap", short_help="Bring stored objects under the current epoch.")
@_config
def rewrap_command(*, config: Path) -> None:
    """Bring every stored object under the current key epoch, while the signer's host keeps its window open.

    May run beside the serving worker, and again after a crash. Exit 1 where something was left as it is.
    """
    configure("worker", level=20)
    try:
        report = rewrap(load_config(config, WorkerConfig))
    except KeyServiceError as error:
        raise ConfigError(f"stopped: {error}; run it again to go on") from error
    print(f"rewrapped {report.rewrapped}, already current {report.current}, left {len(report.refused)}")
    for path, reason in report.refused.items():
        print(f"left {path}: {reason}")
    sys.exit(bool(report.refused))


def main() -> None:
    """Run the command line; what a host can mend ends it with one line on stderr and exit 1."""
    try:
        app()
    except ConfigError as error:
        print(f"agentkeys-worker: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
