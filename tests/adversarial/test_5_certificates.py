"""Promise 5: a certificate of the same authority with another role, revoked or malformed runs no RPC, and is recorded.

The shapes that only a forger of certificates can make stand in tests/integration/test_signer_tls.py.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from typer.testing import CliRunner

import certs.cli
from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from agentkeys_runtime.files import CHECK_INTERVAL_S
from agentkeys_runtime.grpc_errors import from_rpc_error
from signer.rpc.permissions import PERMISSIONS
from tests.adversarial.town import OPENROUTER, Town, eventually, reason, reason_of, town_in


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town whose workers' certificates are revoked here."""
    with town_in(tmp_path_factory.mktemp("certificates") / "stack") as made:
        yield made


def call(town: Town, certificate: str, method: str, *, data: bytes = b"") -> str:
    """The reason with which an RPC is refused, whatever its message; fails where it is served."""
    with town.channel(certificate) as channel:
        try:
            if method.rpartition("/")[2] in {"WatchChanges", "Watch", "ServerReflectionInfo"}:
                next(iter(channel.stream_stream(method)(iter([data]), timeout=5)))
            else:
                channel.unary_unary(method)(data, timeout=5)
        except grpc.RpcError as exc:
            return from_rpc_error(exc).reason.value
    raise AssertionError(f"{method} was served")


@pytest.mark.parametrize("certificate", ["daemon", "issuer", "signer"])
def test_another_role_runs_no_rpc(town: Town, certificate: str) -> None:
    reasons = set()
    for method in PERMISSIONS:
        reasons.add(call(town, certificate, method))
    # Two of them have no clientAuth: TLS itself refuses those, and no handler is reached.
    assert reasons == {"role_not_allowed" if certificate == "daemon" else "signer_unreachable"}


def test_the_attempts_are_recorded(own: Town) -> None:
    with own.channel("daemon") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/agentkeys.signer.v1.Signer/DeriveCredKek")(b"", timeout=5)
    own.stack.stop("signer")  # what was counted is written
    lines = [line for line in own.journal() if line["reason"] == "role_not_allowed"]
    own.stack.start("signer")
    own.settle()
    assert [(line["method"], line["count"], line["kind"]) for line in lines] == [("DeriveCredKek", 1, "refusal")]
    assert "/daemon/laptop " in lines[0]["caller"]


def test_a_worker_of_another_class_is_refused_by_every_call_of_this_one(town: Town) -> None:
    member = town.master()
    cap = member.cap(Op.CRED_FETCH, OPENROUTER, k11=True).encode()
    assert reason(partial(town.signer("audit").derive_cred_kek, cap, epoch=1, salt=bytes(32))) == "class_mismatch"


def test_a_revoked_worker_serves_nothing_any_more(own: Town) -> None:
    """Revoked by the authority's command while its connection is open: nothing is restarted."""
    master = own.master()
    version = own.store(master, OPENROUTER, b"x")
    fetch = partial(own.signer().derive_cred_kek, master.cap(Op.CRED_FETCH, OPENROUTER, k11=True).encode())
    assert fetch(**version.salt).key
    command: list[str | Path] = [sys.executable, "-m", "certs", "--dir", own.stack.root / "ca", "revoke"]
    subprocess.run([*command, own.stack.certificate("credentials")], check=True, capture_output=True)

    def refused() -> bool:
        try:
            fetch(**version.salt)
        except Exception as exc:
            return getattr(exc, "reason", None) is Reason.CERTIFICATE_REVOKED
        return False

    eventually(refused, limit_s=CHECK_INTERVAL_S + 5)
    answer = own.ask_worker(master.asked(Op.CRED_LIST, "cred:list", b'{"after":null,"limit":1}'))
    assert reason_of(answer) in {"certificate_revoked", "registry_stale", "registry_unreachable"}


def test_without_a_certificate_no_handler_is_reached(town: Town) -> None:
    ca = (town.stack.certificate("credentials") / "ca.pem").read_bytes()
    options = [("grpc.ssl_target_name_override", town.stack.signer_name)]
    before = len(town.journal())
    bearer = (("authorization", "Bearer eyJhbGciOiJub25lIn0.e30."),)
    with grpc.secure_channel(town.stack.signer_address, grpc.ssl_channel_credentials(ca), options) as channel:
        stub: Any = channel.unary_unary("/agentkeys.signer.v1.Signer/DeriveCredKek")
        for metadata in ((), bearer):
            with pytest.raises(grpc.RpcError) as caught:
                stub(b"", timeout=5, metadata=metadata)
            assert from_rpc_error(caught.value).reason is Reason.SIGNER_UNREACHABLE
    assert len(town.journal()) == before


def test_a_clients_certificate_is_no_signer(town: Town) -> None:
    """Whoever calls the signer pins a DNS name that no other profile carries, and none can be made with it."""
    for name in ("broker", "credentials", "audit", "issuer", "daemon"):
        leaf = x509.load_pem_x509_certificate((town.stack.certificate(name) / "cert.pem").read_bytes())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert town.stack.signer_name not in names.get_values_for_type(x509.DNSName)
    for role in (["broker", "x"], ["daemon", "x"], ["worker", "x", "--class", "credentials"]):
        words = ["--dir", str(town.stack.root / "ca"), "issue", *role, "--dns", town.stack.signer_name]
        done = CliRunner().invoke(certs.cli.app, [*words, "--out", str(town.stack.root / "forged")])
        assert done.exit_code != 0
        assert not (town.stack.root / "forged" / "cert.pem").exists()
