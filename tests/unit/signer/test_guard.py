import logging
from datetime import timedelta
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.errors import KeyServiceError, Reason
from signer.gate import Gate
from signer.rpc.callers import Callers, name_of
from signer.rpc.guard import CallContext, Guard, GuardLimits
from signer.rpc.open_calls import OpenCalls
from signer.rpc.permissions import HEALTH, REGISTRY, SIGNER
from signer.rpc.pools import CountingPool, ElasticPool
from signer.rpc.unknown import parser
from tests.fakes.clock import StillClock
from tests.unit.runtime.certificates import NOW, TRUST_DOMAIN, Issuer, pem, uri

VERIFY = f"/{SIGNER}/VerifyK10Sig"
ISSUER = Issuer()
BROKER = pem(ISSUER.leaf())
WORKER = pem(ISSUER.leaf(names=(uri("worker/credentials/main"),)))
DAEMON = pem(ISSUER.leaf(names=(uri("daemon/laptop"),)))


class AbortedError(Exception):
    def __init__(self, status: Any) -> None:
        self.status = Status.FromString(status.trailing_metadata[0][1])
        info = ErrorInfo()
        self.status.details[0].Unpack(info)
        self.reason = Reason(info.reason)


class Context:
    def __init__(self, *certificates: Any, tls: Any = b"TLSv1.3") -> None:
        self.callbacks: list[Any] = []
        self.auth = {"x509_pem_cert": list(certificates), "ssl_tls_version": [tls]}

    def auth_context(self) -> Any:
        return self.auth

    def abort_with_status(self, status: Any) -> None:
        raise AbortedError(status)

    active = True
    remaining = 10.0

    def is_active(self) -> Any:
        return self.active

    def time_remaining(self) -> Any:
        return self.remaining

    def add_callback(self, callback: Any) -> Any:
        self.callbacks.append(callback)
        return self.active

    def cancel(self) -> None:
        self.active = False
        self.end()

    def end(self) -> None:
        while self.callbacks:
            self.callbacks.pop()()


class Revoked(set[tuple[str, int]]):
    def contains(self, issuer: Any, serial: Any) -> Any:
        return (issuer, serial) in self


class Refusals(list[tuple[str, str, Reason]]):
    def early(self, *, caller: Any, method: Any, reason: Any) -> None:
        self.append((caller, method, reason))


class Details:
    invocation_metadata: Any = ()

    def __init__(self, method: str) -> None:
        self.method = method


class World:
    def __init__(self, **limits: Any) -> None:
        self.clock = StillClock(NOW.timestamp())
        self.revoked, self.refusals, self.gate = Revoked(), Refusals(), Gate()
        self.calls, self.streams = ElasticPool(1, name="rpc"), CountingPool(1, name="stream")
        self.slow = CountingPool(1, name="slow")
        self.open_calls = OpenCalls(self.calls)
        self.charged: list[str] = []
        self.callers = Callers(trust_domain=TRUST_DOMAIN, revocations=self.revoked, clock=self.clock)
        self.guard = Guard(
            callers=self.callers,
            gate=self.gate,
            refusals=self.refusals,
            calls=self.calls,
            slow=self.slow,
            streams=self.streams,
            open_calls=self.open_calls,
            charge=self.charged.append,
            limits=GuardLimits(**limits),
        )
        self.seen: list[Any] = []

    def call(self, context: Any, *, path: Any = VERIFY, data: Any = b"", work: Any = None) -> Any:
        def answer(message: Any, call: Any) -> Any:
            self.seen.append((message, call.caller))
            return (work or (lambda: signer_pb2.VerifyK10SigResponse(valid=True)))()

        return self.guard.unary(path, parser(signer_pb2.VerifyK10SigRequest), answer)(iter([data]), context)

    def reason(self, context: Any, **options: Any) -> Any:
        with pytest.raises(AbortedError) as caught:
            self.call(context, **options)
        return caught.value.reason

    def watch(self, context: Any, answers: Any, *, path: Any = f"/{REGISTRY}/WatchChanges", data: Any = b"") -> Any:
        class Servicer:
            def WatchChanges(self, _request: Any, _context: Any) -> Any:
                yield from answers()

        handler = self.handlers(Servicer())["WatchChanges"]
        return handler.stream_stream(iter([data]), context)

    def handlers(self, servicer: Any) -> Any:
        class Whole:
            def __getattr__(self, name: Any) -> Any:
                return getattr(servicer, name, lambda *_: None)

        service = registry_pb2.DESCRIPTOR.services_by_name["Registry"]
        generic = self.guard.service(service, Whole())

        return {method.name: generic.service(Details(f"/{REGISTRY}/{method.name}")) for method in service.methods}


