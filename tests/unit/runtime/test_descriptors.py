"""The soft limit of descriptors: raised as far as it goes, never lowered."""

import resource
from typing import Any

import pytest

from agentkeys_runtime.descriptors import raise_descriptors


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        ((1024, 4096), 2048, 2048),
        ((1024, 4096), 8192, 4096),
        ((1024, resource.RLIM_INFINITY), 8192, 8192),
        ((20_000, 20_000), 8192, 20_000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 8192, resource.RLIM_INFINITY),
    ],
)
def test_it_is_raised_as_far_as_the_hard_limit_lets(monkeypatch: Any, before: Any, wanted: int, after: int) -> None:
    held = [before]
    monkeypatch.setattr(resource, "getrlimit", lambda _: held[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: held.append(limits))
    assert raise_descriptors(wanted) == after
    assert held[-1] == (after, before[1])
