"""A hook of the fuzzer: what was asked and how it was answered, a line each, in the file that TRAFFIC_LOG names."""

import json
import os
from pathlib import Path
from typing import Any

import schemathesis

LOG = Path(os.environ["TRAFFIC_LOG"])


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Write the line."""
    try:
        reason = json.loads(response.content).get("reason")
    except (ValueError, AttributeError):
        reason = None
    line = {"operation": case.operation.label, "status": response.status_code, "reason": reason}
    with LOG.open("a") as file:
        file.write(json.dumps(line) + "\n")
