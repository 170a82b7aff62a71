"""Masters: let in, given roles, revoked by the others; how many of them it takes; their keys replaced."""

from collections.abc import Callable

from agentkeys_core.changes import (
    AddMaster,
    Change,
    ChangeSignatures,
    RevokeDevice,
    SetRoles,
    SetThreshold,
    SignedChange,
    Teardown,
)
from agentkeys_core.encoding import canonical_json, fields, hex_decode, hex_encode, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.registry import K11Public, OperatorState, Role
from device.agents import known_as
from device.approvals import behind
from device.change_desk import Receipt, apply_change, approved, send_change, views_of
from device.collected import COLLECT_LIFE_S, Collected
from device.errors import DeviceError, Trouble
from device.identity import Identity, Part
from device.k11.port import K11Kind
from device.lost_key import OFFER_FILE
from device.pairing import Offer, hash_of, signed_offer
from device.registry import same_view
from device.session import Device
from device.setting_up import own_k11

Build = Callable[[OperatorState, int], Change]


def offer_master(device: Device, operator: bytes, kind: K11Kind) -> Offer:
    """On the new machine: make K10 and K11, and offer them to this operator; may be run again for a fresh offer.

    Raises:
        DeviceError: `already_initialised` for a folder that serves something already; else as the authenticator.
    """
    if Identity.load(device.home) is not None or _pending(device) not in {None, operator}:
        raise DeviceError(
            Trouble.ALREADY_INITIALISED, f"{device.home.path} serves something else already; use another --home"
        )
    offer = signed_offer(device, operator, k11=own_k11(device, kind).public)
    device.home.write(OFFER_FILE, canonical_json({"operator_omni": hex_encode(operator)}))
    return offer


def _pending(device: Device) -> bytes | None:
    data = device.home.read(OFFER_FILE)
    if data is None:
        return None
    try:
        read = parse_canonical(data, limit=1024, not_canonical=Reason.INVALID_ENCODING)
        members = fields(read, required=("operator_omni",), reason=Reason.INVALID_ENCODING)
        return hex_decode(members["operator_omni"], length=32)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{device.home.path / OFFER_FILE}: {exc}") from exc


def add_master(device: Device, offer: Offer, *, roles: int) -> Collected:
    """On a master: approve the device of a checked offer whose hash was compared; the new machine sends it."""
    offer.check(device, part=Part.MASTER)
    public = _k11_of(offer)

    def build(state: OperatorState, deadline: int) -> Change:
        return AddMaster(
            operator_omni=state.operator_omni,
            device=offer.pair.message.device,
            k11_cred_id=public.credential_id_hash,
            k11_x=int.from_bytes(public.x, "big"),
            k11_y=int.from_bytes(public.y, "big"),
            k11_rp_id_hash=public.rp_id_hash,
            k11_origin_hash=public.origin_hash,
            roles=roles,
            incarnation=state.incarnation,
            nonce=state.nonce,
            deadline=deadline,
        )

    begun = begin(device, build)
    signatures = ChangeSignatures(k10=begun.signed.signatures.k10, k11=begun.signed.signatures.k11, pair=offer.pair)
    signed = SignedChange(change=begun.change, signatures=signatures)
    return Collected(signed=signed, new_public_key=offer.public_key)


def _k11_of(offer: Offer) -> K11Public:
    if offer.k11 is None:
        raise DeviceError(Trouble.PAIR_INVALID, "it is not that of a new master")
    return offer.k11


def join(device: Device, collected: Collected) -> Receipt:
    """On the new machine: check what the masters approved, add both own keys, and send it.

    Raises:
        DeviceError: `pair_invalid` where it is not about this very device and operator; else as `send_change`.
        KeyServiceError: the registry's refusal.
    """
    change, record = collected.change, device.k11()[1]
    if not isinstance(change, AddMaster):
        raise DeviceError(Trouble.BAD_FILE, "that lets no master in")
    checks = (
        (change.operator_omni == _pending(device), "it is for another operator than this machine was offered to"),
        (change.device == device.k10.address, "it names another device"),
        (change.k11 == record.public, "it names another K11"),
    )
    for holds, otherwise in checks:
        if not holds:
            raise DeviceError(Trouble.PAIR_INVALID, otherwise)
    signed, own = approved(device, change, question="Join as this master?")
    ready = collected.with_k11(*own).signed
    signatures = ChangeSignatures(
        k10=ready.signatures.k10, k11=ready.signatures.k11, new_device=signed.signature, pair=ready.signatures.pair
    )
    body = SignedChange(change=change, signatures=signatures).encode()
    receipt = send_change(device, body, change, signed.digest, everywhere=False)
    Identity(
        part=Part.MASTER,
        operator_omni=change.operator_omni,
        actor_omni=change.operator_omni,
        profile_hash=device.profile.hash(),
        registered=True,
    ).save(device.home)
    device.home.remove(OFFER_FILE)
    return receipt


