"""The registry changes about masters: further ones, their roles, thresholds, keys, and the end of an owner's keys."""

import secrets
from typing import Any

from agentkeys.signer.v1 import registry_pb2
from agentkeys_core.audit import OpKind
from agentkeys_core.changes import (
    AddMaster,
    Change,
    ChangeSignatures,
    K11OfDevice,
    RotateKey,
    SetRoles,
    SetThreshold,
    SignedChange,
    Teardown,
)
from agentkeys_core.errors import Reason
from agentkeys_core.k11 import K11_ORIGIN, RP_ID_HASH
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from tests.conformance.cases import case, equal, expect
from tests.conformance.groups.objects import fetch, release, store
from tests.conformance.groups.registry import CHANGE, change_of, state
from tests.conformance.people import Device, Master, master
from tests.conformance.refusals import refusal_of
from tests.conformance.site import MEMORY, Site
from tests.unit.core.material import SoftwareK11

CREDENTIALS_BIT, MEMORY_BIT = 1, 2


class Second(Device):
    """A further master device of a user, with keys of its own."""

    def __init__(self, user: Master) -> None:
        super().__init__(
            site=user.site,
            k10=DeviceKey.generate(),
            k11=SoftwareK11(b"second-" + secrets.token_bytes(8)),
            operator=user.operator,
            actor=user.operator,
            is_master=True,
        )


def touch(device: Device, digest: bytes) -> K11OfDevice:
    """This device's K11 over a digest."""
    return K11OfDevice(device=device.k10.key_hash, assertion=device.k11.answer(digest))


def approved(change: Change, k10: Device, *touched: Device, **rest: Any) -> SignedChange:
    """The change with K10 of one device and K11 of those that were touched."""
    digest = change.digest(k10.site.domain)
    k11 = tuple(touch(device, digest) for device in touched)
    return SignedChange(
        change=change, signatures=ChangeSignatures(k10=k10.k10.sign_recoverable(digest), k11=k11, **rest)
    )


def adding(user: Master, second: Second, *approvers: Device, origin: str = K11_ORIGIN, **bent: Any) -> SignedChange:
    """The change that lets a further master in: its own keys, its Pair, and the masters that approve."""
    public = second.k11.public
    members: dict[str, Any] = {
        "operator_omni": user.operator,
        "device": second.k10.address,
        "k11_cred_id": public.credential_id_hash,
        "k11_x": int.from_bytes(public.x, "big"),
        "k11_y": int.from_bytes(public.y, "big"),
        "k11_rp_id_hash": RP_ID_HASH,
        "k11_origin_hash": public.origin_hash,
        "roles": 7,
        **user.header(),
        **bent,
    }
    change = AddMaster(**members)
    pair = user.pair(second.k10, k11_cred_id=public.credential_id_hash)
    signed_by_new = second.k10.sign_recoverable(change.digest(user.site.domain))
    return approved(change, user, *(approvers or (user,)), second, pair=pair, new_device=signed_by_new)


def joined(user: Master, *approvers: Device, roles: int = 7) -> Second:
    """A further master that was let in."""
    second = Second(user)
    user.apply(adding(user, second, *approvers, roles=roles))
    user.nonce += 1
    return second


def two(site: Site) -> tuple[Master, Second]:
    """A user with two masters of all roles."""
    user = master(site)
    return user, joined(user)


def three(site: Site, threshold: int = 2) -> tuple[Master, Second, Second]:
    """A user with three masters and a threshold."""
    user, second = two(site)
    third = joined(user)
    user.apply(approved(SetThreshold(operator_omni=user.operator, threshold=threshold, **user.header()), user, user))
    user.nonce += 1
    return user, second, third


def devices(site: Site, user: Master) -> dict[bytes, registry_pb2.DeviceRecord]:
    """The user's devices by key hash."""
    return {device.device_key_hash: device for device in state(site, user).devices}


