"""Who may change what in the backend's registry, and what it does: one method a change."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from agentkeys_core.audit import OpKind
from agentkeys_core.changes import (
    AddAgent,
    AddMaster,
    Change,
    Enrol,
    Freeze,
    NewMaster,
    OrderedChange,
    RevokeDevice,
    RotateKey,
    SetRoles,
    SetScope,
    SetThreshold,
    Teardown,
    Unfreeze,
)
from agentkeys_core.errors import Reason
from agentkeys_core.ids import device_key_hash
from agentkeys_core.k11 import K11_ORIGIN, origin_hash
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.records import (
    ALL,
    CAP_MINT,
    RECOVERY,
    SCOPE_MGMT,
    Device,
    Operator,
    Tables,
    keys_for_recovery,
)
from tests.conformance.backend.refused import refusal, refuse

NOT_AUTHORISED: Final = Reason.CHANGE_NOT_AUTHORISED
HOUR_S: Final = 3600
ROTATION_DELAY_S: Final = 72 * HOUR_S
CREDENTIALS: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Who signed a digest, verified: key hash of the K10, devices by K11; addresses of wallet, new key and Pair."""

    k10: bytes
    k11: Mapping[bytes, int]
    wallet: bytes | None
    new_device: bytes | None
    pair: bytes | None