def begin(device: Device, build: Build) -> Collected:
    """Compose and sign a change that other masters may have to sign as well.

    Raises:
        DeviceError: `registry_views_differ` where broker and worker tell different counters: nothing is signed then
            that somebody could keep and play later.
    """
    change = build(_agreed_state(device), device.now() + COLLECT_LIFE_S)
    signed, assertions = approved(device, change, question="Sign this?")
    signatures = ChangeSignatures(k10=signed.signature, k11=assertions)
    return Collected(signed=SignedChange(change=change, signatures=signatures))


def _agreed_state(device: Device) -> OperatorState:
    views = views_of(device, device.identity().operator_omni)
    if not same_view(views):
        raise DeviceError(Trouble.REGISTRY_VIEWS_DIFFER, "broker and worker tell different states; try again")
    return views[0].state


def approve(device: Device, collected: Collected) -> Collected:
    """Add this master's K11 to what another master began, once who did and who approved it so far are proven and told.

    Raises:
        DeviceError: as `behind`; `bad_file` where this master has approved it already; `registry_views_differ`.
    """
    found = behind(device, collected, _agreed_state(device))
    if device.k10.key_hash in collected.devices:
        raise DeviceError(Trouble.BAD_FILE, "this master has approved it already")
    approved_by = ", ".join(known_as(master) for master in found.by) or "nobody"
    device.show.warn(f"Begun by {known_as(found.began)}, approved so far by {approved_by}.")
    _, assertions = approved(device, collected.change, question="Approve this?")
    return collected.with_k11(*assertions)


def pairing_hash_of(device: Device, collected: Collected) -> bytes | None:
    """The pairing hash of the master that a file lets in, by this machine's own profile; None for other changes."""
    change = collected.change
    if not isinstance(change, AddMaster) or collected.new_public_key is None:
        return None
    return hash_of(collected.new_public_key, change.k11, device.profile.hash())


def send_collected(device: Device, collected: Collected) -> Receipt:
    """Send a change that enough masters have approved."""
    digest = collected.change.digest(device.profile.domain)
    everywhere = isinstance(collected.change, RevokeDevice)
    return send_change(device, collected.signed.encode(), collected.change, digest, everywhere=everywhere)


def is_enough(device: Device, collected: Collected) -> bool:
    """Whether as many masters have approved as the registry is said to ask for; it decides by itself."""
    views = views_of(device, collected.change.operator_omni)
    return len(collected.devices) >= max(view.state.threshold for view in views)


def set_roles(key_hash: bytes, roles: int) -> Build:
    """A master's new roles."""
    return lambda state, deadline: SetRoles(
        operator_omni=state.operator_omni,
        device_key_hash=key_hash,
        roles=roles,
        incarnation=state.incarnation,
        nonce=state.nonce,
        deadline=deadline,
    )


def set_threshold(threshold: int) -> Build:
    """How many masters a recovery takes."""
    return lambda state, deadline: SetThreshold(
        operator_omni=state.operator_omni,
        threshold=threshold,
        incarnation=state.incarnation,
        nonce=state.nonce,
        deadline=deadline,
    )


def revoke_master(key_hash: bytes) -> Build:
    """The end of a master."""
    return lambda state, deadline: RevokeDevice(
        operator_omni=state.operator_omni,
        device_key_hash=key_hash,
        incarnation=state.incarnation,
        nonce=state.nonce,
        deadline=deadline,
    )


def threshold_after(state: OperatorState, key_hash: bytes) -> int:
    """What the threshold becomes when that master goes: it falls where too few would be left to reach it."""
    able = [master for master in state.masters() if master.holds(Role.RECOVERY) and master.device_key_hash != key_hash]
    return min(state.threshold, max(1, len(able) - 1))


def teardown(device: Device, actor: bytes, classes: int) -> Receipt:
    """The end of an owner's keys; goes to broker and worker at once."""

    def build(state: OperatorState, deadline: int) -> Change:
        return Teardown(
            operator_omni=state.operator_omni,
            actor_omni=actor,
            classes=classes,
            incarnation=state.incarnation,
            nonce=state.nonce,
            deadline=deadline,
        )

    return apply_change(device, build, k11=True, everywhere=True)
