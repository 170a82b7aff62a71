"""Takes each security check out in turn, runs the test that must notice, and puts the check back.

The checks are rows of tests/mutations/*.toml: file, find (exact text, found once), replace, test, why.
Works on a copy of the tree, so the checkout is never touched. Exit 1 where a test stays green.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "tests" / "mutations"
SKIPPED = shutil.ignore_patterns(".git", ".venv", ".cache", "build", "__pycache__", ".hypothesis")
RED = 1  # pytest: tests ran and some failed


def rows(only: str) -> list[dict[str, str]]:
    """Read every row whose file, test or why contains `only`."""
    found = []
    for table in sorted(TABLES.glob("*.toml")):
        found += tomllib.loads(table.read_text())["mutation"]
    return [row for row in found if only in f"{row['file']} {row['test']} {row['why']}"]


def pytest(tree: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run one test in the copy, its rooms before the installed ones."""
    env = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'gen'}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", f"--basetemp={tree / 'build' / 'pytest'}", test]
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)


def survived(tree: Path, row: dict[str, str]) -> str | None:
    """Say what is wrong with this row, or None where the test went red."""
    path = tree / row["file"]
    text = path.read_text()
    if text.count(row["find"]) != 1:
        return f"the text to replace stands {text.count(row['find'])} times in the file"
    path.write_text(text.replace(row["find"], row["replace"]))
    try:
        run = pytest(tree, row["test"])
    finally:
        path.write_text(text)
    if run.returncode == RED:
        return None
    return f"pytest ended with {run.returncode}: {run.stdout.strip().splitlines()[-1:]}"


def main() -> None:
    """Run all rows, several at a time, each worker in its own copy of the tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="rows whose file, test or why contains this")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    todo = rows(args.only)
    with tempfile.TemporaryDirectory() as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(args.jobs):
            tree = Path(shutil.copytree(ROOT, Path(folder) / str(number), ignore=SKIPPED))
            (tree / ".cache").mkdir()
            (tree / ".cache" / "services").symlink_to(ROOT / ".cache" / "services")  # real servers, where installed
            trees.put(tree)

        def judge(row: dict[str, str]) -> str | None:
            tree = trees.get()
            try:
                return survived(tree, row)
            finally:
                trees.put(tree)

        bad = 0
        with ThreadPoolExecutor(args.jobs) as pool:
            for row, verdict in zip(todo, pool.map(judge, todo), strict=True):
                bad += verdict is not None
                print(f"{'SURVIVED' if verdict else 'red     '} {row['file']}: {row['why']}", flush=True)
                if verdict:
                    print(f"    {verdict}", flush=True)
    print(f"{len(todo) - bad} checks noticed, {bad} not")
    sys.exit(1 if bad or not todo else 0)


if __name__ == "__main__":
    main()
