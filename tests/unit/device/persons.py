"""People who run `agentkeys`, each with a folder of their own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from device.cli import run
from tests.unit.device.deployment import Deployment


@dataclass
class Outcome:
    """What one run of `agentkeys` gave."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def reason(self) -> str:
        return str(json.loads(self.err.strip().splitlines()[-1])["error"]["reason"])


@dataclass
class Person:
    """Runs `agentkeys` with one home."""

    home: Path
    profile: Path
    profile_hash: str
    wallet_file: Path
    capture: pytest.CaptureFixture[str]
    deployment: Deployment

    def __call__(self, *words: object, as_json: bool = True) -> Outcome:
        self.capture.readouterr()
        head = ["--home", str(self.home), "--yes", *(["--json"] if as_json else [])]
        code = run([*head, *(str(word) for word in words)])
        out, err = self.capture.readouterr()
        return Outcome(code, out, err)

    def profile_words(self) -> list[object]:
        return ["--profile", self.profile, "--profile-hash", self.profile_hash]

    def init(self, *words: object) -> Outcome:
        wallet = words or ("--wallet-key-file", self.wallet_file)
        return self("init", *self.profile_words(), "--k11", "software", *wallet)
