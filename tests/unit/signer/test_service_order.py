"""The order of checks of design section 4: each request here fails its check and all later ones, so the first decides."""

import secrets
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.bodies import request_hash
from agentkeys_core.captoken import Cap
from agentkeys_core.encoding import b64u_encode, canonical_json, parse_canonical
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.registry import Role
from signer.limits import Rate
from tests.unit.core.refusal import refused
from tests.unit.signer.world import CREDENTIALS, MEMORY, PLENTY, World, broker, digest_of, world_in

NAME = "cred:openrouter"


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


@pytest.fixture
def stored(world):
    return world.store()[0]


def fetch(world: World, cap: bytes, caller=CREDENTIALS, epoch: int = 1, salt: bytes = bytes(32)):
    return world.service.derive_cred_kek(caller, cap, epoch=epoch, salt=salt)


def bent(cap: bytes, **changed: object) -> bytes:
    members = parse_canonical(cap, limit=1 << 20, not_canonical=Reason.INVALID_CAP)
    assert isinstance(members, dict)
    return canonical_json({**members, **changed})


# Each step of the list breaks one check more, from the last to the first; the reason is always that of the newest.
STEPS = (
    ("version_not_current", lambda world, members: None),
    ("k11_required", lambda world, members: members.update(k11=None)),
    ("operator_frozen", lambda world, members: world.registry.bend_operator(world.user.operator, frozen=True)),
    (
        "device_role_missing",
        lambda world, members: world.registry.bend_device(world.user.master.key_hash, roles=Role.RECOVERY),
    ),
    (
        "actor_binding_mismatch",
        lambda world, members: world.registry.bend_device(world.user.master.key_hash, actor_omni=bytes(32)),
    ),
    ("device_revoked", lambda world, members: world.registry.bend_device(world.user.master.key_hash, revoked=True)),
    ("registry_stale", lambda world, members: setattr(world.registry, "_operators", _Failing())),
    ("device_signature_invalid", lambda world, members: members.update(device_signature=bytes(64))),
    ("broker_signature_invalid", lambda world, members: members.update(k1=ec.generate_private_key(ec.SECP256R1()))),
    ("stale_epoch", lambda world, members: world.registry.set_epoch(2)),
    ("cap_expired", lambda world, members: world.clock.forward(1000)),
    ("wrong_audience", lambda world, members: members.update(aud="other")),
    ("invalid_body", lambda world, members: members.update(body=b"{ }")),
)


class _Failing:
    def __getitem__(self, key):
        from agentkeys_core.errors import KeyServiceError

        raise KeyServiceError(Reason.REGISTRY_STALE)


@pytest.mark.parametrize("depth", range(len(STEPS)))
def test_the_first_failure_decides(world, depth):
    members: dict[str, Any] = {"k11": world.user.k11}
    start = world.clock.at
    for _, step in STEPS[: depth + 1]:
        step(world, members)
    moved, world.clock.at = world.clock.at, start
    request = world.request(
        Op.CRED_FETCH,
        NAME,
        aud=members.pop("aud", "ab" * 32),
        request_hash=request_hash(members.pop("body", b"{}")),
    )
    world.clock.at = moved
    cap = world.signed(request, **members)
    with refused(STEPS[depth][0]):
        fetch(world, cap)
    # The certificate's class comes before all of these.
    with refused("class_mismatch"):
        fetch(world, cap, MEMORY)
    assert world.count("rows") == 0


def test_scope_comes_before_k11_and_after_frozen(world, stored):
    cap = world.cap(Op.CRED_FETCH, "cred:other", key=world.user.agent)
    with refused("service_not_in_scope"):
        fetch(world, cap)
    world.registry.bend_operator(world.user.operator, frozen=True)
    with refused("operator_frozen"):
        fetch(world, cap)


def test_an_agent_uses_what_its_scope_grants_until_it_does_not(world, stored):
    cap = world.cap(Op.CRED_FETCH, NAME, key=world.user.agent)
    assert world.read(cap, stored).key == stored.key
    world.registry.bend_operator(world.user.operator, scopes={})
    with refused("service_not_in_scope"):
        world.read(cap, stored)


