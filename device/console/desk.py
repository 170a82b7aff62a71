"""This console's own device: one for its pages, one for the thread that follows changes, one session for both."""

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.registry import K11Public
from device.agents import state_now
from device.broker_session import BrokerSession
from device.console.job import PageShow
from device.console.live import Live
from device.console.pages import Seen
from device.errors import DeviceError, Trouble
from device.home import Home
from device.identity import Identity, Part
from device.k11.port import K11Record
from device.keys import K10
from device.live import FIRST_PAUSE_S, Following
from device.pairing_desk import MasterSide
from device.profile_source import invitation
from device.session import Device


class Desk:
    """Opened with the folder's key, and opened anew once that was replaced. For one thread at a time.

    Raises `usage` for a folder that is no master's. Where a registered master's key is gone, a new one is made,
    which the registry does not know: the pages offer to ask for it in the old one's place.
    """

    def __init__(self, home: Home, live: Live, *, pause_s: float = FIRST_PAUSE_S) -> None:
        self._home = home
        self._live = live
        self._pause_s = pause_s
        self.show = PageShow()
        identity = Identity.load(home)
        if identity is None or identity.part is not Part.MASTER:
            raise DeviceError(Trouble.USAGE, "the console is for a master's device, and this is none")
        if identity.registered:
            K10.load_or_make(home)
        self._open()

    def _open(self) -> None:
        self.device = Device.open(self._home, self.show)
        self.session = BrokerSession(self.device)
        self.master = MasterSide(self.device, session=self.session)
        self._looker = Device.open(self._home, PageShow())
        self._following = Following(self._looker, self.session, self._live, pause_s=self._pause_s)
        self._following.start()

    def renew(self) -> None:
        """Go on with another key where this folder has got one, here or by a command."""
        found = K10.load(self._home)
        if found is not None and found.key_hash != self.device.k10.key_hash:
            self.close()
            self._open()

    def close(self) -> None:
        """Close every connection."""
        self._following.close()
        self._looker.__exit__()
        self.device.__exit__()

    def seen(self) -> Seen:
        """Read the registry, for a page. Raises as `state_now`."""
        state = state_now(self.device)
        return Seen(state=state, mark=self._live.saw(state), own=self.device.k10.key_hash, said=tuple(self.show.said))

    def invitation(self) -> str:
        """The line to paste on a new agent's machine; empty while the broker does not answer."""
        try:
            return invitation(self.device)
        except (DeviceError, KeyServiceError):
            return ""

    def own_k11(self) -> K11Public | None:
        """This folder's K11 as the registry would record it."""
        record = K11Record.load(self._home)
        return None if record is None else record.public
