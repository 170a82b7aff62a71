"""Registry changes that must be refused: unauthorised, taken, frozen, malformed."""

import json
import secrets
from collections.abc import Callable
from typing import Any

from agentkeys_core.changes import SignedChange
from agentkeys_core.eip712 import Domain
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.k11 import SOFTWARE_ORIGIN
from agentkeys_core.keys import DeviceKey
from tests.conformance.cases import Case, Steps, add, case, equal
from tests.conformance.groups.registry import CHANGE, state
from tests.conformance.people import Master, apply, master, stranger, with_signatures
from tests.conformance.refusals import refusal_of
from tests.conformance.site import Site


def _refused(make: Callable[[Master], SignedChange], *, enrolled: bool = True) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        user = master(site) if enrolled else stranger(site)
        signed = make(user)
        return lambda: user.apply(signed)

    return steps


def _scope(user: Master, **bent: Any) -> SignedChange:
    actor = user.agent("cred:a").actor
    return user.signed(user.set_scope(actor, grant=("cred:b",), **bent))


def _foreign_wallet(user: Master) -> SignedChange:
    return user.enrolment(signer=DeviceKey.generate())


NOT_AUTHORISED: dict[str, Steps] = {
    "a first bind without the wallet": _refused(
        lambda user: with_signatures(user.enrolment(), wallet=None), enrolled=False
    ),
    "a first bind with another wallet": _refused(_foreign_wallet, enrolled=False),
    "a first bind without K11": _refused(lambda user: with_signatures(user.enrolment(), k11=()), enrolled=False),
    "a first bind with another K10": _refused(
        lambda user: with_signatures(
            user.enrolment(), k10=DeviceKey.generate().sign_recoverable(user.enrolment().digest(user.site.domain))
        ),
        enrolled=False,
    ),
    "a first bind of fewer roles": _refused(lambda user: user.enrolment(roles=1), enrolled=False),
    "a first bind with nonce 1": _refused(lambda user: user.enrolment(nonce=1), enrolled=False),
    "a first bind from another origin": _refused(
        lambda user: user.enrolment(origin="https://broker.example.org"), enrolled=False
    ),
    "another incarnation": _refused(lambda user: _scope(user, incarnation=9)),
    "a nonce that was used": _refused(lambda user: _scope(user, nonce=0)),
    "a nonce ahead": _refused(lambda user: _scope(user, nonce=9)),
    "a deadline that has passed": _refused(lambda user: _scope(user, deadline=user.site.now - 5)),
    "a deadline more than an hour ahead": _refused(lambda user: _scope(user, deadline=user.site.now + 3700)),
    "K10 of a stranger": _refused(
        lambda user: user.signed(user.set_scope(user.agent().actor, grant=("cred:b",)), k10=DeviceKey.generate())
    ),
    "a scope without K11": _refused(lambda user: with_signatures(_scope(user), k11=())),
    "the scope of an actor that is none": _refused(
        lambda user: user.signed(user.set_scope(secrets.token_bytes(32), grant=("cred:b",)))
    ),
    "the scope of the master itself": _refused(
        lambda user: user.signed(user.set_scope(user.operator, grant=("cred:b",)))
    ),
    "an agent without its Pair": _refused(
        lambda user: with_signatures(user.adding(DeviceKey.generate(), ("cred:a",)), pair=None)
    ),
    "a Pair that another device signed": _refused(
        lambda user: user.adding(agent := DeviceKey.generate(), pair=_forged_pair(user, agent))
    ),
    "a Pair for another operator": _refused(
        lambda user: user.adding(agent := DeviceKey.generate(), pair=user.pair(agent, operator_omni=bytes(32)))
    ),
    "a Pair that has expired": _refused(
        lambda user: user.adding(agent := DeviceKey.generate(), pair=user.pair(agent, expires_at=user.site.now - 5))
    ),
    "a freeze with another freeze nonce": _refused(lambda user: user.freezing(freeze_nonce=1)),
    "an unfreeze of who is not frozen": _refused(lambda user: user.signed(user.unfreezing())),
}


def _forged_pair(user: Master, agent: DeviceKey) -> Any:
    pair = user.pair(agent)
    digest = pair.message.digest(user.site.domain)
    return type(pair)(message=pair.message, signature=DeviceKey.generate().sign_recoverable(digest))


