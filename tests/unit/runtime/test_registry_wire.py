"""Operators survive the trip through protobuf, and what no registry sends is refused by name."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys.signer.v1 import registry_pb2 as pb
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import device_key_hash
from agentkeys_core.registry import ALL_ROLES, DeviceRecord, K11Public, OperatorState, Role, Tier
from agentkeys_runtime.registry_wire import operator_from_message, operator_to_message
from tests.unit.core.refusal import refused

OPERATOR, ACTOR = b"\1" * 32, b"\2" * 32


def device(address: bytes, *, master: bool) -> DeviceRecord:
    names = ("credential_id_hash", "x", "y", "rp_id_hash", "origin_hash")
    return DeviceRecord(
        device_key_hash=device_key_hash(address),
        operator_omni=OPERATOR,
        actor_omni=OPERATOR if master else ACTOR,
        address=address,
        tier=Tier.MASTER if master else Tier.AGENT,
        roles=ALL_ROLES if master else Role.CAP_MINT,
        revoked=not master,
        registered_at=1_764_000_000,
        k11=K11Public(**{name: name.encode().ljust(32) for name in names}) if master else None,
        label=None if master else "agent",
        generation=None if master else 0,
        sign_count=7 if master else 0,
    )


def state() -> OperatorState:
    devices = [device(b"\1" * 20, master=True), device(b"\2" * 20, master=False)]
    return OperatorState(
        operator_omni=OPERATOR,
        wallet=b"\3" * 20,
        wallet_epoch=0,
        frozen=True,
        nonce=3,
        freeze_nonce=1,
        threshold=1,
        devices=MappingProxyType({entry.device_key_hash: entry for entry in devices}),
        scopes=MappingProxyType({ACTOR: frozenset({"cred:b", "cred:a"})}),
        incarnation=2,
        k3_epoch=5,
    )


def test_operators_survive_the_trip() -> None:
    data = operator_to_message(state()).SerializeToString()
    assert operator_from_message(pb.OperatorRecord.FromString(data)) == state()


def test_equal_states_give_equal_bytes() -> None:
    message = operator_to_message(state())
    assert list(message.scopes[0].services) == ["cred:a", "cred:b"]
    assert [entry.device_key_hash for entry in message.devices] == sorted(state().devices)


@pytest.mark.parametrize("case", ["omni", "wallet", "device", "tier", "k11", "scope"])
def test_refuses_what_no_registry_sends(case: str) -> None:
    message = operator_to_message(state())
    master = next(entry for entry in message.devices if entry.HasField("k11"))
    match case:
        case "omni":
            message.operator_omni = b"x"
        case "wallet":
            message.wallet = bytes(21)
        case "device":
            master.address = b""
        case "tier":
            master.tier = 3
        case "k11":
            master.k11.x = bytes(33)
        case "scope":
            message.scopes[0].actor_omni = b""
    with refused("registry_unreachable"):
        operator_from_message(message)


@given(data=st.binary(max_size=200), cut=st.integers(0, 400), put=st.binary(max_size=8))
def test_hostile_messages_give_a_state_or_a_reason(data: bytes, cut: int, put: bytes) -> None:
    whole = operator_to_message(state()).SerializeToString()
    for raw in (data, whole[:cut] + put + whole[cut + len(put) :]):
        message = pb.OperatorRecord()
        try:
            message.ParseFromString(raw)
        except Exception:  # protobuf's own refusal, before ours
            continue
        try:
            operator_from_message(message)
        except KeyServiceError as exc:
            reason = exc.reason
        else:
            continue
        assert reason is Reason.REGISTRY_UNREACHABLE