@case(CHANGE, "a further master acts as the first does")
def further_master(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    second = Second(user)
    signed = adding(user, second)
    kind, digest = change_of(site, user, user.apply(signed))
    equal((kind, digest), (OpKind.DEVICE_ADD, signed.digest(site.domain)), "kind and digest")
    found = devices(site, user)[second.k10.key_hash]
    equal((found.tier, found.roles, found.actor_omni), (1, 7, user.operator), "tier, roles and actor")
    equal(fetch(site, second, kept)().key, kept.released.key, "key")


@case(CHANGE, "new roles hold at once")
def new_roles(site: Site) -> None:
    user, second = two(site)
    change = SetRoles(operator_omni=user.operator, device_key_hash=second.k10.key_hash, roles=6, **user.header())
    kind, _ = change_of(site, user, user.apply(approved(change, user, user)))
    equal((kind, devices(site, user)[second.k10.key_hash].roles), (OpKind.ROLES_OR_THRESHOLD, 6), "kind and roles")
    found = refusal_of(release(site, second.cap(Op.CRED_STORE, "cred:roles")))
    equal(found and found.reason, Reason.DEVICE_ROLE_MISSING.value, "a store without CAP_MINT")


@case(CHANGE, "a threshold counts distinct masters")
def threshold(site: Site) -> None:
    user, second, _ = three(site)
    equal(state(site, user).threshold, 2, "threshold")
    change = SetThreshold(operator_omni=user.operator, threshold=1, **user.header())
    found = refusal_of(lambda: user.apply(approved(change, user, user)))
    equal(found and found.reason, Reason.CHANGE_NOT_AUTHORISED.value, "one K11 where two are due")
    user.apply(approved(change, user, user, second))
    equal(state(site, user).threshold, 1, "threshold after both have signed")


@case(CHANGE, "the other masters revoke one, and its requests end")
def revoke_master(site: Site) -> None:
    user, second = two(site)
    change = user.revocation(user.k10.key_hash)
    kind, _ = change_of(site, user, user.apply(approved(change, second, second)))
    equal(kind, OpKind.DEVICE_REVOKE, "kind")
    found = refusal_of(release(site, user.cap(Op.CRED_STORE, "cred:revoked")))
    equal(found and found.reason, Reason.DEVICE_REVOKED.value, "a request of the revoked master")


@case(CHANGE, "a new K10 with the old one takes effect at once")
def rotate_with_old(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    new = DeviceKey.generate()
    kind, _ = change_of(site, user, user.apply(rotation(user, new, user.k10)))
    equal(kind, OpKind.K10_ROTATE, "kind")
    found = refusal_of(fetch(site, user, kept))
    equal(found and found.reason, Reason.DEVICE_REVOKED.value, "the old key")
    user.k10 = new
    equal(fetch(site, user, kept)().key, kept.released.key, "key by the new one")


def rotation(user: Master, new: DeviceKey, k10: DeviceKey, **bent: Any) -> SignedChange:
    """A new K10 for the user's master; `k10` is the old key, or the new one where the old is lost."""
    members = {"old_device_key_hash": user.k10.key_hash, "new_device": new.address, **user.header(), **bent}
    change = RotateKey(operator_omni=user.operator, **members)
    digest = change.digest(user.site.domain)
    signatures = ChangeSignatures(
        k10=k10.sign_recoverable(digest), k11=(touch(user, digest),), new_device=new.sign_recoverable(digest)
    )
    return SignedChange(change=change, signatures=signatures)


@case(CHANGE, "a new K10 without the old one waits")
def rotate_without_old(site: Site) -> None:
    user = master(site)
    kept = store(site, user)
    new = DeviceKey.generate()
    user.apply(rotation(user, new, new))
    fetch(site, user, kept)()
    (waiting,) = state(site, user).rotations
    equal((waiting.device_key_hash, waiting.new_address), (user.k10.key_hash, new.address), "what waits")
    expect(abs(waiting.due_at - site.now - 72 * 3600) <= 5, "it waits for another time")
    equal(refused(site, user, new, kept), Reason.DEVICE_UNKNOWN.value, "the new key before its time")
    user.apply(user.freezing())
    equal(len(state(site, user).rotations), 0, "rotations that a freeze left waiting")


def refused(site: Site, user: Master, key: DeviceKey, kept: Any) -> str | None:
    """The reason of a fetch that is signed by another key of the same actor."""
    device = Device(site=site, k10=key, k11=user.k11, operator=user.operator, actor=user.actor, is_master=True)
    found = refusal_of(fetch(site, device, kept))
    return found.reason if found else None


def torn(user: Master, actor: bytes, classes: int, **bent: Any) -> SignedChange:
    """The end of an owner's keys."""
    return user.signed(Teardown(operator_omni=user.operator, actor_omni=actor, classes=classes, **user.header(**bent)))


@case(CHANGE, "a teardown ends an owner's keys of a class, for ever")
def teardown(site: Site) -> None:
    user = master(site)
    agent = user.agent("memory:kept", "cred:kept")
    memory, credential = store(site, agent, "memory:kept", client=MEMORY), store(site, user)
    kind, _ = change_of(site, user, user.apply(torn(user, agent.actor, MEMORY_BIT)))
    user.nonce += 1
    equal(kind, OpKind.MEMORY_TEARDOWN, "kind")
    found = refusal_of(fetch(site, agent, memory, "memory:kept", client=MEMORY))
    equal(found and found.reason, Reason.POLICY_REFUSED.value, "the agent's memory")
    fetch(site, agent, credential)()
    kind, _ = change_of(site, user, user.apply(torn(user, user.operator, CREDENTIALS_BIT)))
    equal(kind, OpKind.CRED_TEARDOWN, "kind")
    torn_down = {(entry.owner, entry.classes) for entry in state(site, user).torn_down}
    equal(torn_down, {(agent.actor, MEMORY_BIT), (user.operator, CREDENTIALS_BIT)}, "torn down")
    for device in (user, agent):
        found = refusal_of(fetch(site, device, credential))
        equal(found and found.reason, Reason.POLICY_REFUSED.value, "the user's credentials")
