"""Who is let in: certificates, roles, and methods that nobody serves."""

import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.errors import Reason
from tests.conformance.cases import Case, Steps, add, case, equal, expect
from tests.conformance.groups import methods
from tests.conformance.refusals import refusal_of
from tests.conformance.site import AUDIT, BROKER, CREDENTIALS, MEMORY, PATIENCE_S, Site

WORKERS: Final = frozenset({CREDENTIALS, MEMORY, AUDIT})
BOTH: Final = WORKERS | {BROKER}

#: docs/spec/signer-protocol.md, RPCs: who may call what. Worker classes are the op's matter, but for two.
CALLERS: Final[Mapping[str, frozenset[str]]] = {
    "DeriveAddress": frozenset({BROKER}),
    "DeriveCredKek": WORKERS,
    "DeriveCredKekBatch": WORKERS,
    "StsCredentials": WORKERS,
    "SignAuditRow": WORKERS,
    "SignAuditRowBatch": WORKERS,
    "ListObjects": WORKERS,
    "GetAuditRows": WORKERS,
    "GetRowHashes": WORKERS,
    "SignCheckpoint": WORKERS,
    "SignSiwe": frozenset({BROKER}),
    "SignTypedData": frozenset({BROKER}),
    "VerifyK10Sig": BOTH,
    "VerifyK10SigBatch": BOTH,
    "VerifyK11Assertion": BOTH,
    "AttestEnrol": frozenset({BROKER}),
    "Rewrap": WORKERS,
    "GetStatus": BOTH,
    "GetOperator": BOTH,
    "GetDevice": BOTH,
    "ApplyChange": BOTH,
    "WatchChanges": BOTH,
}
#: Folders of certificates that TLS lets through and the target must not.
BAD_CERTIFICATES: Final[Mapping[str, Reason]] = {
    "no-eku": Reason.CERTIFICATE_INVALID,
    "any-eku": Reason.CERTIFICATE_INVALID,
    "two-names": Reason.CERTIFICATE_INVALID,
    "no-name": Reason.CERTIFICATE_INVALID,
    "foreign-domain": Reason.CERTIFICATE_INVALID,
    "upper-case-role": Reason.CERTIFICATE_INVALID,
    "unknown-class": Reason.CERTIFICATE_INVALID,
    "server-name": Reason.CERTIFICATE_INVALID,
    "ca-as-leaf": Reason.CERTIFICATE_INVALID,
    "revoked": Reason.CERTIFICATE_REVOKED,
}
SERVICES: Final[tuple[ServiceDescriptor, ...]] = tuple(
    service for module in (signer_pb2, registry_pb2) for service in module.DESCRIPTOR.services_by_name.values()
)


def raw_call(site: Site, client: str, path: str, data: bytes, *, streams: bool = False) -> Callable[[], Any]:
    """A call of that method with these very bytes."""
    channel: Any = site.channel(client)  # its stub wants serialisers; here bytes go as they are

    def unary() -> Any:
        return channel.unary_unary(path)(data, timeout=PATIENCE_S)

    def first() -> Any:
        answers = channel.unary_stream(path)(data, timeout=PATIENCE_S)
        try:
            return next(answers)
        finally:
            answers.cancel()

    return first if streams else unary


def _refused_role(client: str, path: str, *, streams: bool) -> Steps:
    return lambda site: raw_call(site, client, path, b"", streams=streams)


def _let_in(clients: frozenset[str], path: str, *, streams: bool) -> Steps:
    def steps(site: Site) -> None:
        for client in sorted(clients):
            found = refusal_of(raw_call(site, client, path, b"\xff", streams=streams))
            equal(found and found.reason, Reason.INVALID_ENCODING.value, f"{client} with bytes that are no message")

    return steps


for _path, _method in methods():
    _name, _streams = _method.name, _method.server_streaming
    _allowed = CALLERS[_name]
    for _client in [*sorted(BOTH - _allowed), "daemon"]:
        add(
            Case(
                group=_name,
                title=f"refuses a {_client} certificate",
                steps=_refused_role(_client, _path, streams=_streams),
                gives=Reason.ROLE_NOT_ALLOWED,
            )
        )
    add(Case(group=_name, title="lets its callers in", steps=_let_in(_allowed, _path, streams=_streams)))


def _derive_address(client: str) -> Steps:
    request = signer_pb2.DeriveAddressRequest(omni=bytes(32), epoch=1)
    return lambda site: lambda: site.signer(client).DeriveAddress(request)


for _client, _reason in BAD_CERTIFICATES.items():
    add(
        Case(group="Certificates", title=f"refuses {_client}", steps=_derive_address(_client), gives=_reason),
    )


def _no_handler(site: Site, credentials: grpc.ChannelCredentials | None) -> None:
    """Fail unless the call ends without a reason: TLS refused it before any handler."""
    channel = (
        grpc.insecure_channel(site.target)
        if credentials is None
        else grpc.secure_channel(site.target, credentials, site.options)
    )
    with channel:
        stub: Any = channel.unary_unary("/agentkeys.signer.v1.Signer/DeriveAddress")
        found = refusal_of(lambda: stub(b"", timeout=PATIENCE_S))
        expect(found is not None and found.code == "UNAVAILABLE" and found.reason is None, f"answered: {found}")


@case("Certificates", "no certificate reaches no handler")
def no_certificate(site: Site) -> None:
    _no_handler(site, grpc.ssl_channel_credentials(site.authority))


@case("Certificates", "a foreign authority reaches no handler")
def foreign_authority(site: Site) -> None:
    folder = site.manifest.folder / "foreign"
    key, chain = (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    _no_handler(site, grpc.ssl_channel_credentials(site.authority, key, chain))


@case("Certificates", "plain text reaches no handler")
def plain_text(site: Site) -> None:
    _no_handler(site, None)


@case("Certificates", "a bearer token replaces no certificate")
def bearer_token(site: Site) -> None:
    token = grpc.access_token_call_credentials("a token")
    _no_handler(site, grpc.composite_channel_credentials(grpc.ssl_channel_credentials(site.authority), token))


@case("Certificates", "speaks TLS 1.3 alone")
def tls_versions(site: Site) -> None:
    folder = site.manifest.folder / BROKER
    spoken = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cadata=site.authority.decode())
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = context.maximum_version = version
        host, _, port = site.target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=site.manifest.server_name) as secure:
                    spoken.append(secure.version())
            except (ssl.SSLError, ConnectionError):
                continue
    equal(spoken, ["TLSv1.3"], "versions that the target speaks")


@case("Methods", "a method that nobody knows", gives=Reason.NOT_IMPLEMENTED)
def unknown_method(site: Site) -> Callable[[], Any]:
    return raw_call(site, BROKER, "/agentkeys.signer.v1.Signer/DeriveEverything", b"")


@case("Methods", "a service that nobody knows", gives=Reason.NOT_IMPLEMENTED)
def unknown_service(site: Site) -> Callable[[], Any]:
    return raw_call(site, BROKER, "/agentkeys.dev.v0.Daemon/SignMessage", b"")


@case("Methods", "every method of the protocol has a row in this table")
def every_method(_site: Site) -> None:
    equal({method.name for _, method in methods()}, set(CALLERS), "methods")
