"""The cases, one module a part of the protocol."""

import pkgutil
from importlib import import_module


def load() -> None:
    """Put the cases of every module here on the list; once is enough."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        import_module(f"{__name__}.{module.name}")
