"""A real embedded registry in a folder, and people whose devices sign changes for it; tests bend what they sign."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from agentkeys_core import ids
from agentkeys_core.audit import AuditEnvelope, AuditRow
from agentkeys_core.changes import (
    AddAgent,
    AddMaster,
    Change,
    Enrol,
    Freeze,
    Pair,
    RevokeDevice,
    RotateKey,
    SetRoles,
    SetScope,
    SetThreshold,
    Teardown,
    Unfreeze,
)
from agentkeys_core.eip712 import Domain
from agentkeys_core.k11 import K11_ORIGIN, RP_ID_HASH
from agentkeys_core.keys import DeviceKey
from agentkeys_core.registry import ALL_ROLES, OperatorState
from agentkeys_core.secret import Secret
from agentkeys_core.signed_change import ChangeSignatures, K11OfDevice, SignedChange, SignedPair
from signer.adapters.committer import Committer
from signer.adapters.database import Database, initialise
from signer.adapters.registry_embedded import EmbeddedRegistry
from signer.keyring import Keyring
from tests.unit.core.material import SoftwareK11

UNAUTHORISED = "change_not_authorised"
NOW = 1_764_000_000
REGISTRY_ID = "ab" * 32
DOMAIN = Domain.embedded(REGISTRY_ID)
PROFILE_HASH = bytes(range(32))
_numbers = count(1)


class SetClock:
    """A clock that stands where the test puts it."""

    def __init__(self, now: float = NOW) -> None:
        self.at = now

    def now(self) -> float:
        return self.at


def keyring(*epochs: int) -> Keyring:
    return Keyring({epoch: Secret.take(bytearray([epoch]) * 32) for epoch in epochs or (1,)})


@dataclass
class Opened:
    """One process' view of a state folder."""

    database: Database
    committer: Committer
    keyring: Keyring
    registry: EmbeddedRegistry
    clock: SetClock
    sealed: list[str]

    def state(self, person: "Person") -> OperatorState:
        state = self.registry.operator(person.operator)
        assert state is not None
        return state


@contextmanager
def opened(
    folder: Path, *, clock: SetClock | None = None, software: bool = False, epochs: Sequence[int] = (1,)
) -> Iterator[Opened]:
    """Open the registry in `folder`, making it where there is none. Open it twice to have two processes."""
    clock = clock or SetClock()
    path = folder / "state.sqlite"
    with keyring(*epochs) as keys:
        if not path.exists():
            initialise(path, registry_id=REGISTRY_ID, keyring=keys, now=int(clock.now()))
        database = Database(path)
        sealed: list[str] = []
        try:
            with (
                Committer(database, keys, clock) as committer,
                EmbeddedRegistry(
                    database, committer, keys, clock, software, seal_all=lambda: sealed.append("all")
                ) as registry,
            ):
                yield Opened(database, committer, keys, registry, clock, sealed)
        finally:
            database.close()


