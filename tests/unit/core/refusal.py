"""Asserting on reasons, never on prose."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentkeys_core.errors import KeyServiceError


@contextmanager
def refused(reason: str) -> Iterator[None]:
    """Expect a refusal for exactly this reason; `ok` expects none."""
    if reason == "ok":
        yield
        return
    with pytest.raises(KeyServiceError) as caught:
        yield
    assert caught.value.reason == reason
