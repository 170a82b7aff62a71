"""A credentials worker as it is shipped, or one that asks the signer for each request by itself.

python -m tests.perf.worker CONFIG gathering|alone
"""

import sys
from pathlib import Path

from agentkeys_runtime.config import load_config
from agentkeys_runtime.signer_client import SignerClient
from worker import app
from worker.config import WorkerConfig


def main(config: Path, how: str) -> None:
    """Serve until SIGTERM."""
    if how == "alone":
        app.GatheringSignerClient = SignerClient  # type: ignore[assignment,attr-defined]
    app.run(load_config(config, WorkerConfig))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
