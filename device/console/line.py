"""The console's standing line to its deployment: one session at the broker, and the thread that follows changes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from device.broker_session import BrokerSession
from device.console.desk import Desk
from device.console.job import PageShow
from device.console.live import Live
from device.errors import DeviceError, Trouble
from device.home import Home
from device.identity import Identity, Part
from device.keys import K10
from device.live import FIRST_PAUSE_S, Following
from device.session import Device


class Line:
    """Begun with the folder's key, and begun anew once that was replaced. Safe for many threads.

    Raises `usage` for a folder that is no master's. Where a registered master's key is gone, a new one is made,
    which the registry does not know: the pages offer to ask for it in the old one's place.
    """

    def __init__(self, home: Home, live: Live, *, pause_s: float = FIRST_PAUSE_S) -> None:
        self._home = home
        self._live = live
        self._pause_s = pause_s
        self._lock = threading.Lock()  # for the exchange of one for another; nothing is read or ended inside it
        identity = Identity.load(home)
        if identity is None or identity.part is not Part.MASTER:
            raise DeviceError(Trouble.USAGE, "the console is for a master's device, and this is none")
        if identity.registered:
            K10.load_or_make(home)
        self._standing = _Standing(home, live, pause_s)

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        """A desk for one request, whose device is nobody else's: whoever waits at it keeps nobody waiting."""
        session, show = self._renewed().session, PageShow()
        with Device.open(self._home, show) as device:
            yield Desk(device, show.said, session, self._live)

    def close(self) -> None:
        """Close every connection, and end the session."""
        self._standing.close()

    def _renewed(self) -> "_Standing":
        """Go on with another key where this folder has got one, here or by a command."""
        found = K10.load(self._home)
        with self._lock:
            before = self._standing
            if found is None or found.key_hash == before.key_hash:
                return before
            after = self._standing = _Standing(self._home, self._live, self._pause_s)
        before.close()
        return after


class _Standing:
    """What is kept open with one key: a device for the session, and one for the thread."""

    def __init__(self, home: Home, live: Live, pause_s: float) -> None:
        self._device = Device.open(home, PageShow())
        self._looker = Device.open(home, PageShow())
        self.key_hash = self._device.k10.key_hash
        self.session = BrokerSession(self._device)
        self._following = Following(self._looker, self.session, live, pause_s=pause_s)
        self._following.start()

    def close(self) -> None:
        """Close the connections, and end the session."""
        self._following.close()
        self.session.end()
        self._looker.__exit__()
        self._device.__exit__()
