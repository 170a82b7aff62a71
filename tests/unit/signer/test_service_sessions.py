"""Cloud sessions: who may have one, for what, and that none leaves unrecorded."""

import orjson
import pytest

from agentkeys_core.audit import AuditRow, OpKind
from agentkeys_core.encoding import b64u_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op
from signer.limits import Rate
from signer.ports import StsSession
from tests.unit.core.refusal import refused
from tests.unit.signer.world import ARN, CREDENTIALS, MEMORY, World, digest_of, world_in

NAME = "cred:openrouter"


class Exchange:
    """An STS endpoint that notes what it was asked."""

    def __init__(self):
        self.calls: list[dict[str, str]] = []
        self.failing = False

    def assume_role(self, **asked):
        if self.failing:
            raise KeyServiceError(Reason.STS_UNREACHABLE)
        self.calls.append(asked)
        return StsSession(
            access_key_id="AKIA", secret_access_key="very-secret", session_token="very-token", expires_at=1
        )


@pytest.fixture
def exchange():
    return Exchange()


@pytest.fixture
def world(tmp_path, exchange):
    with world_in(tmp_path, exchange=exchange) as made:
        yield made


def session(world: World, cap: bytes, role: str = ARN, caller=CREDENTIALS):
    return world.service.sts_credentials(caller, cap, role)


def test_a_session_opens_that_object_for_that_verb_and_is_recorded(world, exchange):
    cap = world.cap(Op.CRED_FETCH, NAME, key=world.user.agent)
    released = session(world, cap)
    (asked,) = exchange.calls
    assert (asked["role_arn"], asked["session_name"]) == (ARN, digest_of(cap).hex())
    statement = orjson.loads(asked["policy"])["Statement"][0]
    assert statement["Action"] == ["s3:GetObject"]
    assert statement["Resource"] == [f"arn:aws:s3:::bucket/bots/{world.user.operator.hex()}/credentials/openrouter.enc"]
    header, claims, _ = (part for part in asked["token"].split("."))
    assert orjson.loads(b64u_decode(header))["kid"] == world.keyring.oidc_kid(1)
    assert orjson.loads(b64u_decode(claims))["sub"] == world.user.operator.hex()
    content = AuditRow.parse(released.row).verify(world.audit_keys())
    assert (content.op_kind, content.actor_omni) == (OpKind.CRED_FETCH, world.user.agent_actor)
    assert (content.op_body.cap, content.op_body.epoch, content.op_body.salt) == (digest_of(cap), None, None)
    assert world.lines()[-1]["method"] == "StsCredentials"
    assert released.session.session_token == "very-token"


def test_a_session_never_shows(world):
    released = session(world, world.cap(Op.CRED_STORE, NAME))
    assert "very" not in repr(released)
    assert b"very" not in world.path.with_name(world.path.name + "-wal").read_bytes()


@pytest.mark.parametrize("role", ["", "arn:aws:iam::000000000000:role/other", ARN + " "])
def test_only_roles_on_the_list(world, exchange, role):
    with refused("role_arn_not_allowed"):
        session(world, world.cap(Op.CRED_STORE, NAME), role)
    assert exchange.calls == []


def test_only_roles_of_the_callers_class(world):
    with refused("role_arn_not_allowed"):
        session(world, world.cap(Op.MEMORY_PUT, "memory:travel"), ARN, MEMORY)


def test_only_ops_that_open_an_object(world):
    with refused("invalid_cap"):
        session(world, world.cap(Op.CRED_LIST, "cred:list"))
    with refused("class_mismatch"):
        session(world, world.cap(Op.MEMORY_GET, "memory:travel"))
    with refused("invalid_body"):
        session(world, world.cap(Op.CRED_FETCH, NAME, request_hash=bytes(32)))


def test_a_session_needs_the_whole_order(world, exchange):
    with refused("k11_required"):
        session(world, world.cap(Op.CRED_FETCH, NAME, touch=False))
    world.registry.bend_operator(world.user.operator, frozen=True)
    with refused("operator_frozen"):
        session(world, world.cap(Op.CRED_STORE, NAME))
    assert exchange.calls == []


