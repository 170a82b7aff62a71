"""The shared test vectors, by group."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "vectors" / "vectors.json"


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return found


def cases(group: str, kind: str | None = None) -> list[Any]:
    """The cases of a group as pytest parameters named after them; of `negative` those of one kind."""
    found = [case for case in document()["groups"][group]["cases"] if kind is None or case["in"].get("kind") == kind]
    assert found
    return [pytest.param(case["in"], case["expect"], id=case["name"]) for case in found]
