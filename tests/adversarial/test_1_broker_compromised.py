"""Promise 1: whoever holds K1, the broker's certificate, its database and its pages can refuse service, and no more."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from agentkeys_core.bodies import FetchAnswer, StoreBody
from agentkeys_core.caprequest import CapRequest
from agentkeys_core.changes import AddAgent, Enrol, RevokeDevice, SetScope, Unfreeze
from agentkeys_core.encoding import b64u_decode, canonical_json
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ids import child_omni
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.sealing import open_sealed
from agentkeys_runtime.grpc_errors import from_rpc_error
from demo.attacker import Who, compose, cosign
from device.agents import freeze, revoke_device, unfreeze
from device.change_desk import send_change
from device.credentials import get, put
from device.errors import DeviceError, Trouble
from device.pairing import make_offer
from tests.adversarial.impostor import lying
from tests.adversarial.town import OPENROUTER, Member, Town, is_listening, reason, reason_of, town_in


@pytest.fixture(scope="module")
def master(town: Town) -> Member:
    return town.master()


@pytest.fixture(scope="module")
def agent(town: Town, master: Member) -> Member:
    return town.agent(master, OPENROUTER)


@pytest.mark.parametrize("op", [Op.CRED_FETCH, Op.CRED_STORE, Op.CRED_DELETE, Op.CRED_LIST])
def test_a_forged_cap_lacks_the_devices_signature(town: Town, master: Member, op: Op) -> None:
    service = "cred:list" if op is Op.CRED_LIST else OPENROUTER
    forged = master.asked(op, service, signer=DeviceKey.generate())
    assert reason_of(town.ask_worker(forged)) == "device_signature_invalid"


def test_a_key_of_its_own_is_no_device(town: Town, master: Member) -> None:
    asked = compose(town.stack, DeviceKey.generate(), master.who, Op.CRED_FETCH, OPENROUTER)
    assert reason_of(town.ask_worker(asked)) == "device_unknown"


def test_a_device_of_its_own_user_is_not_another_users(town: Town, master: Member) -> None:
    thief = town.master()
    asked = compose(town.stack, thief.key, master.who, Op.CRED_FETCH, OPENROUTER, approve=thief.approve)
    assert reason_of(town.ask_worker(asked)) == "actor_binding_mismatch"
    for operator, actor in (
        (thief.who.operator, master.who.actor),
        (master.who.operator, thief.who.actor),  # whose data it is follows from the operator's name alone
    ):
        mixed = Who(operator=operator, actor=actor)
        asked = compose(town.stack, thief.key, mixed, Op.CRED_FETCH, OPENROUTER, approve=thief.approve)
        assert reason_of(town.ask_worker(asked)) == "actor_binding_mismatch"


def test_its_certificate_gets_no_key_no_row_no_list_and_no_session(town: Town, agent: Member) -> None:
    cap = agent.cap(Op.CRED_FETCH, OPENROUTER).encode()
    broker = town.signer("broker")
    calls: list[Callable[[], object]] = [
        lambda: broker.derive_cred_kek(cap, epoch=1, salt=bytes(32)),
        lambda: broker.sign_audit_row(cap, result=1),
        lambda: broker.list_objects(cap, after=None, limit=1),
        lambda: broker.get_audit_rows(cap, after=None, limit=1),
        lambda: broker.sts_credentials(cap, role_arn="arn:aws:iam::123456789012:role/any"),
    ]
    assert {reason(call) for call in calls} == {"role_not_allowed"}


def test_it_gets_an_answer_that_it_cannot_open(town: Town, master: Member, agent: Member) -> None:
    """A genuine cap, presented by the broker itself: sealed to the device, whatever else it knows."""
    put(master.device, "openrouter", b"the secret of promise 1")
    asked = agent.asked(Op.CRED_FETCH, OPENROUTER)
    answer = town.ask_worker(asked)
    assert answer.status_code == 200
    sealed = b64u_decode(answer.json()["sealed"])
    assert b"the secret of promise 1" not in sealed
    assert set(answer.json()) == {"cap_digest", "row", "sealed"}
    for private in (X25519PrivateKey.generate(), X25519PrivateKey.from_private_bytes(agent.key.secret_bytes())):
        with pytest.raises(KeyServiceError):
            open_sealed(private, asked.cap.request.digest, sealed)
    body = FetchAnswer.parse(open_sealed(asked.reply_key, asked.cap.request.digest, sealed)).body
    assert StoreBody.parse(body).value == b"the secret of promise 1"


def test_it_cannot_put_its_own_reply_key_into_a_request(town: Town, agent: Member) -> None:
    asked = agent.asked(Op.CRED_FETCH, OPENROUTER)
    own = X25519PrivateKey.generate().public_key().public_bytes_raw()
    members: dict[str, Any] = {name: getattr(asked.cap.request, name) for name in _MEMBERS}
    turned = CapRequest.compose(**{**members, "reply_key": own})
    cap = cosign(town.stack, replace(asked.cap, request=turned))
    assert reason_of(town.ask_worker(asked, cap)) == "device_signature_invalid"


_MEMBERS = (
    "actor_omni",
    "aud",
    "device",
    "expires_at",
    "issued_at",
    "k3_epoch",
    "nonce",
    "op",
    "operator_omni",
    "reply_key",
    "request_hash",
    "service",
)


def test_what_it_co_signs_does_not_tell_what_is_stored(town: Town, master: Member) -> None:
    """The broker sees a hash of a blinded body: the same value twice looks like two values."""
    value = b"guess me"
    bodies = [StoreBody(blind=secrets.token_bytes(32), expect=None, value=value).encode() for _ in range(2)]
    asked = [master.asked(Op.CRED_STORE, "cred:blind", body) for body in bodies]
    assert asked[0].cap.request.request_hash != asked[1].cap.request.request_hash
    assert all(value not in each.cap.encode() and value.hex().encode() not in each.cap.encode() for each in asked)


def test_it_signs_nothing_with_a_users_wallet(town: Town, master: Member) -> None:
    """Without a device's request an address is all that it is given; test_10 tries everything else."""
    broker = town.signer("broker")
    assert len(broker.derive_address(master.who.operator, epoch=1)) == 20
    with town.channel("broker") as channel:
        for name in ("SignSiwe", "SignTypedData"):
            assert _refused(channel, name) == "non_canonical_cap"


