"""`console`: this master's own pages in the browser."""

import threading
from typing import Final

import typer

from device.commands.context import options
from device.console.site import Console
from device.home import Home
from device.k11.port import AskedBy
from device.local_web import serving

_LOOK_S: Final = 0.5


def console(context: typer.Context) -> None:
    """Serve this master's pages on localhost until you press Ctrl-C: devices, agents, pairing, the audit trail."""
    chosen = options(context)
    with Home.open(chosen.home) as home:
        if chosen.show.asked_by is AskedBy.SECURITY_KEY:
            chosen.show.warn("The console asks K11 on its page all the same: the browser asks your security key there.")
        site = Console(home, chosen.show)
        try:
            with serving(site) as address:
                chosen.show.console_page(address)
                ended = threading.Event()
                while not ended.wait(_LOOK_S):  # a Ctrl-C that comes just before an endless wait begins is lost in it
                    pass
        finally:
            site.close()