@pytest.mark.parametrize("op", [Op.CRED_STORE, Op.CRED_DELETE])
def test_agents_neither_store_nor_delete(world, op):
    cap = world.cap(op, NAME, key=world.user.agent, touch=True)
    with refused("device_role_missing"):
        world.derive(cap) if op is Op.CRED_STORE else world.ack(cap)


def test_the_registry_must_know_the_device(world):
    stranger = DeviceKey.generate()
    with refused("device_unknown"):
        fetch(world, world.cap(Op.CRED_FETCH, NAME, key=stranger, touch=True))


def test_an_unreachable_registry_releases_nothing(world, stored):
    world.registry.failing = Reason.REGISTRY_UNREACHABLE
    with refused("registry_unreachable"):
        world.fetch(stored)


def test_a_device_cannot_act_for_another_operator_or_actor(world, stored):
    with refused("actor_binding_mismatch"):
        fetch(world, world.cap(Op.CRED_FETCH, NAME, key=world.user.agent, operator_omni=bytes(32)))
    with refused("actor_binding_mismatch"):
        fetch(world, world.cap(Op.CRED_FETCH, NAME, key=world.user.agent, actor_omni=world.user.operator))


def test_a_signature_by_another_key_than_the_named_device(world, stored):
    request = world.request(Op.CRED_FETCH, NAME, device=world.user.agent.key_hash)
    with refused("device_signature_invalid"):
        fetch(world, world.signed(request, key=world.user.master, k11=world.user.k11))


def test_a_request_swapped_under_its_signatures(world, stored):
    """Neither signature carries over to another request."""
    genuine = Cap.parse(world.cap(Op.CRED_FETCH, NAME, key=world.user.agent))
    other = world.request(Op.CRED_FETCH, "cred:other", key=world.user.agent)
    with refused("broker_signature_invalid"):
        fetch(world, replace(genuine, request=other).encode())
    with refused("device_signature_invalid"):
        fetch(world, world.signed(other, key=world.user.agent, device_signature=genuine.device_signature))


def test_an_unpinned_broker_key_cosigns_nothing(world, stored):
    with refused("broker_signature_invalid"):
        fetch(world, bent(world.cap(Op.CRED_FETCH, NAME), kid="other"))


@pytest.mark.parametrize(
    ("shift", "reason"),
    [(-61, "cap_not_yet_valid"), (-60, "ok"), (359, "ok"), (360, "cap_expired")],
)
def test_the_window_and_its_tolerance(world, stored, shift, reason):
    issued = int(world.clock.now()) - shift
    cap = world.cap(Op.CRED_FETCH, NAME, issued_at=issued, expires_at=issued + 300)
    with refused(reason):
        world.read(cap, stored)


@pytest.mark.parametrize(("epoch", "reason"), [(1, "stale_epoch"), (3, "future_epoch")])
def test_only_the_current_epoch(world, epoch, reason):
    world.registry.set_epoch(2)
    cap = world.cap(Op.CRED_FETCH, NAME, k3_epoch=epoch)
    with refused(reason):
        fetch(world, cap)


def test_an_epoch_that_advances_before_the_commit(world):
    """The registry still answered the old epoch when the cap was checked; the transaction knows better."""
    world.committer.run(lambda tx: tx.conn.execute("UPDATE meta SET value = 2 WHERE key = 'k3_epoch'"))
    with refused("stale_epoch"):
        world.derive(world.cap(Op.CRED_STORE, NAME))


def test_fetch_by_a_master_needs_a_touch_of_its_own_user(world, stored):
    cap = world.cap(Op.CRED_FETCH, NAME, touch=False)
    with refused("k11_required"):
        world.read(cap, stored)
    request = world.request(Op.CRED_FETCH, NAME)
    other = world.request(Op.CRED_FETCH, NAME)
    from agentkeys_core.k11 import cap_challenge

    with refused("k11_invalid"):
        world.read(world.signed(request, k11=_Recorded(world.user.k11, cap_challenge(other.digest))), stored)
    from tests.unit.core.material import SoftwareK11

    with refused("k11_invalid"):
        world.read(world.signed(request, k11=SoftwareK11(b"stranger")), stored)
    assert world.read(world.signed(request, k11=world.user.second_k11), stored).key == stored.key