@pytest.fixture
def world() -> Any:
    return World()


def test_lets_an_allowed_caller_through(world: Any) -> None:
    answer = signer_pb2.VerifyK10SigResponse.FromString(world.call(Context(BROKER), data=b"\x0a\x01k"))
    assert answer.valid
    message, caller = world.seen[0]
    assert message.public_key == b"k"
    assert caller.spiffe_id == f"spiffe://{TRUST_DOMAIN}/broker/main"
    assert world.refusals == []


def test_refuses_a_role_without_a_row_and_counts_it_by_name(world: Any) -> None:
    assert world.reason(Context(DAEMON)) is Reason.ROLE_NOT_ALLOWED
    ((caller, method, reason),) = world.refusals
    assert caller.startswith(f"spiffe://{TRUST_DOMAIN}/daemon/laptop ")
    assert (method, reason) == ("VerifyK10Sig", Reason.ROLE_NOT_ALLOWED)
    assert world.seen == []


def test_names_that_nobody_serves_are_counted_as_one(world: Any) -> None:
    """Whoever calls chooses them: a line for each would fill the journal."""
    for path in (f"/{SIGNER}/Anything", "/a/b", "/" + "x" * 4000, f"/{SIGNER}/"):
        handler = world.guard.unknown_methods().service(Details(path))
        with pytest.raises(AbortedError):
            handler.stream_unary(iter([b""]), Context(DAEMON))
    assert {(method, reason) for _, method, reason in world.refusals} == {("not served", Reason.NOT_IMPLEMENTED)}


def test_a_worker_may_not_do_what_a_broker_may(world: Any) -> None:
    assert world.reason(Context(WORKER), path=f"/{SIGNER}/DeriveAddress") is Reason.ROLE_NOT_ALLOWED
    assert world.reason(Context(BROKER), path=f"/{SIGNER}/DeriveCredKek") is Reason.ROLE_NOT_ALLOWED


@pytest.mark.parametrize("context", [Context(), Context(BROKER, BROKER), Context(b"junk")])
def test_refuses_a_connection_without_one_certificate(world: Any, context: Any) -> None:
    assert world.reason(context) is Reason.CERTIFICATE_INVALID
    assert world.refusals[0][0].startswith("pem ")


@pytest.mark.parametrize("tls", [b"TLSv1.2", b"", b"TLSv1.3 "])
def test_refuses_another_tls_version(world: Any, tls: Any) -> None:
    assert world.reason(Context(BROKER, tls=tls)) is Reason.CERTIFICATE_INVALID


def test_refuses_a_connection_that_says_no_tls_version(world: Any) -> None:
    context = Context(BROKER)
    del context.auth["ssl_tls_version"]
    assert world.reason(context) is Reason.CERTIFICATE_INVALID


def test_a_certificate_may_expire_while_it_is_connected(world: Any) -> None:
    context = Context(BROKER)
    world.call(context)
    world.clock.forward(timedelta(hours=24).total_seconds() - 1)
    world.call(context)
    world.clock.forward(1)
    assert world.reason(context) is Reason.CERTIFICATE_INVALID


