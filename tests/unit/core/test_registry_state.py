import json
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import child_omni, device_key_hash
from agentkeys_core.registry import AGENT, ALL_ROLES, MASTER, DeviceRecord, K11Public, OperatorState, Role
from tests.unit.core.material import OPERATOR, WALLET, k11

AGENT_OMNI = child_omni(OPERATOR, "agent-a", 0)


def master(number: int = 1, **changed: Any) -> DeviceRecord:
    address = bytes([number]) * 20
    members: dict[str, Any] = {
        "device_key_hash": device_key_hash(address),
        "operator_omni": OPERATOR,
        "actor_omni": OPERATOR,
        "address": address,
        "tier": MASTER,
        "roles": ALL_ROLES,
        "revoked": False,
        "registered_at": 1764000000,
        "k11": k11().public,
        "sign_count": 2**32 - 1,
    }
    return DeviceRecord(**(members | changed))


def agent(number: int = 2, **changed: Any) -> DeviceRecord:
    members: dict[str, Any] = {
        "actor_omni": AGENT_OMNI,
        "tier": AGENT,
        "roles": Role.CAP_MINT,
        "k11": None,
        "label": "agent-a",
        "generation": 0,
        "sign_count": 0,
    }
    return master(number, **(members | changed))


def state(*devices: DeviceRecord, **changed: Any) -> OperatorState:
    members: dict[str, Any] = {
        "operator_omni": OPERATOR,
        "wallet": WALLET,
        "wallet_epoch": 0,
        "frozen": False,
        "nonce": 3,
        "freeze_nonce": 1,
        "threshold": 1,
        "devices": {device.device_key_hash: device for device in devices or (master(), agent())},
        "scopes": {AGENT_OMNI: frozenset({"cred:openrouter", "memory:travel"})},
        "incarnation": 1,
        "k3_epoch": 2,
    }
    return OperatorState(**(members | changed))


def test_reads_what_it_writes() -> None:
    assert OperatorState.from_json(json.loads(json.dumps(state().to_json()))) == state()


def test_has_the_members_of_the_registry_reads() -> None:
    written = state().to_json()
    assert {"devices", "epoch", "freeze_nonce", "frozen", "incarnation", "nonce", "scopes"} <= set(written)
    assert written["epoch"] == 2
    assert written["scopes"] == {AGENT_OMNI.hex(): ["cred:openrouter", "memory:travel"]}


def test_grants_only_what_the_scope_names() -> None:
    assert state().grants(AGENT_OMNI, "cred:openrouter")
    assert not state().grants(AGENT_OMNI, "cred:openrouter2")
    assert not state().grants(OPERATOR, "cred:openrouter")


def test_masters_are_the_unrevoked_devices_of_tier_1() -> None:
    assert state(master(), master(3, revoked=True), agent()).masters() == (master(),)


def test_a_role_is_held_whole() -> None:
    device = master(roles=Role.CAP_MINT | Role.RECOVERY)
    assert device.holds(Role.CAP_MINT)
    assert not device.holds(Role.SCOPE_MGMT)
    assert not device.holds(ALL_ROLES)
    assert not master(roles=Role(0)).holds(Role.CAP_MINT)


def bent(path: tuple[Any, ...], value: object) -> object:
    document = json.loads(json.dumps(state(master()).to_json()))
    place = document
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


D = ("devices", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nonce",), ...),
        (("nonce",), -1),
        (("nonce",), True),
        (("frozen",), 0),
        (("epoch",), 0),
        (("threshold",), 256),
        (("wallet",), WALLET.hex()),
        (("operator_omni",), "00"),
        (("scopes",), []),
        (("scopes", "00"), []),
        (("scopes", "00" * 32), "cred:x"),
        (("scopes", "00" * 32), [1]),
        (("devices",), {}),
        (D, None),
        ((*D, "address"), "0x" + "09" * 20),
        ((*D, "device_key_hash"), "00" * 32),
        ((*D, "operator_omni"), "00" * 32),
        ((*D, "tier"), 3),
        ((*D, "tier"), 0),
        ((*D, "roles"), 8),
        ((*D, "revoked"), None),
        ((*D, "label"), 1),
        ((*D, "generation"), -1),
        ((*D, "sign_count"), 2**32),
        ((*D, "k11"), []),
        ((*D, "k11", "x"), ...),
        ((*D, "k11", "x"), "AA" * 32),
    ],
)
def test_refuses_malformed_states(path: Any, value: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        OperatorState.from_json(bent(path, value))
    assert caught.value.reason == Reason.INVALID_ENCODING


@pytest.mark.parametrize("path", [("more",), (*D, "more"), (*D, "k11", "more")])
def test_refuses_unknown_names(path: Any) -> None:
    with pytest.raises(KeyServiceError) as caught:
        OperatorState.from_json(bent(path, 1))
    assert caught.value.reason == Reason.UNKNOWN_FIELDS


def test_refuses_a_device_that_stands_twice() -> None:
    document: dict[str, Any] = state(master()).to_json()
    document["devices"] *= 2
    with pytest.raises(KeyServiceError) as caught:
        OperatorState.from_json(document)
    assert caught.value.reason == Reason.INVALID_ENCODING


def test_a_k11_key_reads_what_it_writes() -> None:
    assert K11Public.from_json(k11().public.to_json()) == k11().public