class _Recorded:
    """A touch that was given to another request."""

    def __init__(self, k11, challenge):
        self._answer = k11.answer(challenge)

    def answer(self, _challenge):
        return self._answer


def test_a_touch_that_nobody_asked_for_is_checked_too(world, stored):
    request = world.request(Op.CRED_FETCH, NAME, key=world.user.agent)
    from tests.unit.core.material import SoftwareK11

    with refused("k11_invalid"):
        world.read(world.signed(request, key=world.user.agent, k11=SoftwareK11(b"stranger")), stored)
    world.registry.bend_device(world.user.second.key_hash, revoked=True)
    with refused("k11_invalid"):
        world.read(world.signed(request, key=world.user.agent, k11=world.user.second_k11), stored)


def test_a_clock_behind_serves_nothing(world, stored):
    world.clock.forward(200)
    world.settle()
    world.clock.forward(-100)
    with refused("clock_behind"):
        world.fetch(stored)
    with refused("clock_behind"):
        world.service.derive_address(broker(), bytes(32), 1)
    world.clock.forward(100)


def test_nothing_is_released_while_the_journal_is_locked(world, stored):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with refused("journal_unavailable"):
            world.fetch(stored)
        other.execute("ROLLBACK")
    assert world.fetch(stored).key == stored.key


@pytest.mark.parametrize(("waited", "reason"), [(0.4, "ok"), (0.6, "journal_unavailable")])
def test_what_waited_long_for_the_file_is_refused(world, stored, waited, reason):
    """A revocation that was committed meanwhile must hold within a second."""

    class Slow:
        check_clock, post = world.committer.check_clock, world.committer.post

        def run(self, unit):
            world.clock.forward(waited)
            return world.committer.run(unit)

    service = world.make_service(world.registry, journalist=Slow())
    cap = world.cap(Op.CRED_FETCH, NAME)
    with refused(reason):
        service.derive_cred_kek(CREDENTIALS, cap, epoch=1, salt=stored.salt)


def test_certificates_are_charged_first_and_devices_only_once_verified(tmp_path):
    with world_in(tmp_path, device=Rate(per_s=0.0001, burst=2)) as world:
        for _ in range(5):  # names the victim's device, but is not signed by it
            with refused("device_signature_invalid"):
                fetch(world, world.signed(world.request(Op.CRED_FETCH, NAME), device_signature=secrets.token_bytes(64)))
        released, _ = world.store()
        world.fetch(released)
        with refused("rate_limited"):
            world.fetch(released)
        assert world.fetch(released, key=world.user.agent).key == released.key
        slow = world.make_service(world.registry, certificate=Rate(per_s=0.0001, burst=1))
        slow.derive_address(broker(), bytes(32), 1)
        with refused("rate_limited"):
            slow.derive_address(broker(), b"", 1)  # also where the call itself is malformed
        with refused("invalid_omni"):
            slow.derive_address(CREDENTIALS, b"", 1)
    assert PLENTY.per_s > 1


def test_a_sealed_keyring_releases_nothing(tmp_path):
    world = World(tmp_path)
    stored, _ = world.store()
    rows = world.count("rows")
    world.keyring.seal()
    for call in (
        lambda: world.fetch(stored),
        lambda: world.derive(world.cap(Op.CRED_STORE, "cred:b")),
        world.names,
        world.audit,
        lambda: world.service.derive_address(broker(), bytes(32), 1),
    ):
        with refused("sealed"):
            call()
    assert world.count("rows") == rows
    world.close()


def test_keys_never_show(world, stored):
    assert stored.key.hex() not in repr(stored)
    assert repr(stored.key) not in repr(stored)
    assert stored.key not in world.path.read_bytes()
    wal = world.path.with_name(world.path.name + "-wal").read_bytes()
    assert stored.key not in wal
    assert b64u_encode(stored.key).encode() not in wal


def test_lines_name_the_cap_and_the_certificate(world, stored):
    cap = world.cap(Op.CRED_FETCH, NAME, key=world.user.agent)
    world.read(cap, stored)
    line = world.lines()[-1]
    assert (line["cap"], line["caller"]) == (digest_of(cap).hex(), CREDENTIALS.fingerprint)
    assert (line["method"], line["kind"], line["reason"]) == ("DeriveCredKek", "release", "")
