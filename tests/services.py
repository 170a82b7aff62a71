"""Finds what `make services` installed. A test whose real server is missing says which; under CI that is a failure."""

import os
from pathlib import Path

import pytest

from tools.services import SERVICES


def program(name: str) -> Path:
    """The installed program of a service; without it the test is skipped loudly, and under CI fails."""
    service = SERVICES[name]
    if service.path.exists():
        return service.path
    told = f"{name} {service.version} is not installed: run `make services`"
    if os.environ.get("CI") == "true":
        pytest.fail(told)
    pytest.skip(told)
