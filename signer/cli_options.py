"""Options that several commands of `agentkeys-signer` share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="signer.toml")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PassphraseFile = Annotated[Path | None, typer.Option(help="File with the passphrase, mode 0600.")]
PassphraseFd = Annotated[int | None, typer.Option(help="Open descriptor to read the passphrase from.")]


def print_facts(facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print facts a line each, or as one JSON object."""
    if as_json:
        print(json.dumps(facts, sort_keys=True))  # noqa: T201
        return
    for name, value in facts.items():
        print(f"{name:<13} {value}")  # noqa: T201
