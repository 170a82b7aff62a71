"""States of operators that this process has read, bounded by how many records they hold together."""

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from agentkeys_core.registry import OperatorState

K = TypeVar("K")
V = TypeVar("V")

#: Records (operators and devices) in each of two generations: about 20 MiB in all where they are full.
GENERATION_RECORDS: Final = 16_384
#: A granted service is one short text; this many weigh as much as a device.
_SERVICES_A_RECORD: Final = 8


class TwoGenerations(Generic[K, V]):
    """A bounded map that forgets the older half of what it was given. Reads are plain dict lookups, without a lock."""

    __slots__ = ("_limit", "_old", "_weight", "_young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._young: dict[K, tuple[V, int]] = {}
        self._old: dict[K, tuple[V, int]] = {}

    def get(self, key: K) -> V | None:
        """The value, if it is still here."""
        entry = self._young.get(key) or self._old.get(key)
        return None if entry is None else entry[0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Keep `value` for at least one turn of generations; a generation ends when it weighs too much."""
        self.drop(key)
        if self._weight + weight > self._limit:
            self._old, self._young, self._weight = self._young, {}, 0
        self._young[key] = (value, weight)
        self._weight += weight

    def drop(self, key: K) -> None:
        """Forget the value."""
        self._old.pop(key, None)
        entry = self._young.pop(key, None)
        self._weight -= 0 if entry is None else entry[1]

    def clear(self) -> None:
        """Forget everything."""
        self._young, self._old, self._weight = {}, {}, 0


class StateCache:
    """Operator states by operator and by device. Its owner serialises all writes; reads need no lock.

    Which operator a device belongs to never changes, so only the states are ever dropped.
    """

    __slots__ = ("_owners", "_states")

    def __init__(self, records: int = GENERATION_RECORDS) -> None:
        self._owners: TwoGenerations[bytes, bytes] = TwoGenerations(records)
        self._states: TwoGenerations[bytes, OperatorState] = TwoGenerations(records)

    def of_device(self, device_key_hash: bytes) -> OperatorState | None:
        """The cached state of the operator that the device belongs to."""
        operator = self._owners.get(device_key_hash)
        return None if operator is None else self._states.get(operator)

    def of_operator(self, operator_omni: bytes) -> OperatorState | None:
        """The cached state of the operator."""
        return self._states.get(operator_omni)

    def put(self, state: OperatorState, device_key_hash: bytes | None = None) -> None:
        """Keep `state`, found through this device if one is named."""
        services = sum(len(granted) for granted in state.scopes.values())
        weight = 1 + len(state.devices) + services // _SERVICES_A_RECORD
        self._states.put(state.operator_omni, state, weight)
        if device_key_hash is not None:
            self._owners.put(device_key_hash, state.operator_omni)

    def put_with_devices(self, state: OperatorState) -> None:
        """Keep `state`, found through each of its devices."""
        self.put(state)
        for device_key_hash in state.devices:
            self._owners.put(device_key_hash, state.operator_omni)

    def drop(self, operators: Iterable[bytes]) -> None:
        """Forget the states of these operators."""
        for operator in operators:
            self._states.drop(operator)

    def clear(self) -> None:
        """Forget all states."""
        self._states.clear()
