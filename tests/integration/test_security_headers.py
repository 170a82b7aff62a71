"""The headers of every answer at every route of every service, as the OpenAPI documents list them, and over TLS."""

import socket
import ssl
from email.parser import BytesHeaderParser

import pytest

from tests.adversarial.town import Town
from tests.fakes.app_client import AppClient
from tests.fakes.header_grades import faults
from tests.integration.routes import operations
from tests.integration.wired import WORKERS, Wired


@pytest.mark.parametrize("service", ["broker", *WORKERS])
def test_every_route_of_every_service(wired: Wired, service: str) -> None:
    with AppClient(wired.apps[service]) as client:
        every = operations(client)
        assert every
        for operation in every:
            for path in (operation.path, operation.at("00" * 16), operation.at("00" * 32), operation.path + "/"):
                for asked in ({}, operation.junk(), {"headers": {"Origin": "https://evil.test"}}):
                    answer = client.request(operation.method, path, **asked)
                    assert faults(answer.headers, named=True) == [], (operation.name, answer.status_code)
        for method, path in (
            ("GET", "/nowhere"),
            ("PUT", "/v1/registry/changes"),
            ("OPTIONS", "/healthz"),
            ("BREW", "/"),
        ):
            assert faults(client.request(method, path).headers, named=True) == []


@pytest.mark.parametrize("part", ["broker", "credentials", "audit"])
@pytest.mark.parametrize(
    "head", [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n"]
)
def test_a_process_over_tls_and_what_is_no_http(town: Town, part: str, head: bytes) -> None:
    """What the HTTP library refuses by itself, before any application, is graded alike."""
    context = ssl.create_default_context(cafile=str(town.stack.ca))
    with (
        socket.create_connection(("127.0.0.1", town.stack.ports[part]), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(head)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += tls.recv(65_536)
    status, _, rest = answer.partition(b"\r\n")
    found = {name.lower(): value for name, value in BytesHeaderParser().parsebytes(rest).items()}
    assert faults(found, named=False) == [], status
    assert "server" not in found