@dataclass
class Person:
    """A user with a wallet and a first master device. Every method signs a change that is valid unless bent."""

    wallet: DeviceKey = field(default_factory=DeviceKey.generate)
    k10: DeviceKey = field(default_factory=DeviceKey.generate)
    k11: SoftwareK11 = field(default_factory=lambda: SoftwareK11(b"credential-%d" % next(_numbers)))
    now: int = NOW

    @property
    def operator(self) -> bytes:
        return ids.operator_omni(self.wallet.address)

    @property
    def device(self) -> bytes:
        return self.k10.key_hash

    def actor(self, label: str = "agent", generation: int = 0) -> bytes:
        return ids.child_omni(self.operator, label, generation)

    def approved(
        self,
        change: Change,
        *,
        k10: DeviceKey | None = None,
        k11: Sequence[K11OfDevice] | None = None,
        domain: Domain = DOMAIN,
        **rest: Any,
    ) -> SignedChange:
        """The change with K10 and K11 of this master, or with what the test puts in their place."""
        digest = change.digest(domain)
        entries = [self.touch(digest)] if k11 is None else k11
        signature = (k10 or self.k10).sign_recoverable(digest)
        return SignedChange(change=change, signatures=ChangeSignatures(k10=signature, k11=tuple(entries), **rest))

    def touch(self, digest: bytes, *, device: bytes | None = None, **bent: Any) -> K11OfDevice:
        return K11OfDevice(device=device or self.device, assertion=self.k11.answer(digest, **bent))

    def header(self, nonce: int, **bent: Any) -> dict[str, Any]:
        return {"incarnation": 1, "nonce": nonce, "deadline": self.now + 600, **bent}

    def enrol_change(self, **bent: Any) -> Enrol:
        public = self.k11.public
        members: dict[str, Any] = {
            "identity_omni": self.operator,
            "operator_omni": self.operator,
            "wallet": self.wallet.address,
            "wallet_epoch": 0,
            "device": self.k10.address,
            "k11_cred_id": public.credential_id_hash,
            "k11_x": int.from_bytes(public.x, "big"),
            "k11_y": int.from_bytes(public.y, "big"),
            "k11_rp_id_hash": RP_ID_HASH,
            "k11_origin_hash": public.origin_hash,
            "roles": int(ALL_ROLES),
            **self.header(0),
        }
        return Enrol(**(members | bent))

    def enrol(self, *, wallet: DeviceKey | None = None, **bent: Any) -> SignedChange:
        change = self.enrol_change(**bent)
        return self.approved(change, wallet=(wallet or self.wallet).sign_recoverable(change.digest(DOMAIN)))

    def pair(self, agent: DeviceKey, *, signer: DeviceKey | None = None, **bent: Any) -> SignedPair:
        members: dict[str, Any] = {
            "operator_omni": self.operator,
            "device": agent.address,
            "k11_cred_id": bytes(32),
            "profile_hash": PROFILE_HASH,
            "expires_at": self.now + 600,
        }
        message = Pair(**(members | bent))
        return SignedPair(message=message, signature=(signer or agent).sign_recoverable(message.digest(DOMAIN)))

    def add_agent(
        self,
        agent: DeviceKey,
        nonce: int,
        *,
        label: str = "agent",
        generation: int = 0,
        services: Sequence[str] = ("cred:openrouter",),
        pair: SignedPair | None = None,
        **bent: Any,
    ) -> SignedChange:
        change = AddAgent(
            operator_omni=self.operator,
            actor_omni=self.actor(label, generation),
            label=label,
            generation=generation,
            device=agent.address,
            services=tuple(services),
            **self.header(nonce, **bent),
        )
        return self.approved(change, pair=pair or self.pair(agent))

    def second(self) -> "Person":
        """Another machine of the same user: keys of its own, not yet registered."""
        return Person(wallet=self.wallet, now=self.now)

    def master_pair(self, new: "Person", *, signer: DeviceKey | None = None, **bent: Any) -> SignedPair:
        return self.pair(new.k10, signer=signer, **({"k11_cred_id": new.k11.public.credential_id_hash} | bent))

    def add_master_change(self, new: "Person", nonce: int, *, roles: int = int(ALL_ROLES), **bent: Any) -> AddMaster:
        public = new.k11.public
        members: dict[str, Any] = {
            "operator_omni": self.operator,
            "device": new.k10.address,
            "k11_cred_id": public.credential_id_hash,
            "k11_x": int.from_bytes(public.x, "big"),
            "k11_y": int.from_bytes(public.y, "big"),
            "k11_rp_id_hash": RP_ID_HASH,
            "k11_origin_hash": public.origin_hash,
            "roles": roles,
            **self.header(nonce),
        }
        return AddMaster(**(members | bent))

    def add_master(
        self, new: "Person", nonce: int, *, touched_by: "Sequence[Person] | None" = None, **bent: Any
    ) -> SignedChange:
        """Approved by this master's K10 and the K11 of `touched_by` (itself), proven by both keys of `new`."""
        change = self.add_master_change(new, nonce, **bent)
        digest = change.digest(DOMAIN)
        touches = [master.touch(digest) for master in (*([self] if touched_by is None else touched_by), new)]
        return self.approved(
            change, k11=touches, new_device=new.k10.sign_recoverable(digest), pair=self.master_pair(new)
        )

    def touched(self, change: Change, *masters: "Person", **rest: Any) -> SignedChange:
        """The change with this master's K10 and the K11 of these."""
        return self.approved(change, k11=[master.touch(change.digest(DOMAIN)) for master in masters], **rest)

    def set_roles(self, nonce: int, device: bytes, roles: int, **bent: Any) -> SetRoles:
        header = self.header(nonce, **bent)
        return SetRoles(operator_omni=self.operator, device_key_hash=device, roles=roles, **header)

    def set_threshold(self, nonce: int, threshold: int, **bent: Any) -> SetThreshold:
        return SetThreshold(operator_omni=self.operator, threshold=threshold, **self.header(nonce, **bent))

    def rotate_change(self, nonce: int, new: DeviceKey, *, old: bytes | None = None, **bent: Any) -> RotateKey:
        header = self.header(nonce, **bent)
        return RotateKey(
            operator_omni=self.operator, old_device_key_hash=old or self.device, new_device=new.address, **header
        )

    def rotate(self, nonce: int, new: DeviceKey, *, k10: DeviceKey | None = None, **bent: Any) -> SignedChange:
        """With the old key, or with `k10` in its place: the new one where the old is lost."""
        change = self.rotate_change(nonce, new, **bent)
        return self.approved(change, k10=k10, new_device=new.sign_recoverable(change.digest(DOMAIN)))

    def teardown(self, nonce: int, classes: int, *, actor: bytes | None = None, **bent: Any) -> Teardown:
        header = self.header(nonce, **bent)
        return Teardown(operator_omni=self.operator, actor_omni=actor or self.operator, classes=classes, **header)

    def set_scope(
        self,
        nonce: int,
        grant: Sequence[str] = (),
        revoke: Sequence[str] = (),
        *,
        actor: bytes | None = None,
        **bent: Any,
    ) -> SetScope:
        return SetScope(
            operator_omni=self.operator,
            actor_omni=actor or self.actor(),
            grant=tuple(grant),
            revoke=tuple(revoke),
            **self.header(nonce, **bent),
        )

    def revoke(self, nonce: int, device: bytes, **bent: Any) -> RevokeDevice:
        return RevokeDevice(operator_omni=self.operator, device_key_hash=device, **self.header(nonce, **bent))

    def unfreeze(self, nonce: int, **bent: Any) -> Unfreeze:
        return Unfreeze(operator_omni=self.operator, **self.header(nonce, **bent))

    def freeze(self, freeze_nonce: int = 0, *, incarnation: int = 1, **signed_by: Any) -> SignedChange:
        change = Freeze(operator_omni=self.operator, incarnation=incarnation, freeze_nonce=freeze_nonce)
        return self.approved(change, **({"k11": ()} | signed_by))


def with_signatures(signed: SignedChange, **changed: Any) -> SignedChange:
    return replace(signed, signatures=replace(signed.signatures, **changed))


__all__ = ["K11_ORIGIN", "NOW", "Opened", "Person", "SetClock", "opened", "with_signatures"]


def kind_of(row: bytes) -> int:
    """The op kind of a signed audit row."""
    return AuditEnvelope.parse(AuditRow.parse(row).envelope).op_kind
