"""`make bench`: measures the figures of design section 11 and writes build/bench.json.

    python -m tests.perf.bench [--quick] [--only KEY]...

Nothing is asserted: timings depend on the machine, and each figure stands beside what it should reach.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.perf.deployment import Certificates
from tests.perf.figures import KEYS, as_json, table, write
from tests.perf.measures import MEASURES
from tests.perf.measuring import FULL, QUICK, Bench
from tests.perf.processes import LOAD_CORE, SERVER_CORE, BenchError

BUILD = Path("build")


def main() -> int:
    """Measure, print, write; 0 unless something did not work, whose figures are missing then."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a tenth of the large population")
    parser.add_argument("--only", action="append", choices=KEYS, metavar="KEY", help=f"one of: {', '.join(KEYS)}")
    parser.add_argument("--out", type=Path, default=BUILD / "bench.json")
    options = parser.parse_args()
    wanted = frozenset(options.only or KEYS)
    os.sched_setaffinity(0, {LOAD_CORE})
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules are read, as in an installed signer
    BUILD.mkdir(exist_ok=True)
    since, failed = time.monotonic(), 0
    # Below build/, not /tmp: the signer's commits wait for a real disk.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD.resolve()) as folder:
        root = Path(folder)
        bench = Bench(
            root=root, scale=QUICK if options.quick else FULL, certificates=Certificates.make(root / "certificates")
        )
        for measure, keys in MEASURES:
            if wanted.isdisjoint(keys):
                continue
            print(f"... {measure.__name__.replace('_', ' ')}", file=sys.stderr, flush=True)
            try:
                measure(bench)
            except BenchError as error:
                print(f"bench: {error}", *_ends(root), sep="\n", file=sys.stderr)
                failed = 1
    about = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": {"load": LOAD_CORE, "server": SERVER_CORE},
        "load_average": os.getloadavg()[0],
        "machine": platform.machine(),
        "python": platform.python_version(),
        "quick": options.quick,
        "seconds": round(time.monotonic() - since),
    }
    write(options.out, as_json(bench.results, about=about))
    print(table(bench.results, [key for key in KEYS if key in wanted]))
    print(f"\n{about['seconds']} s, load average {about['load_average']:.1f}; written to {options.out}")
    return failed


def _ends(root: Path) -> list[str]:
    """The end of every log, before the folder goes."""
    logs = {log: log.read_text(errors="replace")[-1500:] for log in sorted(root.rglob("*.log"))}
    return [f"--- {log.relative_to(root)}\n{text}" for log, text in logs.items() if text]


if __name__ == "__main__":
    sys.exit(main())
