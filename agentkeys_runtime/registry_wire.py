"""Operators between the registry's protobuf messages and the values of the core, both ways."""

from types import MappingProxyType

from agentkeys.signer.v1 import registry_pb2 as pb
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.registry import DeviceRecord, K11Public, OperatorState, PendingRotation, Role, Tier


def operator_to_message(state: OperatorState) -> pb.OperatorRecord:
    """The message of one operator; devices and services sorted, so that equal states give equal bytes."""
    return pb.OperatorRecord(
        operator_omni=state.operator_omni,
        wallet=state.wallet,
        wallet_epoch=state.wallet_epoch,
        frozen=state.frozen,
        nonce=state.nonce,
        freeze_nonce=state.freeze_nonce,
        threshold=state.threshold,
        devices=[_device_to_message(state.devices[key]) for key in sorted(state.devices)],
        scopes=[pb.Scope(actor_omni=actor, services=sorted(state.scopes[actor])) for actor in sorted(state.scopes)],
        incarnation=state.incarnation,
        k3_epoch=state.k3_epoch,
        rotations=[
            pb.PendingRotation(device_key_hash=key, new_address=rotation.new_address, due_at=rotation.due_at)
            for key, rotation in sorted(state.rotations.items())
        ],
        torn_down=[pb.TornDown(owner=owner, classes=bits) for owner, bits in sorted(state.torn_down.items())],
    )


def operator_from_message(message: pb.OperatorRecord) -> OperatorState:
    """The operator that a message describes.

    Raises:
        KeyServiceError: `registry_unreachable` for lengths, tiers, roles or words that no registry of ours sends.
    """
    try:
        devices = [_device_from_message(device) for device in message.devices]
        rotations = [_rotation_from_message(rotation) for rotation in message.rotations]
        return OperatorState(
            operator_omni=_sized(message.operator_omni, 32),
            wallet=_sized(message.wallet, 20),
            wallet_epoch=message.wallet_epoch,
            frozen=message.frozen,
            nonce=message.nonce,
            freeze_nonce=message.freeze_nonce,
            threshold=message.threshold,
            devices=MappingProxyType({device.device_key_hash: device for device in devices}),
            scopes=MappingProxyType(
                {_sized(scope.actor_omni, 32): frozenset(scope.services) for scope in message.scopes}
            ),
            incarnation=message.incarnation,
            k3_epoch=message.k3_epoch,
            rotations=MappingProxyType({rotation.device: rotation for rotation in rotations}),
            torn_down=MappingProxyType({_sized(entry.owner, 32): entry.classes for entry in message.torn_down}),
        )
    except ValueError as exc:
        raise KeyServiceError(Reason.REGISTRY_UNREACHABLE, "the registry's answer is malformed") from exc


def _device_to_message(device: DeviceRecord) -> pb.DeviceRecord:
    k11 = device.k11
    return pb.DeviceRecord(
        device_key_hash=device.device_key_hash,
        operator_omni=device.operator_omni,
        actor_omni=device.actor_omni,
        address=device.address,
        tier=device.tier,
        roles=device.roles,
        revoked=device.revoked,
        registered_at=device.registered_at,
        k11=None
        if k11 is None
        else pb.K11PublicKey(
            credential_id_hash=k11.credential_id_hash,
            x=k11.x,
            y=k11.y,
            rp_id_hash=k11.rp_id_hash,
            origin_hash=k11.origin_hash,
        ),
        label=device.label or "",
        generation=device.generation or 0,
        sign_count=device.sign_count,
        evidence=device.evidence,
        assurance=device.assurance,
        counter_fell=device.counter_fell,
    )


def _rotation_from_message(message: pb.PendingRotation) -> PendingRotation:
    return PendingRotation(
        device=_sized(message.device_key_hash, 32),
        new_address=_sized(message.new_address, 20),
        due_at=message.due_at,
    )


def _device_from_message(message: pb.DeviceRecord) -> DeviceRecord:
    k11 = message.k11
    tier = Tier(message.tier)
    is_agent = tier is Tier.AGENT
    return DeviceRecord(
        device_key_hash=_sized(message.device_key_hash, 32),
        operator_omni=_sized(message.operator_omni, 32),
        actor_omni=_sized(message.actor_omni, 32),
        address=_sized(message.address, 20),
        tier=tier,
        roles=Role(message.roles),
        revoked=message.revoked,
        registered_at=message.registered_at,
        k11=K11Public(
            credential_id_hash=_sized(k11.credential_id_hash, 32),
            x=_sized(k11.x, 32),
            y=_sized(k11.y, 32),
            rp_id_hash=_sized(k11.rp_id_hash, 32),
            origin_hash=_sized(k11.origin_hash, 32),
        )
        if message.HasField("k11")
        else None,
        label=message.label if is_agent else None,
        generation=message.generation if is_agent else None,
        sign_count=message.sign_count,
        counter_fell=message.counter_fell,
        evidence=Evidence(message.evidence),
        assurance=Assurance(message.assurance),
    )


def _sized(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError(f"{len(value)} bytes instead of {length}")
    return value
