import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentkeys_runtime import logs

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Log lines written since, as parsed objects; the process's own logging is put back afterwards."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("signer", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)
