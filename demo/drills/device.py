"""A device key stolen, or a device that oversteps: what it reaches ends at its own actor, scope and registration."""

import time

from agentkeys_core.bodies import StoreBody
from agentkeys_core.changes import AddAgent, SetScope
from agentkeys_core.ids import child_omni
from agentkeys_core.k11 import cap_challenge
from agentkeys_core.ops import Op
from agentkeys_core.registry import OperatorState
from demo.attacker import Who, attempt, compose, genuine, present, present_forged
from demo.drills.drill import Drill, Group
from demo.forgery import Thief
from demo.world import GRANTED, WITHHELD, World
from device import agents, credentials
from device.change_desk import apply_change

_SERVICE = f"cred:{GRANTED}"
_REVOCATION_S = 1.0


def _outside_scope(world: World) -> str:
    return present_forged(
        world.stack, compose(world.stack, world.agent.key, world.agent.who, Op.CRED_FETCH, f"cred:{WITHHELD}")
    )


def _agent_stores(world: World) -> str:
    body = StoreBody(blind=bytes(32), expect=None, value=b"planted").encode()
    return present_forged(
        world.stack, compose(world.stack, world.agent.key, world.agent.who, Op.CRED_STORE, _SERVICE, body)
    )


def _another_operator(world: World) -> str:
    return present_forged(world.stack, compose(world.stack, world.agent.key, world.bob.who, Op.CRED_FETCH, _SERVICE))


def _another_actor(world: World) -> str:
    who = Who(operator=world.alice.who.operator, actor=world.alice.who.actor)
    return present_forged(world.stack, compose(world.stack, world.agent.key, who, Op.CRED_FETCH, f"cred:{WITHHELD}"))


def _foreign_pair(world: World) -> str:
    """Bob signs with all his keys, and the Pair is genuine; it just names Alice."""
    thief, bob = Thief(), world.bob.who.operator
    pair = thief.paired(world.stack, world.alice.who.operator)

    def build(state: OperatorState, deadline: int) -> AddAgent:
        return AddAgent(
            operator_omni=bob,
            actor_omni=child_omni(bob, "captive", 0),
            label="captive",
            generation=0,
            device=thief.k10.address,
            services=(_SERVICE,),
            incarnation=state.incarnation,
            nonce=state.nonce,
            deadline=deadline,
        )

    with world.bob.opened() as device:
        return attempt(lambda: apply_change(device, build, k11=True, pair=pair))


def _expired(world: World) -> str:
    forged = compose(world.stack, world.agent.key, world.agent.who, Op.CRED_FETCH, _SERVICE, age_s=361)
    return present_forged(world.stack, forged)


def _revoked(world: World) -> str:
    spare = world.spare_agent()
    captured = genuine(spare, Op.CRED_FETCH, _SERVICE)
    with world.alice.opened() as device:
        agents.revoke_device(device, spare.key.key_hash)
    revoked_at = time.monotonic()
    while (got := present(world.stack, captured)) != "device_revoked":
        if time.monotonic() - revoked_at > _REVOCATION_S:
            break
    return got


def _master_without_k11(world: World) -> str:
    return present_forged(world.stack, compose(world.stack, world.alice.key, world.alice.who, Op.CRED_FETCH, _SERVICE))


def _master_overwrites(world: World) -> str:
    with world.alice.opened() as device:
        current = dict(credentials.listed(device)).get(GRANTED)
    body = StoreBody(blind=bytes(32), expect=current, value=b"planted").encode()
    return present_forged(
        world.stack, compose(world.stack, world.alice.key, world.alice.who, Op.CRED_STORE, _SERVICE, body)
    )


def _master_with_foreign_k11(world: World) -> str:
    thief = Thief()
    forged = compose(
        world.stack,
        world.alice.key,
        world.alice.who,
        Op.CRED_FETCH,
        _SERVICE,
        approve=lambda request: thief.touch(cap_challenge(request.digest), credential_id=b"thief"),
    )
    return present_forged(world.stack, forged)


def _master_widens_scope(world: World) -> str:
    with world.alice.opened() as device:
        actor = world.agent.who.actor

        def build(state: OperatorState, deadline: int) -> SetScope:
            return SetScope(
                operator_omni=state.operator_omni,
                actor_omni=actor,
                grant=(f"cred:{WITHHELD}",),
                revoke=(),
                incarnation=state.incarnation,
                nonce=state.nonce,
                deadline=deadline,
            )

        return attempt(lambda: apply_change(device, build, k11=False))


def _another_user(world: World) -> str:
    with world.bob.opened() as device:
        # Bob's vault has no such name; there is no way for him to say "Alice's".
        return attempt(lambda: credentials.get(device, WITHHELD))


GROUP = Group(
    title="device keys stolen, devices that overstep",
    drills=(
        Drill(title="an agent's key, outside its scope", expected="service_not_in_scope", attempt=_outside_scope),
        Drill(title="an agent's key stores a credential", expected="device_role_missing", attempt=_agent_stores),
        Drill(
            title="an agent's cap naming another operator",
            expected="actor_binding_mismatch",
            attempt=_another_operator,
        ),
        Drill(
            title="an agent's cap naming its master's actor",
            expected="actor_binding_mismatch",
            attempt=_another_actor,
        ),
        Drill(
            title="Bob adds an agent's key whose Pair names Alice",
            expected="change_not_authorised",
            attempt=_foreign_pair,
        ),
        Drill(title="another user asks for the same name", expected="object_not_found", attempt=_another_user),
        Drill(title="an expired cap", expected="cap_expired", attempt=_expired),
        Drill(
            title="a device revoked a second ago, with a cap co-signed before",
            expected="device_revoked",
            attempt=_revoked,
        ),
        Drill(title="a master's K10 without its K11: read", expected="k11_required", attempt=_master_without_k11),
        Drill(title="a master's K10 without its K11: overwrite", expected="k11_required", attempt=_master_overwrites),
        Drill(
            title="a master's K10 with somebody else's K11: read",
            expected="k11_invalid",
            attempt=_master_with_foreign_k11,
        ),
        Drill(
            title="a master's K10 without its K11: widen an agent's scope",
            expected="change_not_authorised",
            attempt=_master_widens_scope,
        ),
    ),
)
