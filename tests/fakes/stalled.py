"""Clients that begin and never go on: half a handshake, a request without its message, an answer that nobody reads."""

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4


def address_of(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def tls_context(folder: Path, ca: Path) -> ssl.SSLContext:
    """A client context with the certificate in `folder`, speaking HTTP/2."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context


def half_handshakes(open_: ExitStack, target: str, count: int) -> None:
    """Connections that send the first bytes of a ClientHello, or nothing at all."""
    for number in range(count):
        plain = open_.enter_context(socket.create_connection(address_of(target), timeout=10))
        if number % 2:
            plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00")


def idle(open_: ExitStack, target: str, count: int, context: ssl.SSLContext, name: str) -> list[ssl.SSLSocket]:
    """Connections that are through with TLS and say nothing more."""
    return [_connected(open_, target, context, name) for _ in range(count)]


def _connected(open_: ExitStack, target: str, context: ssl.SSLContext, name: str) -> ssl.SSLSocket:
    plain = open_.enter_context(socket.create_connection(address_of(target), timeout=10))
    return open_.enter_context(context.wrap_socket(plain, server_hostname=name))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def request_headers(path: str, **more: str) -> bytes:
    headers = {":method": "POST", ":scheme": "https", ":path": path, ":authority": "x", "te": "trailers"}
    headers |= {"content-type": "application/grpc", **more}
    return b"".join(_literal(name.encode(), value.encode()) for name, value in headers.items())


def begin_http2(connection: ssl.SSLSocket, *, window: int = 65_535) -> None:
    settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
    connection.sendall(_PREFACE + frame(_SETTINGS, 0, 0, settings))


def half_frames(connection: ssl.SSLSocket, path: str, streams: int) -> None:
    """Streams whose message is announced and begun, and never ends; then half a frame."""
    begin_http2(connection)
    for number in range(streams):
        stream = 2 * number + 1
        connection.sendall(
            frame(_HEADERS, _END_HEADERS, stream, request_headers(path))
            + frame(_DATA, 0, stream, b"\x00" + struct.pack(">I", 1000) + b"begun")
        )
    connection.sendall(frame(_HEADERS, _END_HEADERS, 2 * streams + 1, request_headers(path))[:20])


def unread(connection: ssl.SSLSocket, path: str, message: bytes, streams: int) -> None:
    """Whole requests whose answers find no window."""
    begin_http2(connection, window=0)
    for number in range(streams):
        stream = 2 * number + 1
        body = b"\x00" + struct.pack(">I", len(message)) + message
        connection.sendall(
            frame(_HEADERS, _END_HEADERS, stream, request_headers(path)) + frame(_DATA, _END_STREAM, stream, body)
        )


def without_message(open_: ExitStack, channel: Any, path: str, count: int) -> list[Any]:
    """Calls of a gRPC client that sends the headers and keeps the message to itself."""
    released = threading.Event()
    open_.callback(released.set)

    def never() -> Iterator[bytes]:
        released.wait(60)
        yield from ()

    return [channel.stream_unary(path).future(never()) for _ in range(count)]
