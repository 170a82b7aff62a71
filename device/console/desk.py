"""What one request of the console works with: a device of its own, and the session that all of them share."""

from collections.abc import Sequence

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.registry import K11Public, OperatorState
from device.agents import state_now
from device.broker_session import BrokerSession
from device.console.live import Live
from device.console.pages import Seen
from device.errors import DeviceError
from device.k11.port import K11Record
from device.pairing_desk import MasterSide
from device.profile_source import invitation
from device.session import Device


class Desk:
    """For one thread, as long as a request takes. What its device says meanwhile is in `said`."""

    def __init__(self, device: Device, said: Sequence[str], session: BrokerSession, live: Live) -> None:
        self.device = device
        self.said = said
        self.session = session
        self.master = MasterSide(device, session=session)
        self._live = live

    def state(self) -> OperatorState:
        """Read the registry. Raises as `state_now`."""
        return state_now(self.device)

    def seen(self) -> Seen:
        """Read the registry, for a page. Raises as `state_now`."""
        state = self.state()
        return Seen(state=state, mark=self._live.saw(state), own=self.device.k10.key_hash, said=tuple(self.said))

    def invitation(self) -> str:
        """The line to paste on a new agent's machine; empty while the broker does not answer."""
        try:
            return invitation(self.device)
        except (DeviceError, KeyServiceError):
            return ""

    def own_k11(self) -> K11Public | None:
        """This folder's K11 as the registry would record it."""
        record = K11Record.load(self.device.home)
        return None if record is None else record.public
