"""A registry that says whatever a test put into it; implements `signer.ports.RegistryReader`."""

from dataclasses import replace
from types import MappingProxyType

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import DeviceRecord, OperatorState
from signer.ports import RegistryStatus, WalletRef


class StaticRegistry:
    def __init__(self, registry_id: str) -> None:
        self._status = RegistryStatus(registry_id=registry_id, k3_epoch=1, incarnation=1)
        self._operators: dict[bytes, OperatorState] = {}
        self._owner: dict[bytes, bytes] = {}
        self.wallets: dict[bytes, WalletRef | None] = {}
        self.failing: Reason | None = None

    def put(self, state: OperatorState) -> None:
        self._operators[state.operator_omni] = state
        for key_hash in state.devices:
            self._owner[key_hash] = state.operator_omni

    def bend_device(self, key_hash: bytes, **changed: object) -> None:
        state = self._operators[self._owner[key_hash]]
        devices = {**state.devices, key_hash: replace(state.devices[key_hash], **changed)}  # type: ignore[arg-type]
        self.put(replace(state, devices=MappingProxyType(devices)))

    def bend_operator(self, operator_omni: bytes, **changed: object) -> None:
        self.put(replace(self._operators[operator_omni], **changed))  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        self._status = replace(self._status, k3_epoch=epoch)

    def lookup_device(self, device_key_hash: bytes) -> OperatorState | None:
        self._check()
        owner = self._owner.get(device_key_hash)
        return None if owner is None else self._operators[owner]

    def operator(self, operator_omni: bytes) -> OperatorState | None:
        self._check()
        return self._operators.get(operator_omni)

    def k11_by_credential(self, credential_id_hash: bytes) -> DeviceRecord | None:
        self._check()
        for state in self._operators.values():
            for device in state.devices.values():
                if device.k11 is not None and device.k11.credential_id_hash == credential_id_hash:
                    return device
        return None

    def status(self) -> RegistryStatus:
        self._check()
        return self._status

    def wallet(self, actor_omni: bytes) -> WalletRef | None:
        self._check()
        return self.wallets[actor_omni]

    def _check(self) -> None:
        if self.failing is not None:
            raise KeyServiceError(self.failing)
