"""Whoever names a victim without its key, or repeats what it once signed, uses up nothing of the victim's."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.proof import k10_digest
from signer.limits import Rate
from tests.unit.core.refusal import refused
from tests.unit.signer.world import World, world_in

NAME = "cred:openrouter"
TOKENS = 6


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path, device=Rate(per_s=1e-6, burst=TOKENS)) as made:
        yield made


def _forged_signature(world: World) -> bytes:
    request = world.request(Op.CRED_FETCH, NAME)
    return world.signed(request, device_signature=DeviceKey.generate().sign(k10_digest("cap", request.raw)))


def _own_key(world: World) -> bytes:
    thief = DeviceKey.generate()
    request = world.request(Op.CRED_FETCH, NAME)
    signature = thief.sign(k10_digest("cap", request.raw))
    return world.signed(request, device_public_key=thief.public_key, device_signature=signature)


def _own_broker_key(world: World) -> bytes:
    return world.signed(world.request(Op.CRED_FETCH, NAME), k1=ec.generate_private_key(ec.SECP256R1()))


def _of_the_past(world: World) -> bytes:
    now = int(world.clock.now())
    return world.cap(Op.CRED_FETCH, NAME, issued_at=now - 900, expires_at=now - 600)


def _for_another_place(world: World) -> bytes:
    return world.cap(Op.CRED_FETCH, NAME, aud="cd" * 32)


def _not_a_cap(world: World) -> bytes:
    return world.cap(Op.CRED_FETCH, NAME)[:-1]


JUNK: tuple[Callable[[World], bytes], ...] = (
    _forged_signature,
    _own_key,
    _own_broker_key,
    _of_the_past,
    _for_another_place,
    _not_a_cap,
)


@pytest.mark.parametrize("make", JUNK)
def test_junk_naming_a_victim_never_slows_the_victim(world: World, make: Callable[[World], bytes]) -> None:
    stored, _ = world.store()  # one of the tokens
    worker = world.caller(world.cap(Op.CRED_FETCH, NAME))
    for _ in range(10 * TOKENS):
        with pytest.raises(KeyServiceError) as caught:
            world.service.derive_cred_kek(worker, make(world), epoch=1, salt=stored.salt)
        assert caught.value.reason != "rate_limited"
    for _ in range(TOKENS - 1):
        world.fetch(stored)
    with refused("rate_limited"):
        world.fetch(stored)


def test_a_worker_that_repeats_a_request_does_not_lock_its_device_out(world: World) -> None:
    stored, _ = world.store()
    cap = world.cap(Op.CRED_FETCH, NAME)
    for _ in range(10 * TOKENS):
        world.read(cap, stored)
    for _ in range(TOKENS - 2):
        world.fetch(stored)
    with refused("rate_limited"):
        world.fetch(stored)
    world.read(cap, stored)


def test_one_devices_tokens_are_no_others(world: World) -> None:
    stored, _ = world.store()
    for _ in range(TOKENS - 1):
        world.fetch(stored)
    with refused("rate_limited"):
        world.fetch(stored)
    world.fetch(stored, key=world.user.agent)


def test_one_certificates_tokens_are_no_others(world: World) -> None:
    world.service = world.make_service(world.registry, certificate=Rate(per_s=1e-6, burst=3))
    asked = world.cap(Op.MEMORY_PUT, "memory:travel")
    for _ in range(3):
        with pytest.raises(KeyServiceError):
            world.service.derive_cred_kek(world.caller(asked), b"junk")
    with refused("rate_limited"):
        world.service.derive_cred_kek(world.caller(asked), b"junk")
    world.derive(world.cap(Op.CRED_STORE, NAME))
