"""Registry reads and relayed changes over HTTP, alike at broker and workers; a service's own certificate."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agentkeys_core.errors import Reason
from agentkeys_core.ops import WorkerClass
from agentkeys_core.registry import OperatorState
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.identity import CallerRole
from agentkeys_runtime.web.own_certificate import check_own_certificate
from agentkeys_runtime.web.settings import SignerSettings, parse_listen
from tests.fakes.registry_kit import Person
from tests.fakes.services_kit import Services, services_in
from tests.unit.core.material import AuditKey, envelope
from tests.unit.runtime.certificates import TRUST_DOMAIN, Files, Issuer, uri

UNKNOWN = "cd" * 32
FOREIGN = x509.UniformResourceIdentifier("spiffe://other.example/worker/credentials/main")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with services_in(tmp_path) as made:
        yield made


@pytest.fixture(params=["broker", "worker", "audit"])
def edge(request: pytest.FixtureRequest, services: Services) -> Any:
    return getattr(services, request.param)


def test_an_operators_state_is_told(services: Services, edge: Any) -> None:
    user = services.world.user
    for path in (f"operators/{user.operator.hex()}", f"devices/{user.agent.key_hash.hex()}"):
        told = OperatorState.from_json(edge.get(f"/v1/registry/{path}").json())
        assert told == user.state()


def test_an_unknown_operator_has_no_devices(edge: Any) -> None:
    expected = {
        "devices": [],
        "epoch": 1,
        "freeze_nonce": 0,
        "frozen": False,
        "incarnation": 1,
        "nonce": 0,
        "scopes": {},
    }
    for path in ("operators", "devices"):
        assert edge.get(f"/v1/registry/{path}/{UNKNOWN}").json() == expected


@pytest.mark.parametrize(("path", "reason"), [("operators", "invalid_omni"), ("devices", "invalid_encoding")])
@pytest.mark.parametrize("name", ["ab", UNKNOWN.upper(), UNKNOWN + "00", "%ff", "x" * 5000])
def test_a_malformed_name_has_its_reason(edge: Any, path: str, reason: str, name: str) -> None:
    answer = edge.get(f"/v1/registry/{path}/{name}")
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)


@pytest.mark.parametrize("reason", [Reason.REGISTRY_STALE, Reason.REGISTRY_ROLLED_BACK])
def test_reads_fail_closed(services: Services, edge: Any, reason: Reason) -> None:
    services.followed.failing = reason
    answer = edge.get(f"/v1/registry/operators/{services.world.user.operator.hex()}")
    assert answer.json()["reason"] == reason
    assert edge.get("/healthz").json() == {"status": "ok", "registry": str(reason)}


def test_health_says_no_more_than_that(edge: Any) -> None:
    assert edge.get("/healthz").json() == {"status": "ok", "registry": "fresh"}


def test_a_change_is_relayed_as_it_came_and_its_row_is_told(services: Services, edge: Any) -> None:
    row = AuditKey().row(envelope())
    services.followed.row = row.encode()
    change = Person().freeze().encode()
    answer = edge.post("/v1/registry/changes", content=change, headers={"Content-Type": "application/json"})
    assert answer.json() == {"row": row.to_json()}
    assert services.followed.applied == [change]


def test_a_change_is_relayed_also_while_reads_are_stale(services: Services, edge: Any) -> None:
    services.followed.row = AuditKey().row(envelope()).encode()
    services.followed.failing = Reason.REGISTRY_STALE
    change = Person().freeze().encode()
    answer = edge.post("/v1/registry/changes", content=change, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200


def test_a_malformed_change_is_not_relayed(services: Services, edge: Any) -> None:
    change = Person().freeze().encode()
    for content in (b"", b"{}", change[:-1], change.replace(b"Freeze", b"Thaw"), change + b" " * 70_000):
        answer = edge.post("/v1/registry/changes", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["reason"] in {"invalid_change", "too_large"}
    assert services.followed.applied == []


def test_a_row_that_is_none_is_not_passed_on(services: Services, edge: Any) -> None:
    services.followed.row = b"{}"
    change = Person().freeze().encode()
    answer = edge.post("/v1/registry/changes", content=change, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["reason"]) == (500, "internal")


# A service's own certificate.


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def written(folder: Path, **leaf: Any) -> Path:
    files = Files(folder)
    files.write(Issuer(), **leaf)
    return files.certificate


def test_a_certificate_of_the_right_role_is_taken(tmp_path: Path) -> None:
    broker = written(tmp_path / "b", names=(uri("broker/main"),))
    worker = written(tmp_path / "w", names=(uri("worker/credentials/main"),))
    assert check_own_certificate(broker, trust_domain=TRUST_DOMAIN, role=CallerRole.BROKER).name == "main"
    found = check_own_certificate(
        worker, trust_domain=TRUST_DOMAIN, role=CallerRole.WORKER, worker_class=WorkerClass.CREDENTIALS
    )
    assert found.worker_class is WorkerClass.CREDENTIALS


@pytest.mark.parametrize(
    "leaf",
    [
        {"names": (uri("broker/main"),)},
        {"names": (uri("worker/audit/main"),)},
        {"names": (FOREIGN,)},
        {"names": (uri("daemon/laptop"),)},
        {"names": (uri("worker/credentials/main"),), "start": LONG_AGO, "end": LONG_AGO + timedelta(hours=1)},
        {"names": (uri("worker/credentials/main"),), "usages": ()},
    ],
)
def test_any_other_certificate_stops_the_start(tmp_path: Path, leaf: dict[str, Any]) -> None:
    path = written(tmp_path / "w", **leaf)
    with pytest.raises(ConfigError):
        check_own_certificate(
            path, trust_domain=TRUST_DOMAIN, role=CallerRole.WORKER, worker_class=WorkerClass.CREDENTIALS
        )


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:x", "host:70000", "::1:1", "[zz]:1", "h:1\n"])
def test_an_address_is_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_listen(text)


def test_addresses_of_both_families_are_read() -> None:
    assert parse_listen("127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_listen("[::1]:8443") == ("::1", 8443)
    with pytest.raises(ValueError, match="server_name"):
        SignerSettings(address="h:1", server_name="")