def test_a_once_cap_gives_one_session(world, exchange):
    cap = world.cap(Op.CRED_STORE, NAME)
    session(world, cap)
    with refused("cap_replayed"):
        session(world, cap)
    assert len(exchange.calls) == 1
    fetch = world.cap(Op.CRED_FETCH, NAME)
    session(world, fetch)
    session(world, fetch)


def test_a_session_is_burned_while_its_cap_could_be_valid(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    session(world, cap)
    for _ in range(6):
        world.clock.forward(59)
        for _ in range(3):
            world.settle()
        with refused("cap_replayed"):
            session(world, cap)


def test_session_and_key_of_one_store_are_burned_apart(world):
    for name, session_first in (("cred:a", True), ("cred:b", False)):
        cap = world.cap(Op.CRED_STORE, name)
        if session_first:
            session(world, cap)
        stored = world.derive(cap)
        if not session_first:
            session(world, cap)
        for again in (lambda cap=cap: session(world, cap), lambda cap=cap: world.derive(cap)):
            with refused("cap_replayed"):
                again()
        assert world.ack(cap) == stored.row


def test_a_session_alone_stores_nothing(world):
    cap = world.cap(Op.CRED_STORE, NAME)
    session(world, cap)
    with refused("invalid_body"):
        world.ack(cap, 0)
    assert AuditRow.parse(world.ack(cap, 1)).content().result == 1


def test_no_session_once_a_store_is_over(world):
    _, cap = world.store()
    with pytest.raises(KeyServiceError) as caught:
        session(world, cap)
    assert caught.value.reason == "cap_replayed"
    assert caught.value.row is not None


def test_overwriting_needs_a_touch_for_a_session_too(world):
    early = world.cap(Op.CRED_STORE, NAME)
    world.derive(early)
    world.store()
    with refused("k11_required"):
        session(world, early)
    with refused("k11_required"):
        session(world, world.cap(Op.CRED_STORE, NAME))


def test_a_session_for_a_delete_comes_before_or_after_its_row(world):
    world.store()
    cap = world.cap(Op.CRED_DELETE, NAME)
    session(world, cap)
    assert world.names().names != ()
    world.ack(cap)
    assert world.names().names == ()
    world.ack(cap)  # the object is gone
    later = world.cap(Op.CRED_DELETE, NAME)
    world.ack(later)
    session(world, later)


def test_a_device_revoked_during_the_exchange_gets_nothing(world, exchange):
    def revoke(**_asked):
        world.registry.bend_device(world.user.master.key_hash, revoked=True)
        return StsSession(access_key_id="A", secret_access_key="s", session_token="t", expires_at=1)

    exchange.assume_role = revoke
    with refused("device_revoked"):
        session(world, world.cap(Op.CRED_STORE, NAME))
    assert world.count("rows") == 0


def test_a_slow_endpoint_is_no_reason_to_refuse(world, exchange):
    answer = exchange.assume_role

    def slow(**asked):
        world.clock.forward(5)
        return answer(**asked)

    exchange.assume_role = slow
    session(world, world.cap(Op.CRED_STORE, NAME))


def test_one_session_is_charged_once(tmp_path, exchange):
    with world_in(tmp_path, exchange=exchange, device=Rate(per_s=0.0001, burst=2)) as world:
        for name in ("cred:one", "cred:two"):
            session(world, world.cap(Op.CRED_STORE, name))
        with refused("rate_limited"):
            session(world, world.cap(Op.CRED_STORE, NAME))


def test_an_unreachable_endpoint_leaves_the_cap_unused(world, exchange):
    cap = world.cap(Op.CRED_STORE, NAME)
    exchange.failing = True
    with refused("sts_unreachable"):
        session(world, cap)
    exchange.failing = False
    session(world, cap)


def test_no_session_leaves_unrecorded(world):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with refused("journal_unavailable"):
            session(world, world.cap(Op.CRED_STORE, NAME))
        other.execute("ROLLBACK")


def test_without_an_endpoint_there_are_no_sessions(tmp_path):
    with world_in(tmp_path) as world, refused("sts_unreachable"):
        session(world, world.cap(Op.CRED_STORE, NAME))
