"""House rules that no linter knows: module sizes, locks, private keys, links in the docs, rows of mutations."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST_MODULE = 400
#: Shorter rows of a table, heads above all, may well say the same.
LONG_ROW = 40
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
WEB_STACK = ("starlette==", "uvicorn==", "httpx==", "httpcore==")


def tracked() -> list[Path]:
    """List the files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def findings(files: list[Path]) -> list[str]:
    """Name each breach by file."""
    found = []
    for path in files:
        name = str(path.relative_to(ROOT))
        if path.suffix == ".py" and not name.startswith("gen/"):
            lines = len(path.read_text().splitlines())
            if lines > LONGEST_MODULE:
                found.append(f"{name}: {lines} lines, split at {LONGEST_MODULE}")
        pins = path.read_text() if path.suffix == ".lock" else ""
        if re.search(r"https?://|--(extra-)?index-url|--find-links", pins):
            found.append(f"{name}: names an index address")
        if path.suffix in {".pem", ".key"} or (path.suffix == ".json" and b"PRIVATE KEY" in path.read_bytes()):
            found.append(f"{name}: key material is never committed")
        if path.suffix == ".md":
            local = (link for link in LINK.findall(path.read_text()) if "://" not in link and "mailto:" not in link)
            found += [f"{name}: dead link {link}" for link in local if not (path.parent / link).exists()]
            found += [f"{name}: {fault}" for fault in table_faults(path.read_text().splitlines())]
    signer = (ROOT / "requirements/signer.lock").read_text()
    found += [f"requirements/signer.lock: web stack ({part})" for part in WEB_STACK if part in signer]
    return found


def table_faults(lines: list[str]) -> list[str]:
    """Name each row that stands twice, or below a text rather than in a table: what merges leave behind."""
    found = []
    for number, line in enumerate(lines):
        if not line.startswith("| "):
            continue
        if len(line) > LONG_ROW and line in lines[:number]:
            found.append(f"line {number + 1} stands above already")
        if number and lines[number - 1].strip() and not lines[number - 1].startswith("|"):
            found.append(f"line {number + 1} is a row outside of a table")
    return found


def stale_mutations() -> list[str]:
    """Name each row whose check does not stand exactly once, or whose test is gone: it would prove nothing."""
    found = []
    for table in sorted((ROOT / "tests" / "mutations").glob("*.toml")):
        for row in tomllib.loads(table.read_text())["mutation"]:
            target, (test, _, name) = ROOT / row["file"], row["test"].partition("::")
            times = target.read_text().count(row["find"]) if target.is_file() else 0
            if times != 1:
                found.append(f"{table.name}: {row['why']}: its check stands {times} times in {row['file']}")
            function = name.partition("[")[0].rpartition("::")[2]
            if not (ROOT / test).is_file() or f"def {function}" not in (ROOT / test).read_text():
                found.append(f"{table.name}: {row['why']}: no test {row['test']}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(findings(tracked()) + stale_mutations()) or 0)
