"""`console`: this master's own pages in the browser."""

import threading
from typing import Final

import typer

from device.commands.context import options
from device.console.site import Console
from device.errors import DeviceError, Trouble
from device.home import Home
from device.identity import Identity, Part
from device.local_web import serving

_LOOK_S: Final = 0.5


def console(context: typer.Context) -> None:
    """Serve this master's pages on localhost until you press Ctrl-C: devices, agents, pairing, the audit trail."""
    chosen = options(context)
    with Home.open(chosen.home) as home:
        identity = Identity.load(home)
        if identity is None or identity.part is not Part.MASTER:
            raise DeviceError(Trouble.USAGE, "the console is for a master's device, and this is none")
        site = Console(home, chosen.show)
        try:
            with serving(site) as address:
                chosen.show.console_page(address)
                ended = threading.Event()
                while not ended.wait(_LOOK_S):  # a Ctrl-C that comes just before an endless wait begins is lost in it
                    pass
        finally:
            site.close()
