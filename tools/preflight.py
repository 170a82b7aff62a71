"""Says by name what this Python lacks for a virtual environment, before anything is made."""

import importlib.util
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - older ones run this file to be told so
    sys.exit(f"make: Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}")
if sys.version_info >= (3, 14):
    sys.exit(f"make: coincurve has no wheel for Python {sys.version.split()[0]} yet: make PYTHON=python3.13")
missing = [name for name in ("venv", "ensurepip", "ssl", "sqlite3") if importlib.util.find_spec(name) is None]
if missing:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    sys.exit(
        f"make: {sys.executable} lacks {', '.join(missing)}.\n"
        f"  Debian, Ubuntu: apt install python{version}-venv   (or python3-venv)\n"
        f"  Fedora: dnf install python3-libs   openSUSE: zypper install python3-base   Alpine: apk add python3 py3-pip"
    )