for _title, _steps in NOT_AUTHORISED.items():
    add(Case(group=CHANGE, title=_title, steps=_steps, gives=Reason.CHANGE_NOT_AUTHORISED))


@case(
    CHANGE,
    "a software authenticator where the registry takes none",
    gives=Reason.CHANGE_NOT_AUTHORISED,
    needs="no_software_k11",
)
def software(site: Site) -> Callable[[], Any]:
    user = stranger(site)
    signed = user.enrolment(origin=SOFTWARE_ORIGIN)
    return lambda: user.apply(signed)


@case(CHANGE, "an agent's K10 where a master's is due", gives=Reason.CHANGE_NOT_AUTHORISED)
def agents_k10(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    signed = user.signed(user.set_scope(agent.actor, grant=("cred:b",)), k10=agent.k10)
    return lambda: user.apply(signed)


@case(CHANGE, "the K11 of another user", gives=Reason.CHANGE_NOT_AUTHORISED)
def foreign_k11(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    actor = user.agent("cred:a").actor
    user.k11 = other.k11
    signed = user.signed(user.set_scope(actor, grant=("cred:b",)))
    return lambda: user.apply(signed)


@case(CHANGE, "a K11 that approved another change", gives=Reason.CHANGE_NOT_AUTHORISED)
def other_approval(site: Site) -> Callable[[], Any]:
    user = master(site)
    actor = user.agent("cred:a").actor
    approved = user.signed(user.set_scope(actor, grant=("cred:b",)))
    wanted = user.signed(user.set_scope(actor, grant=("cred:c",)))
    signed = with_signatures(wanted, k11=approved.signatures.k11)
    return lambda: user.apply(signed)


@case(CHANGE, "a change made for another registry", gives=Reason.CHANGE_NOT_AUTHORISED)
def other_registry(site: Site) -> Callable[[], Any]:
    user = master(site)
    change = user.set_scope(user.agent("cred:a").actor, grant=("cred:b",))
    digest = change.digest(Domain.embedded("ab" * 32))
    signed = with_signatures(user.signed(change), k10=user.k10.sign_recoverable(digest))
    return lambda: user.apply(signed)


@case(CHANGE, "an identity, a wallet or a device that is taken")
def taken(site: Site) -> None:
    user = master(site)
    again = Master(site)
    again.wallet, again.operator, again.actor = user.wallet, user.operator, user.actor
    found = refusal_of(lambda: again.apply(again.enrolment()))
    equal(found and found.reason, Reason.ALREADY_BOUND.value, "another device for the same wallet")
    other = Master(site)
    other.k10 = user.k10
    found = refusal_of(lambda: other.apply(other.enrolment()))
    equal(found and found.reason, Reason.ALREADY_BOUND.value, "another wallet for the same device")


@case(CHANGE, "an agent's device that is taken", gives=Reason.ALREADY_BOUND)
def agent_taken(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    signed = user.adding(agent.k10, ("cred:a",), label="second")
    return lambda: user.apply(signed)


@case(CHANGE, "a revoked device is never registered again", gives=Reason.ALREADY_BOUND)
def never_again(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    user.changed(user.revocation(agent.k10.key_hash))
    signed = user.adding(agent.k10, ("cred:a",))
    return lambda: user.apply(signed)


@case(CHANGE, "a second device may serve the same actor")
def second_device(site: Site) -> None:
    user = master(site)
    one, two = user.agent("cred:a"), user.agent("cred:b")
    equal(one.actor, two.actor, "actor")
    (scope,) = [found for found in state(site, user).scopes if found.actor_omni == one.actor]
    equal(list(scope.services), ["cred:a", "cred:b"], "scope")


@case(CHANGE, "a device that is revoked already", gives=Reason.DEVICE_REVOKED)
def revoked_twice(site: Site) -> Callable[[], Any]:
    user = master(site)
    agent = user.agent("cred:a")
    user.changed(user.revocation(agent.k10.key_hash))
    signed = user.signed(user.revocation(agent.k10.key_hash))
    return lambda: user.apply(signed)


@case(CHANGE, "a device of another user", gives=Reason.DEVICE_UNKNOWN)
def not_mine(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    signed = user.signed(user.revocation(other.k10.key_hash))
    return lambda: user.apply(signed)


@case(CHANGE, "a new agent of a frozen user", gives=Reason.OPERATOR_FROZEN)
def frozen_agent(site: Site) -> Callable[[], Any]:
    user = master(site)
    user.apply(user.freezing())
    signed = user.adding(DeviceKey.generate(), ("cred:a",))
    return lambda: user.apply(signed)


@case(CHANGE, "a grant of a frozen user", gives=Reason.OPERATOR_FROZEN)
def frozen_grant(site: Site) -> Callable[[], Any]:
    user = master(site)
    actor = user.agent("cred:a").actor
    user.apply(user.freezing())
    signed = user.signed(user.set_scope(actor, grant=("cred:b",)))
    return lambda: user.apply(signed)


def _bytes(change: Callable[[Master, dict[str, Any]], object]) -> Steps:
    """A scope change whose JSON `change` bends after it was signed."""

    def steps(site: Site) -> Callable[[], Any]:
        user = master(site)
        document = json.loads(_scope(user).encode())
        bent = change(user, document)
        data = bent if isinstance(bent, bytes) else canonical_json(document)
        return lambda: apply(site, data)

    return steps


def _set(path: str, value: object) -> Callable[[Master, dict[str, Any]], object]:
    *parents, name = path.split(".")

    def bend(_user: Master, document: dict[str, Any]) -> None:
        for parent in parents:
            document = document[parent]
        document[name] = value

    return bend


MALFORMED: dict[str, tuple[Reason, Callable[[Master, dict[str, Any]], object]]] = {
    "not JSON": (Reason.INVALID_CHANGE, lambda _, document: b"{"),
    "nothing at all": (Reason.INVALID_CHANGE, lambda _, document: b""),
    "over 64 KiB": (Reason.TOO_LARGE, lambda _, document: b" " * (64 * 1024 + 1)),
    "an unknown name": (Reason.UNKNOWN_FIELDS, _set("also", 1)),
    "an unknown name in the message": (Reason.UNKNOWN_FIELDS, _set("change.message.also", 1)),
    "an unknown signature": (Reason.UNKNOWN_FIELDS, _set("signatures.k12", "")),
    "a type that nobody knows": (Reason.INVALID_CHANGE, _set("change.type", "Destroy")),
    "a Pair as a change": (Reason.INVALID_CHANGE, _set("change.type", "Pair")),
    "a message of another type": (Reason.UNKNOWN_FIELDS, _set("change.type", "Unfreeze")),
    "an omni without 0x": (Reason.INVALID_CHANGE, _set("change.message.operatorOmni", "ab" * 32)),
    "a nonce as text": (Reason.INVALID_CHANGE, _set("change.message.nonce", "1")),
    "a negative nonce": (Reason.INVALID_CHANGE, _set("change.message.nonce", -1)),
    "a signature of 64 bytes": (Reason.INVALID_CHANGE, _set("signatures.k10", "A" * 86)),
    "a service that is none": (Reason.INVALID_CHANGE, _set("change.message.grant", ["cred:Open"])),
    "a service named twice": (Reason.INVALID_CHANGE, _set("change.message.grant", ["cred:a", "cred:a"])),
    "a reserved service": (Reason.INVALID_CHANGE, _set("change.message.grant", ["cred:list"])),
    "a grant of the audit": (Reason.INVALID_CHANGE, _set("change.message.grant", ["audit:tree"])),
    "nothing to grant and nothing to withdraw": (Reason.INVALID_CHANGE, _set("change.message.grant", [])),
    "a wallet's signature where none is due": (Reason.INVALID_CHANGE, _set("signatures.wallet", "A" * 87)),
}
for _title, (_reason, _bend) in MALFORMED.items():
    add(Case(group=CHANGE, title=_title, steps=_bytes(_bend), gives=_reason))


@case(CHANGE, "an actor that is not that of its label", gives=Reason.INVALID_CHANGE)
def other_actor(site: Site) -> Callable[[], Any]:
    user = master(site)
    document = json.loads(user.adding(DeviceKey.generate(), ("cred:a",)).encode())
    document["change"]["message"]["label"] = "other"
    return lambda: apply(site, canonical_json(document))


@case(CHANGE, "an operator that is not that of its wallet", gives=Reason.INVALID_CHANGE)
def other_wallet(site: Site) -> Callable[[], Any]:
    document = json.loads(stranger(site).enrolment().encode())
    document["change"]["message"]["wallet"] = "0x" + "ab" * 20
    return lambda: apply(site, canonical_json(document))
