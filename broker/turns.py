"""A queue in which everybody has a turn: however much one network hands in, the next one waits for one item of it."""

from collections import Counter, deque
from typing import Final, Generic, TypeVar

from broker.networks import site_of

#: How much waits at most: in all, of an IPv6 /48, and of one network (an IPv4 address or an IPv6 /64).
MAX_WAITING: Final = 256
MAX_OF_SITE: Final = 32
MAX_OF_NETWORK: Final = 16

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Items by the network that they are for. Of one network one item is out at once, of one site half of all places.

    Not safe for threads: whoever has it locks it. Networks are as in `Claim.client`.
    """

    def __init__(self, *, places: int) -> None:
        """`places` is how many items may be out at once."""
        self._of_site = max(1, places // 2)
        self._waiting: dict[str, deque[Item]] = {}  # in the order of turns
        self._out: set[str] = set()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, network: str, item: Item) -> bool:
        """Let an item wait, and return true; false where too much waits already."""
        mine = len(self._waiting.get(network, ()))
        site = site_of(network)
        of_site = sum(len(items) for other, items in self._waiting.items() if site_of(other) == site)
        if len(self) >= MAX_WAITING or of_site >= MAX_OF_SITE or mine >= MAX_OF_NETWORK:
            return False
        self._waiting.setdefault(network, deque()).append(item)
        return True

    def take(self) -> tuple[str, Item] | None:
        """The oldest item of the network whose turn it is, and that network; None where nothing may go out now.

        It is out until `back` is called for that network.
        """
        sites = Counter(site_of(network) for network in self._out)
        for network, items in self._waiting.items():
            if network in self._out or sites[site_of(network)] >= self._of_site:
                continue
            del self._waiting[network]
            item = items.popleft()
            if items:
                self._waiting[network] = items
            self._out.add(network)
            return network, item
        return None

    def back(self, network: str) -> None:
        """The item of this network that was out is done with."""
        self._out.remove(network)

    @property
    def out(self) -> int:
        """How many items are out."""
        return len(self._out)

    def clear(self) -> int:
        """Forget what waits; returns how much that was."""
        count = len(self)
        self._waiting.clear()
        return count
