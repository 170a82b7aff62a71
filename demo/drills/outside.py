"""Nothing was stolen: no certificate, a token alone, certificates of the wrong kind."""

import socket
import ssl
import time
from itertools import count

import grpc

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.encoding import canonical_json
from agentkeys_core.ops import Op
from agentkeys_runtime.grpc_errors import from_rpc_error
from agentkeys_runtime.mtls import client_channel
from demo.attacker import LET_THROUGH, as_caller, attempt, genuine, refusal, send
from demo.drills.drill import Drill, Group
from demo.process import program, run
from demo.stack import Stack
from demo.world import GRANTED, World

#: As long and as well-formed as the tokens that the old /dev/* edge believed.
_TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmVkIGJ5IHRoZSBicm9rZXI"  # noqa: S105 - opens nothing
_BEARER = ("authorization", f"Bearer {_TOKEN}")
_STREAMS = frozenset({"WatchChanges", "Watch", "ServerReflectionInfo"})
_EXTRA = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
_TIMEOUT_S = 5.0
_numbers = count(1)


def rpcs() -> tuple[str, ...]:
    """Every RPC that the signer's port serves, as full method names."""
    services = (*signer_pb2.DESCRIPTOR.services_by_name.values(), *registry_pb2.DESCRIPTOR.services_by_name.values())
    own = [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]
    return (*own, *_EXTRA)


def call(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> str:
    """Call an RPC with an empty message; returns the reason of the refusal."""
    try:
        if method.rpartition("/")[2] in _STREAMS:
            opened = channel.stream_stream(method, request_serializer=bytes, response_deserializer=bytes)
            next(iter(opened(iter([b""]), timeout=_TIMEOUT_S, metadata=metadata)), None)
        else:
            unary = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
            unary(b"", timeout=_TIMEOUT_S, metadata=metadata)
    except grpc.RpcError as exc:
        return from_rpc_error(exc).reason.value
    return LET_THROUGH


def _is_answered(stack: Stack, certificate: str | None) -> bool:
    """Whether the signer says anything at all to a client with this certificate, or without one."""
    context = ssl.create_default_context(cafile=str(stack.ca))
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        folder = stack.certificate(certificate)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    try:
        with (
            socket.create_connection(("127.0.0.1", stack.ports["signer"]), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=stack.signer_name) as tls,
        ):
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            return bool(tls.recv(4096))
    except (ssl.SSLError, ConnectionError):
        return False


def _no_certificate(world: World) -> str:
    if not _is_answered(world.stack, "broker"):
        return "the signer does not even answer the broker"
    return LET_THROUGH if _is_answered(world.stack, None) else "refused by TLS"


def _bearer_at_the_signer(world: World) -> str:
    stack = world.stack
    credentials = grpc.ssl_channel_credentials(stack.ca.read_bytes())
    options = (("grpc.ssl_target_name_override", stack.signer_name),)
    with grpc.secure_channel(stack.signer_address, credentials, options) as channel:
        return call(channel, "/agentkeys.signer.v1.Signer/DeriveCredKek", _BEARER)


def _bearer_and_daemon(world: World) -> str:
    folder = world.stack.certificate("daemon")
    files = (folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    with client_channel(world.stack.signer_address, *files, world.stack.signer_name) as channel:
        return call(channel, "/agentkeys.signer.v1.Signer/DeriveCredKek", _BEARER)


def _bearer_at_the_worker(world: World) -> str:
    prepared = genuine(world.agent, Op.CRED_FETCH, f"cred:{GRANTED}")
    unsigned = canonical_json({"body": "e30", "cap": {"request": prepared.cap.to_json()["request"]}})
    return refusal(send(world.stack, "credentials", prepared.path, unsigned, headers=dict([_BEARER])))


def _gone(path: str, world: World) -> str:
    response = send(world.stack, "broker", path, b'{"message":"hello"}', headers=dict([_BEARER]))
    return f"{refusal(response)} ({response.status_code})"


def _every_rpc(stack: Stack, certificate: str) -> str:
    folder = stack.certificate(certificate)
    files = (folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    with client_channel(stack.signer_address, *files, stack.signer_name) as channel:
        return ", ".join(sorted({call(channel, method) for method in rpcs()}))


def _revoked(world: World) -> str:
    stack = world.stack
    name = f"revoked-{next(_numbers)}"
    folder = stack.issue(name, "broker", name, "--ip", "127.0.0.1")
    with as_caller(stack, name) as signer:
        signer.derive_address(world.alice.who.operator, epoch=1)  # it was good until now
        run([*program("certs"), "--dir", stack.root / "ca", "revoke", folder])
        for _ in range(50):  # the signer looks at its list twice a second
            got = attempt(lambda: signer.derive_address(world.alice.who.operator, epoch=1))
            if got != LET_THROUGH:
                return got
            time.sleep(0.05)
    return LET_THROUGH


GROUP = Group(
    title="nothing stolen",
    drills=(
        Drill(
            title="TLS to the signer without any certificate",
            expected="refused by TLS",
            attempt=_no_certificate,
        ),
        Drill(
            title="a bearer token alone, at the signer: no certificate, no connection",
            expected="signer_unreachable",
            attempt=_bearer_at_the_signer,
        ),
        Drill(
            title="a bearer token and a daemon certificate, at the signer",
            expected="role_not_allowed",
            attempt=_bearer_and_daemon,
        ),
        Drill(
            title="a bearer token and an unsigned request, at the worker",
            expected="invalid_cap",
            attempt=_bearer_at_the_worker,
        ),
        Drill(
            title="the old daemon edge: POST /dev/sign-message",
            expected="gone (410)",
            attempt=lambda world: _gone("/dev/sign-message", world),
        ),
        Drill(
            title="the old daemon edge: POST /dev/derive-address",
            expected="gone (410)",
            attempt=lambda world: _gone("/dev/derive-address", world),
        ),
        Drill(
            title=f"a daemon certificate, all {len(rpcs())} RPCs one after the other",
            expected="role_not_allowed",
            attempt=lambda world: _every_rpc(world.stack, "daemon"),
        ),
        Drill(
            title="a broker certificate that was revoked while connected",
            expected="certificate_revoked",
            attempt=_revoked,
        ),
    ),
)
