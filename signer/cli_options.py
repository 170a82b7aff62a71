"""Options that several commands of `agentkeys-signer` share.

The command line of the services is Click, which needs nothing else: Typer loads Pydantic to read an option, 11 MiB in
the process that holds K3 (docs/adr/0038).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

PATH: Final = click.Path(path_type=Path)
config_option: Final = click.option("--config", type=PATH, required=True, help="signer.toml")
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def passphrase_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `passphrase_file` and `passphrase_fd`, both None where they are not named."""
    by_file = click.option("--passphrase-file", type=PATH, help="File with the passphrase, mode 0600.")
    by_fd = click.option("--passphrase-fd", type=int, help="Open descriptor to read the passphrase from.")
    return by_file(by_fd(command))


def print_facts(facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print facts a line each, or as one JSON object."""
    if as_json:
        print(json.dumps(facts, sort_keys=True))  # noqa: T201
        return
    for name, value in facts.items():
        print(f"{name:<13} {value}")  # noqa: T201
