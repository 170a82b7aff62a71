"""What the process that holds K3 loads: every library there is one more that could give it away (docs/adr/0038)."""

import subprocess
import sys

#: Command lines, validators, web stacks and wallet libraries that start with others, or on the first call that needs them.
FOREIGN = {
    "eth_account",
    "httpx",
    "jinja2",
    "pydantic",
    "pydantic_core",
    "rich",
    "sqlalchemy",
    "starlette",
    "typer",
    "uvicorn",
}


def test_a_signer_that_serves_has_loaded_nothing_that_it_does_not_need() -> None:
    program = "import sys, signer.cli, signer.server, signer.adapters.committer; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "grpc" in loaded
    assert not loaded & FOREIGN
