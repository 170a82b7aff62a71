"""Registry changes about masters that must be refused."""

from collections.abc import Callable, Sequence
from typing import Any

from agentkeys_core import ids
from agentkeys_core.changes import (
    Change,
    SetRoles,
    SetThreshold,
    SignedChange,
)
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from tests.conformance.cases import Case, Steps, add, case, equal
from tests.conformance.groups.masters import Second, adding, approved, rotation, three, torn, two
from tests.conformance.groups.registry import CHANGE
from tests.conformance.people import Device, Master, master, with_signatures
from tests.conformance.site import Site
from tests.unit.core.material import SoftwareK11


def _refused(make: Callable[[Site], tuple[Master, SignedChange]]) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        user, signed = make(site)
        return lambda: user.apply(signed)

    return steps


def _alone(bend: Callable[[Master, Second], SignedChange]) -> Steps:
    """A change about a further master who is not in yet."""

    def make(site: Site) -> tuple[Master, SignedChange]:
        user = master(site)
        return user, bend(user, Second(user))

    return _refused(make)


def _pair(bend: Callable[[Master, Second], SignedChange]) -> Steps:
    """A change of a user with two masters."""

    def make(site: Site) -> tuple[Master, SignedChange]:
        user, second = two(site)
        return user, bend(user, second)

    return _refused(make)


def _set(user: Master, key_hash: bytes, roles: int) -> SetRoles:
    return SetRoles(operator_omni=user.operator, device_key_hash=key_hash, roles=roles, **user.header())


def _most(user: Master, most: int) -> SetThreshold:
    return SetThreshold(operator_omni=user.operator, threshold=most, **user.header())


def _stranger(user: Master, change: Change, touched: Sequence[Device]) -> SignedChange:
    return with_signatures(
        approved(change, user, *touched), k10=DeviceKey.generate().sign_recoverable(change.digest(user.site.domain))
    )


NOT_AUTHORISED: dict[str, Steps] = {
    "a further master without its Pair": _alone(lambda u, s: with_signatures(adding(u, s), pair=None)),
    "a further master whose K10 has not signed": _alone(lambda u, s: with_signatures(adding(u, s), new_device=None)),
    "a further master whose K11 has not signed": _alone(
        lambda u, s: with_signatures(signed := adding(u, s), k11=signed.signatures.k11[:1])
    ),
    "a further master that nobody approves": _alone(
        lambda u, s: with_signatures(signed := adding(u, s), k11=signed.signatures.k11[1:])
    ),
    "a further master from another origin": _alone(
        lambda u, s: adding(u, _moved(s, "https://broker.example.org"), origin="https://broker.example.org")
    ),
    "a further master with a nonce that was used": _alone(lambda u, s: adding(u, s, nonce=0)),
    "roles that a stranger signs": _pair(lambda u, s: _stranger(u, _set(u, s.k10.key_hash, 1), [u])),
    "roles that leave no master with all of them": _refused(
        lambda site: (user := master(site), approved(_set(user, user.k10.key_hash, 3), user, user))
    ),
    "a threshold above what the masters can reach": _refused(
        lambda site: (user := master(site), approved(_most(user, 2), user, user))
    ),
    "a threshold that would need every master": _pair(lambda u, s: approved(_most(u, 2), u, u)),
    "the last master's end": _refused(
        lambda site: (user := master(site), user.signed(user.revocation(user.k10.key_hash)))
    ),
    "a master that votes for its own end": _pair(lambda u, s: approved(u.revocation(u.k10.key_hash), u, u)),
    "a new K10 that has not signed": _refused(
        lambda site: (
            user := master(site),
            with_signatures(rotation(user, DeviceKey.generate(), user.k10), new_device=None),
        )
    ),
    "a new K10 without K11": _refused(
        lambda site: (user := master(site), with_signatures(rotation(user, DeviceKey.generate(), user.k10), k11=()))
    ),
    "a new K10 that a third key asks for": _refused(
        lambda site: (user := master(site), rotation(user, DeviceKey.generate(), DeviceKey.generate()))
    ),
    "a teardown without K11": _refused(
        lambda site: (user := master(site), with_signatures(torn(user, user.operator, 1), k11=()))
    ),
    "a teardown of another user's actor": _refused(
        lambda site: (user := master(site), torn(user, master(site).operator, 1))
    ),
    "a teardown of credentials that an agent would own": _refused(
        lambda site: (user := master(site), torn(user, user.agent("cred:a").actor, 1, nonce=user.nonce))
    ),
}


