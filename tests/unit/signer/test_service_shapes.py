"""Size and shape: what is refused before anything about a request is believed."""

import pytest

from agentkeys_core.captoken import Cap
from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, parse_canonical
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op, Service
from tests.unit.core.refusal import refused
from tests.unit.signer.world import AUDIT, CREDENTIALS, MEMORY, World, broker, world_in

NAME = "cred:openrouter"


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


def fetch(world: World, cap: bytes, caller=CREDENTIALS, epoch: int = 1, salt: bytes = bytes(32)):
    return world.service.derive_cred_kek(caller, cap, epoch=epoch, salt=salt)


def bent(cap: bytes, **changed: object) -> bytes:
    members = parse_canonical(cap, limit=1 << 20, not_canonical=Reason.INVALID_CAP)
    assert isinstance(members, dict)
    return canonical_json({**members, **changed})


@pytest.mark.parametrize(
    ("op", "service", "caller"),
    [
        (Op.CRED_FETCH, NAME, MEMORY),
        (Op.CRED_FETCH, NAME, AUDIT),
        (Op.CRED_FETCH, NAME, broker()),
        (Op.MEMORY_GET, "memory:travel", CREDENTIALS),
        (Op.SIWE_SIGN, "siwe:example.org", CREDENTIALS),
    ],
)
def test_a_worker_asks_only_for_its_own_class(world, op, service, caller):
    cap = world.cap(op, service)
    with refused("class_mismatch"):
        fetch(world, cap, caller)
    with refused("class_mismatch"):
        world.service.sign_audit_row(caller, cap, 0)


@pytest.mark.parametrize(
    ("op", "service"), [(Op.CRED_LIST, "cred:list"), (Op.CRED_DELETE, NAME), (Op.AUDIT_LIST, "audit:own")]
)
def test_an_op_that_is_not_for_a_key(world, op, service):
    with refused("invalid_cap"):
        cap = world.cap(op, service, touch=True)
        fetch(world, cap, world.caller(cap))


def test_what_the_broker_may_ask_is_not_for_a_key_either(world):
    with refused("invalid_cap"):
        fetch(world, world.cap(Op.SIWE_SIGN, "siwe:example.org"), broker())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "non_canonical_cap"),
        (b"\xff", "invalid_encoding"),
        (b"[]", "invalid_cap"),
        (b"{}", "invalid_cap"),
        (b" {}", "non_canonical_cap"),
        (b"x" * 16385, "too_large"),
    ],
)
def test_bytes_that_are_no_cap(world, data, reason):
    with refused(reason):
        fetch(world, data)


def test_unknown_fields_and_loose_encodings(world):
    cap = world.cap(Op.CRED_FETCH, NAME)
    with refused("unknown_fields"):
        fetch(world, bent(cap, extra=1))
    with refused("invalid_encoding"):
        fetch(world, bent(cap, cosign="=="))
    request = parse_canonical(Cap.parse(cap).request.raw, limit=4096, not_canonical=Reason.INVALID_CAP)
    assert isinstance(request, dict)
    for changed, reason in (
        ({"ver": 3}, "unsupported_version"),
        ({"ver": True}, "invalid_cap"),
        ({"actor_omni": "AB" * 32}, "invalid_omni"),
        ({"expires_at": request["issued_at"] + 301}, "window_too_long"),
        ({"extra": 1}, "unknown_fields"),
    ):
        raw = canonical_json({**request, **changed})
        with refused(reason):
            fetch(world, bent(cap, request=b64u_encode(raw)))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"epoch": 0}, "invalid_encoding"),
        ({"salt": bytes(31)}, "invalid_encoding"),
        ({"salt": b""}, "invalid_encoding"),
        ({"expect": bytes(32)}, "invalid_body"),
    ],
)
def test_what_a_read_must_name(world, given, reason):
    cap = world.cap(Op.CRED_FETCH, NAME)
    with refused(reason):
        world.derive(cap, **{"epoch": 1, "salt": bytes(32), **given})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"epoch": 1}, "invalid_body"),
        ({"salt": bytes(32)}, "invalid_body"),
        ({"expect": bytes(31)}, "invalid_encoding"),
    ],
)
def test_what_a_store_must_not_name(world, given, reason):
    with refused(reason):
        world.derive(world.cap(Op.CRED_STORE, NAME), **given)


def test_services_are_named_as_the_op_demands(world):
    for op, service in ((Op.CRED_LIST, "cred:x"), (Op.CRED_FETCH, "memory:x"), (Op.CRED_STORE, "cred:list")):
        with refused("invalid_cap"):
            Service.parse(service, op)
    assert b64u_decode("AA") == b"\0"
