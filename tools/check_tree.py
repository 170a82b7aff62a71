"""House rules that no linter knows: module sizes, locks without index addresses, private keys, links in the docs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST_MODULE = 400
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
WEB_STACK = ("starlette==", "uvicorn==", "httpx==")


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
        if path.suffix == ".lock" and re.search(r"https?://|--(extra-)?index-url|--find-links", path.read_text()):
            found.append(f"{name}: names an index address")
        if path.suffix in {".pem", ".key"} or (path.suffix == ".json" and b"PRIVATE KEY" in path.read_bytes()):
            found.append(f"{name}: key material is never committed")
        if path.suffix == ".md":
            local = (link for link in LINK.findall(path.read_text()) if "://" not in link and "mailto:" not in link)
            found += [f"{name}: dead link {link}" for link in local if not (path.parent / link).exists()]
    signer = (ROOT / "requirements/signer.lock").read_text()
    found += [f"requirements/signer.lock: web stack ({part})" for part in WEB_STACK if part in signer]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(findings(tracked())) or 0)
