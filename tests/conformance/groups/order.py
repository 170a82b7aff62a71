"""The order of checks: each fault alone, then each with the fault that comes right after it. The first one decides."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import Reason
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from tests.conformance.cases import Case, Steps, add, case
from tests.conformance.groups.objects import acknowledge, release, store
from tests.conformance.people import Device, Master, master, stranger
from tests.conformance.refusals import read, refusal_of
from tests.conformance.site import MEMORY, Site

SECP256K1_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


@dataclass(slots=True, kw_only=True)
class Asked:
    """A store by a fresh user, as faults bend it: members of the request, other arguments of `cap`, the client."""

    site: Site
    user: Device
    request: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)
    client: str = "credentials"

    def call(self) -> Callable[[], Any]:
        cap = self.user.cap(Op.CRED_STORE, "cred:order", request=self.request, **self.how)
        return release(self.site, cap, self.client)


def _expired(asked: Asked) -> None:
    asked.request |= {"issued_at": asked.site.now - 1000, "expires_at": asked.site.now - 700}


def _early(asked: Asked) -> None:
    asked.request |= {"issued_at": asked.site.now + 400, "expires_at": asked.site.now + 600}


def _high_s(signature: bytes) -> bytes:
    s = SECP256K1_ORDER - int.from_bytes(signature[32:], "big")
    return signature[:32] + s.to_bytes(32, "big")


def _unknown(asked: Asked) -> None:
    asked.user = stranger(asked.site)


def _foreign_k11(asked: Asked) -> None:
    """An assertion over another challenge: a present one is checked although a first store needs none."""
    asked.how["k11"] = asked.user.k11.answer(cap_challenge(bytes(32)))


#: In the order of docs/spec/signer-protocol.md.
FAULTS: Final[Mapping[str, tuple[Reason, Callable[[Asked], None]]]] = {
    "class": (Reason.CLASS_MISMATCH, lambda asked: setattr(asked, "client", MEMORY)),
    "audience": (Reason.WRONG_AUDIENCE, lambda asked: asked.request.update(aud="ab" * 32)),
    "expired": (Reason.CAP_EXPIRED, _expired),
    "epoch": (Reason.FUTURE_EPOCH, lambda asked: asked.request.update(k3_epoch=asked.site.epoch + 1)),
    "co-signature": (
        Reason.BROKER_SIGNATURE_INVALID,
        lambda asked: asked.how.update(k1=ec.generate_private_key(ec.SECP256R1())),
    ),
    "device signature": (
        Reason.DEVICE_SIGNATURE_INVALID,
        lambda asked: asked.how.update(signed_by=DeviceKey.generate()),
    ),
    "unknown device": (Reason.DEVICE_UNKNOWN, _unknown),
    "actor": (Reason.ACTOR_BINDING_MISMATCH, lambda asked: asked.request.update(actor_omni="cd" * 32)),
    "operator": (Reason.ACTOR_BINDING_MISMATCH, lambda asked: asked.request.update(operator_omni="cd" * 32)),
    "K11": (Reason.K11_INVALID, _foreign_k11),
}
#: More faults of the same places, each alone.
ALSO: Final[Mapping[str, tuple[Reason, Callable[[Asked], None]]]] = {
    "not yet valid": (Reason.CAP_NOT_YET_VALID, _early),
    "an unknown co-signer": (Reason.BROKER_SIGNATURE_INVALID, lambda asked: asked.how.update(kid="A" * 43)),
    "a co-signature of 63 bytes": (
        Reason.BROKER_SIGNATURE_INVALID,
        lambda asked: asked.how.update(cap={"cosign": b64u_encode(bytes(63))}),
    ),
    "a co-signature over another device signature": (
        Reason.BROKER_SIGNATURE_INVALID,
        lambda asked: asked.how.update(cap={"device_signature": b64u_encode(bytes(64))}),
    ),
    "a co-signature over a cap without K11": (
        Reason.BROKER_SIGNATURE_INVALID,
        lambda asked: asked.how.update(cap={"k11": asked.user.k11.answer(bytes(32)).encode()}),
    ),
    "a high s": (Reason.DEVICE_SIGNATURE_INVALID, lambda asked: asked.how.update(signature=_high_s)),
    "a device signature of 65 bytes": (
        Reason.DEVICE_SIGNATURE_INVALID,
        lambda asked: asked.how.update(signature=lambda signature: signature + b"\x1b"),
    ),
    "a device signature of zeros": (
        Reason.DEVICE_SIGNATURE_INVALID,
        lambda asked: asked.how.update(signature=lambda _: bytes(64)),
    ),
    "an uncompressed public key": (
        Reason.DEVICE_SIGNATURE_INVALID,
        lambda asked: asked.how.update(public_key=b"\x04" + bytes(64)),
    ),
    "another user's actor": (
        Reason.ACTOR_BINDING_MISMATCH,
        lambda asked: asked.request.update(actor_omni=master(asked.site).actor.hex()),
    ),
}


def _steps(*faults: Callable[[Asked], None]) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        asked = Asked(site=site, user=master(site))
        for fault in faults:
            fault(asked)
        return asked.call()

    return steps


def _register() -> None:
    names = list(FAULTS)
    for name, (reason, fault) in [*FAULTS.items(), *ALSO.items()]:
        add(Case(group="Order", title=f"{name} alone", steps=_steps(fault), gives=reason))
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            reason, fault = FAULTS[first]
            if {first, second} == {"co-signature", "K11"} or (first, second) == ("actor", "operator"):
                continue
            # The later fault first: what replaces the user must not undo what bends the request.
            steps = _steps(FAULTS[second][1], fault)
            add(Case(group="Order", title=f"{first} before {second}", steps=steps, gives=reason))


_register()


@case("Order", "shape before audience", gives=Reason.UNSUPPORTED_VERSION)
def shape_first(site: Site) -> Callable[[], Any]:
    return release(site, master(site).cap(Op.CRED_STORE, "cred:order", request={"ver": 1, "aud": "ab" * 32}))


@case("Order", "shape before class", gives=Reason.INVALID_CAP)
def shape_before_class(site: Site) -> Callable[[], Any]:
    return release(site, master(site).cap(Op.CRED_STORE, "cred:order", request={"op": "cred-steal"}), MEMORY)


@case("Order", "an epoch before the current one", gives=Reason.STALE_EPOCH, needs="older_epoch")
def stale(site: Site) -> Callable[[], Any]:
    return release(site, master(site).cap(Op.CRED_STORE, "cred:order", request={"k3_epoch": site.epoch - 1}))


def _agent_store(user: Master) -> Device:
    return user.agent("cred:order")


@case("Order", "an agent stores no credential", gives=Reason.DEVICE_ROLE_MISSING)
def agent_stores(site: Site) -> Callable[[], Any]:
    return release(site, _agent_store(master(site)).cap(Op.CRED_STORE, "cred:order"))


@case("Order", "an agent deletes no credential", gives=Reason.DEVICE_ROLE_MISSING)
def agent_deletes(site: Site) -> Callable[[], Any]:
    return acknowledge(site, _agent_store(master(site)).cap(Op.CRED_DELETE, "cred:order"))


@case("Order", "binding before role", gives=Reason.ACTOR_BINDING_MISMATCH)
def binding_before_role(site: Site) -> Callable[[], Any]:
    agent = _agent_store(master(site))
    return release(site, agent.cap(Op.CRED_STORE, "cred:order", request={"actor_omni": agent.operator.hex()}))


@case("Order", "revoked before binding", gives=Reason.DEVICE_REVOKED)
def revoked_before_binding(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:order")
    user.changed(user.revocation(agent.k10.key_hash))
    return release(site, agent.cap(Op.CRED_STORE, "cred:order", request={"actor_omni": "cd" * 32}))


@case("Order", "role before frozen", gives=Reason.DEVICE_ROLE_MISSING)
def role_before_frozen(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = _agent_store(user)
    user.apply(user.freezing())
    return release(site, agent.cap(Op.CRED_STORE, "cred:order"))


@case("Order", "frozen before scope", gives=Reason.OPERATOR_FROZEN)
def frozen_before_scope(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent()
    user.apply(user.freezing())
    return release(site, agent.cap(Op.CRED_FETCH, "cred:order"), epoch=1, salt=bytes(32))


@case("Order", "scope before K11", gives=Reason.SERVICE_NOT_IN_SCOPE)
def scope_before_k11(site: Site) -> Callable[[], Any]:
    agent = master(site).agent("cred:other")
    k11 = agent.k11.answer(cap_challenge(bytes(32)))
    return release(site, agent.cap(Op.CRED_FETCH, "cred:order", k11=k11), epoch=1, salt=bytes(32))


@case("Order", "a grant of another name is none", gives=Reason.SERVICE_NOT_IN_SCOPE)
def other_grant(site: Site) -> Callable[[], Any]:
    agent = master(site).agent("cred:order2", "memory:order")
    return release(site, agent.cap(Op.CRED_FETCH, "cred:order"), epoch=1, salt=bytes(32))


@case("Order", "a present assertion is checked where none is needed", gives=Reason.K11_INVALID)
def unneeded_k11(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:order")
    store(site, user, "cred:order")
    k11 = agent.k11.answer(cap_challenge(bytes(32)))
    return release(site, agent.cap(Op.CRED_FETCH, "cred:order", k11=k11), epoch=1, salt=bytes(32))


@case("Order", "K11 before replay and version", gives=Reason.K11_REQUIRED)
def k11_before_version(site: Site) -> Callable[[], Any]:
    user = master(site)
    store(site, user, "cred:order")
    return release(site, user.cap(Op.CRED_STORE, "cred:order", touch=False))


@case("Order", "a master's fetch needs K11", gives=Reason.K11_REQUIRED)
def masters_fetch(site: Site) -> Callable[[], Any]:
    user = master(site)
    return release(site, user.cap(Op.CRED_FETCH, "cred:order", touch=False), epoch=1, salt=bytes(32))


@case("Order", "a delete needs K11", gives=Reason.K11_REQUIRED)
def delete_needs_k11(site: Site) -> Callable[[], Any]:
    return acknowledge(site, master(site).cap(Op.CRED_DELETE, "cred:order", touch=False))


@case("Order", "the K11 of another user", gives=Reason.K11_INVALID)
def foreign_touch(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    user.k11 = other.k11
    return release(site, user.cap(Op.CRED_FETCH, "cred:order"), epoch=1, salt=bytes(32))


def _bent_touch(**bent: Any) -> Steps:
    """A fetch whose assertion is right in all but this."""

    def steps(site: Site) -> Callable[[], Any]:
        user = master(site)
        made = user.cap(Op.CRED_FETCH, "cred:order", touch=False)
        challenge = cap_challenge(made.digest)
        members = {name: value for name, value in bent.items() if name not in {"flags", "rp_id_hash"}}
        arguments = {name: value for name, value in bent.items() if name in {"flags", "rp_id_hash"}}
        if members:
            data = json.loads(user.k11.client_data(challenge)) | members
            arguments["client_data"] = json.dumps(data).encode()
        k11 = user.k11.answer(challenge, **arguments)
        again = user.cap(Op.CRED_FETCH, "cred:order", rewrite=lambda _: made.raw, k11=k11)
        return release(site, again, epoch=1, salt=bytes(32))

    return steps


_BENT: Final[Mapping[str, Mapping[str, Any]]] = {
    "an assertion of another origin": {"origin": "https://broker.example.org"},
    "an assertion of another type": {"type": "webauthn.create"},
    "an assertion across origins": {"crossOrigin": True},
    "an assertion without user presence": {"flags": 0x04},
    "an assertion without user verification": {"flags": 0x01},
    "an assertion of another relying party": {"rp_id_hash": bytes(32)},
    "an assertion with a padded challenge": {"challenge": "A" * 43 + "="},
}
for _title, _bent in _BENT.items():
    add(Case(group="Order", title=_title, steps=_bent_touch(**_bent), gives=Reason.K11_INVALID))


@case("Order", "replay before version", gives=Reason.CAP_REPLAYED)
def replay_before_version(site: Site) -> Callable[[], Any]:
    spent = store(site, master(site), "cred:order")
    return release(site, spent.cap, expect=bytes(32))


@case("Order", "a device that asks for too much at once", gives=Reason.RATE_LIMITED, needs="device_burst")
def rate_limit(site: Site) -> Callable[[], Any]:
    """Requests by one device until its bucket is empty: each with a good signature, so each is charged."""
    user = master(site)
    caps = [user.cap(Op.CRED_FETCH, "cred:order") for _ in range(4 * (site.manifest.device_burst or 0))]

    def until_empty() -> None:
        for cap in caps:
            try:
                release(site, cap, epoch=1, salt=bytes(32))()
            except grpc.RpcError as error:
                if read(error).reason != Reason.VERSION_NOT_CURRENT.value:
                    raise

    return until_empty


@case("Order", "junk in a victim's name does not slow the victim", needs="device_burst")
def no_lock_out(site: Site) -> None:
    victim = master(site)
    forged = victim.cap(Op.CRED_STORE, "cred:order", signed_by=DeviceKey.generate())
    for _ in range(2 * (site.manifest.device_burst or 0)):
        refusal_of(release(site, forged))
    store(site, victim, "cred:order")


@case("Order", "repeating what a device signed does not slow it", needs="device_burst")
def no_lock_out_by_repeats(site: Site) -> None:
    victim = master(site)
    kept = store(site, victim, "cred:order")
    for _ in range(2 * (site.manifest.device_burst or 0)):
        refusal_of(release(site, kept.cap))
    store(site, victim, "cred:other")