def _refused(channel: Any, method: str) -> str:
    call = channel.unary_unary(f"/agentkeys.signer.v1.Signer/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=5)
    return from_rpc_error(caught.value).reason.value


def test_it_adds_no_device_and_lifts_no_freeze(town: Town, master: Member) -> None:
    thief = town.master()
    own = town.agent(thief, OPENROUTER, label="own")
    header = {**master.header()}
    operator = master.who.operator
    offer = make_offer(town.device(), operator, label="x")
    add = AddAgent(
        operator_omni=operator,
        actor_omni=child_omni(operator, "x", 0),
        label="x",
        generation=0,
        device=offer.pair.message.device,
        services=(OPENROUTER,),
        **header,
    )
    scope = SetScope(operator_omni=operator, actor_omni=own.who.actor, grant=(OPENROUTER,), revoke=(), **header)
    drop = RevokeDevice(operator_omni=operator, device_key_hash=master.key.key_hash, **header)
    before = master.state()
    assert reason(lambda: town.apply(thief.signed_change(add, k11=True, pair=offer.pair))) == "change_not_authorised"
    assert reason(lambda: town.apply(thief.signed_change(scope, k11=True))) == "change_not_authorised"
    assert reason(lambda: town.apply(thief.signed_change(drop, k11=True))) == "change_not_authorised"
    freeze(master.device)
    lift = Unfreeze(operator_omni=operator, **header)
    assert reason(lambda: town.apply(thief.signed_change(lift, k11=True))) == "change_not_authorised"
    assert reason(lambda: town.apply(master.signed_change(lift, k11=False))) == "change_not_authorised"
    assert master.state().frozen
    unfreeze(master.device)
    assert set(master.state().devices) == set(before.devices)
    assert not any(device.revoked for device in master.state().devices.values())
    assert master.state().scopes == before.scopes


def test_it_does_not_bind_a_users_omni_again(town: Town, master: Member) -> None:
    """After the first bind a second Enrol is refused, even one that the user's wallet would sign."""
    public = master.device.k11()[1].public
    state = master.state()
    change = Enrol(
        identity_omni=master.who.operator,
        operator_omni=master.who.operator,
        wallet=state.wallet,
        wallet_epoch=0,
        device=DeviceKey.generate().address,
        k11_cred_id=secrets.token_bytes(32),
        k11_x=int.from_bytes(public.x, "big"),
        k11_y=int.from_bytes(public.y, "big"),
        k11_rp_id_hash=public.rp_id_hash,
        k11_origin_hash=public.origin_hash,
        roles=7,
        **{**master.header(), "nonce": 0},
    )
    wallet = DeviceKey.generate()
    signature = wallet.sign_recoverable(change.digest(master.device.profile.domain))
    refused = reason(lambda: town.apply(master.signed_change(change, k11=True, wallet=signature)))
    assert refused in {"already_bound", "change_not_authorised"}
    assert len(master.state().devices) == len(state.devices)


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town whose broker is about to be replaced by a thief's."""
    with town_in(tmp_path_factory.mktemp("lost") / "stack") as made:
        yield made


def test_it_cannot_swallow_a_revocation(lost: Town) -> None:
    """Workers get the change at once as well, and the broker's word is not taken for the registry's."""
    master = lost.master()
    put(master.device, "openrouter", b"x")
    agent = lost.agent(master, OPENROUTER)
    asked = agent.asked(Op.CRED_FETCH, OPENROUTER)
    assert lost.ask_worker(asked).status_code == 200
    row = lost.rows()[0].to_json()
    lost.stack.stop("broker")
    with lying(lost, "broker", "broker", canonical_json({"row": row})) as seen:
        receipt = revoke_device(master.device, agent.key.key_hash)
        assert "/v1/registry/changes" in seen
        assert receipt.source == "credentials worker"
        assert reason_of(lost.ask_worker(asked)) == "device_revoked"


def test_a_change_that_nobody_passed_on_is_never_called_done(lost: Town) -> None:
    """With the workers silent too, the device says that the row is not that of its change."""
    if not is_listening(lost.stack.ports["broker"]):
        lost.stack.start("broker")
    master = lost.master()
    put(master.device, "openrouter", b"y")  # this device knows the audit keys now
    neighbour = lost.master()
    other = revoke_device(neighbour.device, lost.agent(neighbour, OPENROUTER).key.key_hash).row.to_json()
    header = master.header()
    change = RevokeDevice(operator_omni=master.who.operator, device_key_hash=bytes(32), **header)
    digest = change.digest(master.device.profile.domain)
    body = master.signed_change(change, k11=True)
    lost.stack.stop("broker", "credentials", "audit")
    try:
        with lying(lost, "broker", "broker", canonical_json({"row": other})) as seen:
            with pytest.raises(DeviceError) as caught:
                send_change(master.device, body, change, digest, everywhere=True)
            assert seen
            assert caught.value.reason is Trouble.ROW_NOT_TRUSTED
    finally:
        lost.stack.start("broker", "credentials", "audit")


def test_it_cannot_pose_as_a_worker(lost: Town) -> None:
    """A device accepts a worker by its SPIFFE id alone, before a byte of the request is sent."""
    master = lost.master()
    lost.stack.stop("credentials")
    try:
        with lying(lost, "credentials", "broker", b"{}") as seen:
            with pytest.raises(DeviceError) as caught:
                get(master.device, "openrouter")
            assert caught.value.reason is Trouble.PEER_NOT_TRUSTED
            assert not seen
    finally:
        lost.stack.start("credentials")