def test_a_certificate_may_be_revoked_while_it_is_connected(world: Any) -> None:
    context = Context(BROKER)
    world.call(context)
    caller = world.seen[0][1]
    world.revoked.add((caller.issuer, caller.serial))
    assert world.reason(context) is Reason.CERTIFICATE_REVOKED
    assert world.refusals[0][0] == f"{caller.spiffe_id} {caller.fingerprint}"


def test_callers_are_known_by_their_certificate_bytes(world: Any) -> None:
    first, second = world.callers.identify(Context(BROKER).auth), world.callers.identify(Context(WORKER).auth)
    assert (first.name, first.role.value, second.role.value) == ("main", "broker", "worker")
    assert world.callers.identify(Context(bytes(BROKER)).auth) is first


def test_the_cache_of_callers_is_bounded(world: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("signer.rpc.callers._CACHE_LIMIT", 2)
    for certificate in (BROKER, WORKER, DAEMON):
        world.callers.identify(Context(certificate).auth)
    assert len(world.callers._known) <= 2


def test_refuses_messages_that_are_too_large(world: Any) -> None:
    world = World(max_request=8)
    assert world.reason(Context(BROKER), data=b"\x0a\x07" + bytes(7)) is Reason.TOO_LARGE
    world.call(Context(BROKER), data=b"\x0a\x06" + bytes(6))


def test_refuses_bytes_that_are_no_message(world: Any) -> None:
    assert world.reason(Context(BROKER), data=b"\xff") is Reason.INVALID_ENCODING
    assert world.reason(Context(BROKER), data=b"\xfa\x3e\x01x") is Reason.UNKNOWN_FIELDS


def test_who_calls_is_decided_before_what_is_sent(world: Any) -> None:
    assert world.reason(Context(DAEMON), data=b"\xff") is Reason.ROLE_NOT_ALLOWED


def test_refuses_instead_of_queueing_without_end(world: Any) -> None:
    world.calls.in_flight = GuardLimits().max_in_flight
    world.call(Context(BROKER))
    world.calls.in_flight += 1
    for _ in range(20):
        assert world.reason(Context(BROKER)) is Reason.OVERLOADED
    world.call(Context(WORKER))  # who asks for little is served
    assert world.reason(Context(BROKER)) is Reason.OVERLOADED


def test_serves_nothing_while_the_gate_is_shut(world: Any) -> None:
    world.gate.seal()
    assert world.reason(Context(BROKER)) is Reason.SEALED
    assert world.reason(Context(DAEMON)) is Reason.ROLE_NOT_ALLOWED
    world.call(Context(BROKER), path=f"/{HEALTH}/Check")


def test_a_refusal_of_the_method_is_the_methods_own_to_record(world: Any) -> None:
    def refuse() -> None:
        raise KeyServiceError(Reason.CAP_EXPIRED, "late", metadata={"server_time": "1"})

    assert world.reason(Context(BROKER), work=refuse) is Reason.CAP_EXPIRED
    assert world.refusals == []


def test_what_breaks_is_internal_and_says_nothing(world: Any, caplog: Any) -> None:
    def fail() -> None:
        raise ValueError("a credential")

    with caplog.at_level(logging.INFO), pytest.raises(AbortedError) as caught:
        world.call(Context(BROKER), work=fail)
    assert caught.value.reason is Reason.INTERNAL
    assert "a credential" not in str(caught.value.status)
    assert all("a credential" not in record.getMessage() for record in caplog.records)


def test_served_calls_are_logged_on_request_only(world: Any, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG, logger="agentkeys.signer.rpc"):
        world.call(Context(BROKER))
    assert [record.getMessage() for record in caplog.records] == ["served"]


def test_unknown_methods_are_refused_by_reason_and_counted(world: Any) -> None:
    handler: Any = world.guard.unknown_methods().service(Details("/some.Service/Method"))
    for certificate, expected in ((BROKER, Reason.NOT_IMPLEMENTED), (b"junk", Reason.CERTIFICATE_INVALID)):
        with pytest.raises(AbortedError) as caught:
            handler.stream_unary(iter([b""]), Context(certificate))
        assert caught.value.reason is expected
    assert len(world.refusals) == 2


def test_a_method_with_a_row_that_is_switched_off_is_refused_like_an_unknown_one(world: Any) -> None:
    handler: Any = world.guard.unknown_methods().service(Details(f"/{HEALTH}/Check"))
    with pytest.raises(AbortedError) as caught:
        handler.stream_unary(iter([b""]), Context(BROKER))
    assert caught.value.reason is Reason.NOT_IMPLEMENTED


def events(count: Any) -> Any:
    return lambda: (registry_pb2.ChangeEvent(server_time=number) for number in range(count))


def test_streams_are_served_on_their_own_threads(world: Any) -> None:
    handler = world.handlers(object())["WatchChanges"]
    assert handler.stream_stream.experimental_thread_pool is world.streams
    assert not hasattr(world.handlers(object())["GetStatus"].stream_unary, "experimental_thread_pool")


@pytest.mark.parametrize("end", [Reason.CERTIFICATE_REVOKED, Reason.CERTIFICATE_INVALID])
def test_a_stream_ends_when_its_caller_is_revoked_or_expires(world: Any, end: Any) -> None:
    caller = world.callers.identify(Context(BROKER).auth)
    stream = world.watch(Context(BROKER), events(5))
    assert registry_pb2.ChangeEvent.FromString(next(stream)).server_time == 0
    if end is Reason.CERTIFICATE_REVOKED:
        world.revoked.add((caller.issuer, caller.serial))
    else:
        world.clock.forward(90_000)
    with pytest.raises(AbortedError) as caught:
        next(stream)
    assert caught.value.reason is end


def test_a_stream_ends_when_the_signer_is_sealed(world: Any) -> None:
    stream = world.watch(Context(BROKER), events(5))
    next(stream)
    world.gate.seal()
    with pytest.raises(AbortedError) as caught:
        next(stream)
    assert caught.value.reason is Reason.SEALED


@pytest.mark.parametrize("limits", [{"max_streams": 1}, {"max_streams_per_caller": 1}])
def test_streams_are_bounded_and_counted_down(limits: Any) -> None:
    world = World(**limits)
    first = world.watch(Context(BROKER), events(5))
    next(first)
    with pytest.raises(AbortedError) as caught:
        next(world.watch(Context(BROKER), events(5)))
    assert caught.value.reason is Reason.OVERLOADED
    if "max_streams_per_caller" in limits:
        next(world.watch(Context(WORKER), events(1)))
    first.close()
    next(world.watch(Context(BROKER), events(1)))


def test_a_stream_checks_its_request(world: Any) -> None:
    with pytest.raises(AbortedError) as caught:
        next(world.watch(Context(BROKER), events(1), data=b"\xfa\x3e\x01x"))
    assert caught.value.reason is Reason.UNKNOWN_FIELDS


def test_a_call_sees_grpcs_own_context(world: Any) -> None:
    grpc_context: Any = Context(BROKER)
    context = CallContext(grpc_context, world.callers.identify(Context(BROKER).auth), world.guard._room)
    assert context.is_active()
    assert name_of(None, Context(BROKER).auth) == name_of(None, Context(BROKER).auth) != name_of(None, Context().auth)


def test_pools_count_what_they_carry() -> None:
    pool = CountingPool(1, name="x")
    futures = [pool.submit(lambda: pool.in_flight) for _ in range(3)]
    assert all(1 <= future.result() <= 3 for future in futures)
    pool.shutdown()
    assert pool.in_flight == 0
    with pytest.raises(RuntimeError):
        pool.submit(print)
    assert pool.in_flight == 0
