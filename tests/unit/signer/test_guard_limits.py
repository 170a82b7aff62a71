"""What a call may cost before it is served: who waits for whose message, what is charged to whom, how long it may be."""

from typing import Any

import pytest

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.errors import Reason
from signer.rpc.permissions import PERMISSIONS, REGISTRY, SIGNER, SLOW
from signer.rpc.unknown import parser
from tests.unit.signer.test_guard import BROKER, DAEMON, VERIFY, WORKER, AbortedError, Context, Details, World, events


@pytest.fixture
def world() -> Any:
    return World()


def test_who_calls_is_decided_before_a_message_is_awaited(world: Any) -> None:
    def waited_for() -> bytes:
        raise AssertionError("it was waited for")

    behaviour = world.guard.unary(VERIFY, parser(signer_pb2.VerifyK10SigRequest), lambda *_: None)
    with pytest.raises(AbortedError) as caught:
        behaviour(iter(waited_for, b""), Context(DAEMON))
    assert caught.value.reason is Reason.ROLE_NOT_ALLOWED


def test_a_call_without_a_message_has_a_reason(world: Any) -> None:
    behaviour = world.guard.unary(VERIFY, parser(signer_pb2.VerifyK10SigRequest), lambda *_: None)
    with pytest.raises(AbortedError) as caught:
        behaviour(iter([]), Context(BROKER))
    assert caught.value.reason is Reason.INVALID_ENCODING


@pytest.mark.parametrize("gone", [{"active": False}, {"remaining": 0.0}, {"remaining": -1.0}])
def test_what_nobody_waits_for_is_not_begun(world: Any, gone: Any) -> None:
    context = Context(BROKER)
    vars(context).update(gone)
    with pytest.raises(AssertionError):  # gRPC has ended such a call; there is no answer to give
        world.call(context)
    assert (world.seen, world.refusals, context.active) == ([], [], False)


def test_calls_that_never_reach_the_service_are_charged_here(world: Any) -> None:
    """The service charges its own, item by item; registry, health and unknown names are charged to the certificate."""
    caller = world.callers.identify(Context(BROKER).auth)
    world.call(Context(BROKER))
    assert world.charged == []
    world.call(Context(BROKER), path=f"/{REGISTRY}/GetStatus")
    next(world.watch(Context(BROKER), events(1)))
    with pytest.raises(AbortedError):
        world.guard.unknown_methods().service(Details("/x.Y/Z")).stream_unary(iter([b""]), Context(BROKER))
    assert world.charged == [caller.fingerprint] * 3
    assert world.reason(Context(DAEMON)) is Reason.ROLE_NOT_ALLOWED
    assert len(world.charged) == 4


def test_envelopes_alone_may_be_longer(world: Any) -> None:
    world = World(max_request=8, max_envelope_request=16)
    data = b"\x0a\x09" + bytes(9)
    assert world.reason(Context(BROKER), data=data) is Reason.TOO_LARGE
    with pytest.raises(AbortedError) as caught:
        world.call(Context(WORKER), data=b"\x0a\x10" + bytes(16), path=f"/{SIGNER}/Rewrap")
    assert caught.value.reason is Reason.TOO_LARGE
    world.call(Context(WORKER), data=data, path=f"/{SIGNER}/Rewrap")


def test_calls_that_wait_for_other_servers_have_threads_of_their_own(world: Any) -> None:
    class Whole:
        def __getattr__(self, name: Any) -> Any:
            return lambda *_: None

    generic = world.guard.service(signer_pb2.DESCRIPTOR.services_by_name["Signer"], Whole())
    slow = {
        path
        for path in PERMISSIONS
        if path.startswith(f"/{SIGNER}/")
        and hasattr(generic.service(Details(path)).stream_unary, "experimental_thread_pool")
    }
    assert slow == SLOW
    assert generic.service(Details(f"/{SIGNER}/StsCredentials")).stream_unary.experimental_thread_pool is world.slow