def _moved(second: Second, origin: str) -> Second:
    second.k11 = SoftwareK11(second.k11.credential_id, origin)
    return second


for _title, _steps in NOT_AUTHORISED.items():
    add(Case(group=CHANGE, title=_title, steps=_steps, gives=Reason.CHANGE_NOT_AUTHORISED))


@case(CHANGE, "one K11 against a threshold of two", gives=Reason.CHANGE_NOT_AUTHORISED)
def one_against_two(site: Site) -> Callable[[], Any]:
    user, second, third = three(site)
    signed = approved(user.revocation(third.k10.key_hash), user, user)
    equal(second.is_master, True, "a bystander")
    return lambda: user.apply(signed)


@case(CHANGE, "the same K11 twice against a threshold of two", gives=Reason.CHANGE_NOT_AUTHORISED)
def twice_against_two(site: Site) -> Callable[[], Any]:
    user, _, third = three(site)
    signed = approved(user.revocation(third.k10.key_hash), user, user, user)
    return lambda: user.apply(signed)


@case(CHANGE, "a device that is a master's already", gives=Reason.ALREADY_BOUND)
def device_taken(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    second = Second(user)
    second.k10 = other.k10
    signed = adding(user, second)
    return lambda: user.apply(signed)


@case(CHANGE, "a K11 that another device of the user has", gives=Reason.ALREADY_BOUND)
def k11_taken(site: Site) -> Callable[[], Any]:
    user = master(site)
    second = Second(user)
    second.k11 = user.k11
    signed = adding(user, second)
    return lambda: user.apply(signed)


@case(CHANGE, "a new K10 that is registered", gives=Reason.ALREADY_BOUND)
def new_key_taken(site: Site) -> Callable[[], Any]:
    user, other = master(site), master(site)
    signed = rotation(user, other.k10, user.k10)
    return lambda: user.apply(signed)


def _frozen(make: Callable[[Master, Second], SignedChange]) -> Steps:
    def steps(site: Site) -> Callable[[], Any]:
        user, second = two(site)
        user.apply(user.freezing())
        signed = make(user, second)
        return lambda: user.apply(signed)

    return steps


for _title, _make in {
    "a further master of a frozen user": lambda u, s: adding(u, Second(u)),
    "new roles of a frozen user": lambda u, s: approved(_set(u, s.k10.key_hash, 1), u, u),
    "a new K10 of a frozen user": lambda u, s: rotation(u, DeviceKey.generate(), u.k10),
    "a teardown of a frozen user": lambda u, s: torn(u, u.operator, 1),
}.items():
    add(Case(group=CHANGE, title=_title, steps=_frozen(_make), gives=Reason.OPERATOR_FROZEN))


def _malformed(make: Callable[[Master, Second], SignedChange]) -> Steps:
    return _pair(make)


for _title, _make in {
    "roles 0": lambda u, s: approved(_set(u, s.k10.key_hash, 0), u, u),
    "roles 8": lambda u, s: approved(_set(u, s.k10.key_hash, 8), u, u),
    "a threshold of 0": lambda u, s: approved(_most(u, 0), u, u),
    "a teardown of no class": lambda u, s: torn(u, u.operator, 0),
    "a teardown of a class that is none": lambda u, s: torn(u, u.operator, 4),
}.items():
    add(Case(group=CHANGE, title=_title, steps=_malformed(_make), gives=Reason.INVALID_CHANGE))


@case(CHANGE, "the generation of an agent is part of who it is")
def generations(site: Site) -> None:
    user = master(site)
    first = user.agent("cred:a", label="worker")
    equal(first.actor, ids.child_omni(user.operator, "worker", 0), "actor")