class Rules:
    """Decides and carries out."""

    def __init__(self, tables: Tables, epoch: int, broken: Broken) -> None:
        self._tables = tables
        self._broken = broken
        self.incarnation = 1
        self.epoch = epoch

    def apply(self, change: Change, signers: Signers, digest: bytes) -> int:
        """Carry out a change that is authorised; returns the kind of its row."""
        if isinstance(change, Enrol):
            return self._enrol(change, signers, digest)
        operator = self._tables.operators.get(change.operator_omni)
        if operator is None:
            refuse(NOT_AUTHORISED)
        if isinstance(change, Freeze):
            return self._freeze(operator, change, signers)
        if not isinstance(change, OrderedChange):
            refuse(Reason.INVALID_CHANGE)
        self.timely(change, operator.nonce)
        kind = self._ordered(operator, change, signers)
        operator.nonce += 1
        return kind

    def _ordered(self, operator: Operator, change: OrderedChange, signers: Signers) -> int:  # noqa: PLR0911
        match change:
            case AddMaster():
                return self._add_master(operator, change, signers)
            case AddAgent():
                return self._add_agent(operator, change, signers)
            case SetScope():
                return self._set_scope(operator, change, signers)
            case RevokeDevice():
                return self._revoke(operator, change, signers)
            case SetRoles():
                return self._set_roles(operator, change, signers)
            case SetThreshold():
                return self._set_threshold(operator, change, signers)
            case RotateKey():
                return self._rotate(operator, change, signers)
            case Unfreeze():
                return self._unfreeze(operator, signers)
            case Teardown():
                return self._teardown(operator, change, signers)
            case _:
                raise refusal(NOT_AUTHORISED)

    def timely(self, change: OrderedChange, nonce: int) -> None:
        """For this incarnation, this hour, this nonce."""
        now = int(time.time())
        if change.incarnation != self.incarnation or not now <= change.deadline <= now + HOUR_S:
            refuse(NOT_AUTHORISED)
        if change.nonce != nonce and "forget-nonces" not in self._broken:
            refuse(NOT_AUTHORISED)

    def _signer(self, operator: Operator, signers: Signers, role: int, *, also: bytes | None = None) -> Device:
        """The master whose K10 signed; every K11 must be a master's, or that of the device `also`."""
        masters = {master.key_hash: master for master in operator.masters()}
        signer = masters.get(signers.k10)
        if signer is None or signer.roles & role != role:
            refuse(NOT_AUTHORISED)
        if not signers.k11.keys() - {also} <= masters.keys():
            refuse(NOT_AUTHORISED)
        return signer

    def _one_master(self, operator: Operator, signers: Signers, role: int) -> Device:
        """K10 and K11 of one master."""
        signer = self._signer(operator, signers, role)
        if signer.key_hash not in signers.k11 and "change-without-k11" not in self._broken:
            refuse(NOT_AUTHORISED)
        return signer

    def _quorum(
        self, operator: Operator, signers: Signers, *, against: bytes | None = None, also: bytes | None = None
    ) -> Device:
        """K10 of a master, and as many K11 keys as the threshold says; those of `against` and `also` do not count."""
        signer = self._signer(operator, signers, RECOVERY, also=also)
        counted = signers.k11.keys() - {against, also}
        behind = [device for key_hash, device in operator.devices.items() if key_hash in counted]
        needed = 1 if "threshold-ignored" in self._broken else operator.threshold
        if signer.key_hash == against or keys_for_recovery(behind) < needed:
            refuse(NOT_AUTHORISED)
        return signer

    def _thaw(self, operator: Operator) -> None:
        if operator.frozen:
            refuse(Reason.OPERATOR_FROZEN)

    def _target(self, operator: Operator, key_hash: bytes) -> Device:
        device = operator.devices.get(key_hash)
        if device is None:
            refuse(Reason.DEVICE_UNKNOWN)
        if device.revoked:
            refuse(Reason.DEVICE_REVOKED)
        return device

    def check_enrol(self, change: Enrol) -> None:
        """Whatever else signs it, this registry takes it now."""
        self.timely(change, 0)
        if change.roles != ALL:
            refuse(NOT_AUTHORISED)
        self._origin(change)

    def check_free(self, change: Enrol) -> None:
        """Identity, operator and device are nobody's."""
        tables = self._tables
        taken = (
            change.operator_omni in tables.operators,
            change.operator_omni in tables.owner_of_actor,
            change.identity_omni in tables.identities,
            device_key_hash(change.device) in tables.owner_of_device,
        )
        if any(taken):
            refuse(Reason.ALREADY_BOUND)

    def _origin(self, change: NewMaster) -> None:
        if change.k11_origin_hash != origin_hash(K11_ORIGIN):
            refuse(NOT_AUTHORISED)

    def _enrol(self, change: Enrol, signers: Signers, digest: bytes) -> int:
        key_hash = device_key_hash(change.device)
        self.check_enrol(change)
        if (signers.k10, list(signers.k11), signers.wallet) != (key_hash, [key_hash], change.wallet):
            refuse(NOT_AUTHORISED)
        attested = ("wallet", "high") if change.is_evm else self._tables.attested.get(digest)
        if attested is None:
            refuse(Reason.INVALID_EVIDENCE)
        self.check_free(change)
        device = self._new_master(change, ALL)
        device.evidence, device.assurance = attested
        operator = Operator(
            omni=change.operator_omni,
            wallet=change.wallet,
            wallet_epoch=change.wallet_epoch,
            identity=change.identity_omni,
            devices={key_hash: device},
        )
        self._tables.operators[operator.omni] = operator
        self._tables.identities.add(change.identity_omni)
        self._hold(operator, device)
        return OpKind.DEVICE_ADD

    def _new_master(self, change: Enrol | AddMaster, roles: int) -> Device:
        return Device(
            key_hash=device_key_hash(change.device),
            actor=change.operator_omni,
            address=change.device,
            roles=roles,
            registered_at=int(time.time()),
            k11=change.k11,
        )

    def _hold(self, operator: Operator, device: Device) -> None:
        operator.devices[device.key_hash] = device
        operator.wallet_epochs.setdefault(device.actor, self.epoch)
        self._tables.owner_of_device[device.key_hash] = operator.omni
        self._tables.owner_of_actor[device.actor] = operator.omni

    def _add_master(self, operator: Operator, change: AddMaster, signers: Signers) -> int:
        key_hash = device_key_hash(change.device)
        signer = self._quorum(operator, signers, also=key_hash)
        if (signers.pair, signers.new_device) != (change.device, change.device) or key_hash not in signers.k11:
            refuse(NOT_AUTHORISED)
        self._origin(change)
        self._thaw(operator)
        known = [device.k11 for device in operator.devices.values() if device.k11 is not None]
        new = change.k11
        shared = any(
            (k11.x, k11.y) == (new.x, new.y) or k11.credential_id_hash == new.credential_id_hash for k11 in known
        )
        if key_hash in self._tables.owner_of_device or shared:
            refuse(Reason.ALREADY_BOUND)
        device = self._new_master(change, change.roles)
        device.assurance = signer.assurance
        self._hold(operator, device)
        return OpKind.DEVICE_ADD

    def _add_agent(self, operator: Operator, change: AddAgent, signers: Signers) -> int:
        signer = self._one_master(operator, signers, SCOPE_MGMT)
        if signers.pair != change.device:
            refuse(NOT_AUTHORISED)
        self._thaw(operator)
        key_hash, owner = device_key_hash(change.device), self._tables.owner_of_actor.get(change.actor_omni)
        if key_hash in self._tables.owner_of_device or owner not in (None, operator.omni):
            refuse(Reason.ALREADY_BOUND)
        device = Device(
            key_hash=key_hash,
            actor=change.actor_omni,
            address=change.device,
            roles=CAP_MINT,
            registered_at=int(time.time()),
            assurance=signer.assurance,
            label=change.label,
            generation=change.generation,
        )
        self._hold(operator, device)
        operator.scopes.setdefault(change.actor_omni, set()).update(change.services)
        return OpKind.DEVICE_ADD

    def _set_scope(self, operator: Operator, change: SetScope, signers: Signers) -> int:
        self._one_master(operator, signers, SCOPE_MGMT)
        owner = self._tables.owner_of_actor.get(change.actor_omni)
        if change.actor_omni == operator.omni or owner != operator.omni:
            refuse(NOT_AUTHORISED)
        if change.grant:
            self._thaw(operator)
        scope = operator.scopes.setdefault(change.actor_omni, set())
        scope.difference_update(change.revoke)
        scope.update(change.grant)
        return OpKind.SCOPE_GRANT if change.grant else OpKind.SCOPE_REVOKE

    def _revoke(self, operator: Operator, change: RevokeDevice, signers: Signers) -> int:
        known = operator.devices.get(change.device_key_hash)
        if known is None or not known.is_master:
            self._one_master(operator, signers, SCOPE_MGMT)
            self._target(operator, change.device_key_hash).revoked = True
            return OpKind.DEVICE_REVOKE
        self._quorum(operator, signers, against=known.key_hash)
        target = self._target(operator, known.key_hash)
        left = [device for device in operator.masters() if device is not target]
        self._whole(left)
        target.revoked = True
        operator.waiting.pop(target.key_hash, None)
        operator.threshold = min(operator.threshold, _highest(left))
        return OpKind.DEVICE_REVOKE

    def _whole(self, masters: Iterable[Device]) -> None:
        """One master with every role remains."""
        if not any(master.roles == ALL for master in masters):
            refuse(NOT_AUTHORISED)

    def _set_roles(self, operator: Operator, change: SetRoles, signers: Signers) -> int:
        self._quorum(operator, signers)
        self._thaw(operator)
        target = self._target(operator, change.device_key_hash)
        if not target.is_master:
            refuse(NOT_AUTHORISED)
        before, target.roles = target.roles, change.roles
        try:
            self._whole(operator.masters())
            self._reachable(operator, operator.threshold)
        except Exception:
            target.roles = before
            raise
        return OpKind.ROLES_OR_THRESHOLD

    def _reachable(self, operator: Operator, threshold: int) -> None:
        if threshold > _highest(operator.masters()):
            refuse(NOT_AUTHORISED)

    def _set_threshold(self, operator: Operator, change: SetThreshold, signers: Signers) -> int:
        self._quorum(operator, signers)
        self._thaw(operator)
        self._reachable(operator, change.threshold)
        operator.threshold = change.threshold
        return OpKind.ROLES_OR_THRESHOLD

    def _rotate(self, operator: Operator, change: RotateKey, signers: Signers) -> int:
        old = self._target(operator, change.old_device_key_hash)
        new = device_key_hash(change.new_device)
        masters = {master.key_hash for master in operator.masters()}
        if not old.is_master or signers.new_device != change.new_device or not signers.k11.keys() <= masters:
            refuse(NOT_AUTHORISED)
        if old.key_hash not in signers.k11:
            refuse(NOT_AUTHORISED)
        self._thaw(operator)
        if new in self._tables.owner_of_device:
            refuse(Reason.ALREADY_BOUND)
        if signers.k10 not in (old.key_hash, new):
            refuse(NOT_AUTHORISED)
        operator.waiting.pop(old.key_hash, None)
        if signers.k10 == new:
            operator.waiting[old.key_hash] = (change.new_device, int(time.time()) + ROTATION_DELAY_S)
            return OpKind.K10_ROTATE
        replaced = Device(
            key_hash=new,
            actor=old.actor,
            address=change.new_device,
            roles=old.roles,
            registered_at=int(time.time()),
            evidence=old.evidence,
            assurance=old.assurance,
            k11=old.k11,
            sign_count=old.sign_count,
        )
        old.revoked = True
        self._hold(operator, replaced)
        return OpKind.K10_ROTATE

    def _freeze(self, operator: Operator, change: Freeze, signers: Signers) -> int:
        if (change.incarnation, change.freeze_nonce) != (self.incarnation, operator.freeze_nonce):
            refuse(NOT_AUTHORISED)
        self._signer(operator, signers, 0)
        operator.frozen = True
        operator.waiting.clear()
        return OpKind.FREEZE

    def _unfreeze(self, operator: Operator, signers: Signers) -> int:
        self._one_master(operator, signers, 0)
        if not operator.frozen:
            refuse(NOT_AUTHORISED)
        operator.frozen = False
        operator.freeze_nonce += 1
        return OpKind.UNFREEZE

    def _teardown(self, operator: Operator, change: Teardown, signers: Signers) -> int:
        self._one_master(operator, signers, 0)
        credentials = bool(change.classes & CREDENTIALS)
        if self._tables.owner_of_actor.get(change.actor_omni) != operator.omni:
            refuse(NOT_AUTHORISED)
        if credentials and change.actor_omni != operator.omni:
            refuse(NOT_AUTHORISED)
        self._thaw(operator)
        operator.torn[change.actor_omni] = operator.torn.get(change.actor_omni, 0) | change.classes
        return OpKind.CRED_TEARDOWN if credentials else OpKind.MEMORY_TEARDOWN


def _highest(masters: Iterable[Device]) -> int:
    """One less than could approve, so that the loss of one can still be answered."""
    return max(1, keys_for_recovery(masters) - 1)
