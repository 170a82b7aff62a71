"""The pages of what the registry says: devices, agents, masters, and what can be destroyed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentkeys_core.encoding import address_encode
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.ids import device_key_hash
from agentkeys_core.k11 import SOFTWARE_ORIGIN, origin_hash
from agentkeys_core.registry import DeviceRecord, K11Public, OperatorState, Role
from device.agents import agents_of, known_as, short
from device.console.render import page
from device.intent import class_words, moment
from device.last_use import use_words
from device.local_web import Reply
from device.pairing_desk import fingerprint

#: What each role opens, in the words of `device.intent.role_words`.
ROLES: Final = (
    (Role.CAP_MINT, "use credentials"),
    (Role.RECOVERY, "let masters in and out"),
    (Role.SCOPE_MGMT, "manage agents"),
)
_EVIDENCE: Final = {
    Evidence.WALLET: "your wallet",
    Evidence.OIDC: "your sign-in at a provider",
    Evidence.PASSKEY: "your passkey",
    Evidence.EMAIL: "an e-mail address",
    Evidence.MASTER: "a master",
}
_ASSURANCE: Final = {Assurance.HIGH: "high assurance", Assurance.LOW: "low assurance: the broker's word alone"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a page is made of: the registry's state as read now, its mark, our own key hash, and what was said."""

    state: OperatorState
    mark: str
    own: bytes
    said: Sequence[str] = ()

    @property
    def knows_us(self) -> bool:
        """Whether the registry has this machine's key."""
        return self.own in self.state.devices


def _k11(record: DeviceRecord) -> str:
    """What backs a master's approvals, as far as the registry tells."""
    if record.k11 is None:
        return "none"
    if record.k11.origin_hash == origin_hash(SOFTWARE_ORIGIN):
        return "software, for development only"
    return "a security key, or the authenticator built into its machine"


def _device(record: DeviceRecord, own: bytes, uses: Mapping[bytes, int] | None = None) -> dict[str, object]:
    return {
        "evidence": f"{_EVIDENCE[record.evidence]}, {_ASSURANCE[record.assurance]}",
        "fell": record.counter_fell,
        "hash": record.device_key_hash.hex(),
        "k11": _k11(record) if record.is_master else "",
        "kind": "Master" if record.label is None else f"Agent {record.label}/{record.generation}",
        "name": known_as(record),
        "own": record.device_key_hash == own,
        "revoked": record.revoked,
        "roles": [words for role, words in ROLES if record.holds(role)] if record.is_master else ["use its services"],
        "roles_held": [int(role) for role, _ in ROLES if record.holds(role)],
        "seen": use_words(uses, record.device_key_hash),
        "since": moment(record.registered_at),
    }


def devices_page(seen: Seen, uses: Mapping[bytes, int] | None) -> Reply:
    """All devices, the freeze, keys that wait to be replaced, and who this operator is."""
    state = seen.state
    records = sorted(
        state.devices.values(),
        key=lambda found: (found.revoked, found.device_key_hash != seen.own, found.tier, found.registered_at),
    )
    waiting = [
        {
            "due": moment(rotation.due_at),
            "hash": rotation.device.hex(),
            "new": address_encode(rotation.new_address),
        }
        for rotation in state.rotations.values()
    ]
    return page(
        "devices.html",
        devices=[_device(record, seen.own, uses) for record in records],
        frozen=state.frozen,
        known=seen.knows_us,
        operator=fingerprint(state.operator_omni),
        omni=state.operator_omni.hex(),
        said=seen.said,
        torn=[f"{class_words(bits)} of {owner.hex()}" for owner, bits in state.torn_down.items()],
        mark=seen.mark,
        waiting=waiting,
    )


def agents_page(seen: Seen, uses: Mapping[bytes, int] | None) -> Reply:
    """All agents with what they may use."""
    agents = [
        {
            "actor": agent.actor_omni.hex(),
            "devices": [_device(record, seen.own, uses) for record in agent.devices],
            "name": agent.name,
            "scope": agent.scope,
        }
        for agent in agents_of(seen.state)
    ]
    return page("agents.html", agents=agents, said=seen.said, mark=seen.mark)


def masters_page(seen: Seen, k11: K11Public | None) -> Reply:
    """The masters with their roles, how many it takes, and this machine's own key; `k11` is that of this machine."""
    state = seen.state
    asked = (found for found in state.rotations.values() if device_key_hash(found.new_address) == seen.own)
    masters = sorted(state.masters(), key=lambda found: (found.device_key_hash != seen.own, found.registered_at))
    return page(
        "masters.html",
        asked=next((moment(found.due_at) for found in asked), ""),
        able=sum(master.holds(Role.RECOVERY) for master in masters),
        known=seen.knows_us,
        lost=[_device(master, seen.own) for master in masters if k11 is not None and master.k11 == k11],
        masters=[_device(master, seen.own) for master in masters],
        own=short(seen.own),
        roles=[(int(role), words) for role, words in ROLES],
        said=seen.said,
        threshold=state.threshold,
        mark=seen.mark,
    )


def owner_name(state: OperatorState, actor: bytes) -> str | None:
    """How the owner of data is called where it is destroyed; None for one that is not ours."""
    if actor == state.operator_omni:
        return "my own data"
    return next((agent.name for agent in agents_of(state) if agent.actor_omni == actor), None)


def destroy_page(seen: Seen, actor: bytes) -> Reply:
    """Asks what of an owner's data is destroyed, and for its name in writing."""
    name = owner_name(seen.state, actor)
    if name is None:
        return page("nothing.html")
    own = actor == seen.state.operator_omni
    return page("destroy.html", actor=actor.hex(), name=name, own=own, said=seen.said)
