"""Generates gen/ from protos/; with --check, fails where the committed code is not what protoc makes now."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"


def generate(out: Path) -> None:
    """Leave in `out` what protoc and the stub plugin make of every proto file."""
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    flags = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *flags, *files],
        check=True,
        cwd=PROTOS,
        env={**os.environ, "PATH": path},
        stderr=subprocess.DEVNULL,
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Map the relative path of each generated file to its bytes."""
    found = (path for path in folder.rglob("*") if path.suffix in {".py", ".pyi"})
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def main() -> None:
    """Generate, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        new, old = tree(fresh), tree(GEN)
        if check:
            stale = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
            sys.exit(f"gen/ is not current, run `make gen`: {', '.join(stale)}" if stale else 0)
        shutil.rmtree(GEN)
        for name, data in new.items():
            target = GEN / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


if __name__ == "__main__":
    main()
