"""What a worker is made of: the operations of its class, the registry it was pinned to, its description."""

from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import OPS, Op, WorkerClass
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.registry_client import RegistryStatus
from tests.fakes.services_kit import Services
from tests.unit.signer.world import REGISTRY_ID
from worker.app import check_registry, object_operations


@pytest.mark.parametrize("worker_class", [WorkerClass.CREDENTIALS, WorkerClass.MEMORY])
def test_a_class_serves_all_of_its_operations_and_no_other(services: Services, worker_class: WorkerClass) -> None:
    made = object_operations(services.service, worker_class)
    assert set(made) == {op for op, rule in OPS.items() if rule.worker_class is worker_class}


def test_each_operation_does_what_its_name_says(services: Services) -> None:
    made = object_operations(services.service)
    service = services.service
    assert made == {
        Op.CRED_STORE: service.store,
        Op.CRED_FETCH: service.fetch,
        Op.CRED_LIST: service.list,
        Op.CRED_DELETE: service.delete,
    }


class Heard:
    """A registry that was heard, or has fallen silent since."""

    def __init__(self, registry_id: str = REGISTRY_ID, failing: Reason | None = None) -> None:
        self.registry_id, self.failing = registry_id, failing

    def status(self) -> RegistryStatus:
        if self.failing is not None:
            raise KeyServiceError(self.failing)
        return RegistryStatus(self.registry_id, 1, 1)


def test_the_pinned_registry_may_be_served() -> None:
    heard: Any = Heard()
    check_registry(heard, REGISTRY_ID)


def test_another_registry_stops_the_start() -> None:
    heard: Any = Heard("cd" * 32)
    with pytest.raises(ConfigError, match="registry_id"):
        check_registry(heard, REGISTRY_ID)


def test_a_registry_that_fell_silent_leaves_it_to_the_requests() -> None:
    heard: Any = Heard(failing=Reason.REGISTRY_STALE)
    check_registry(heard, REGISTRY_ID)


@pytest.mark.parametrize("name", ["worker", "audit"])
def test_every_route_is_described_and_every_description_is_routed(services: Services, name: str) -> None:
    client = getattr(services, name)
    paths = client.get("/openapi.json").json()["paths"]
    operations = (
        {"/v1/audit/list"}
        if name == "audit"
        else {f"/v1/credentials/{word}" for word in ("store", "fetch", "list", "delete")}
    )
    registry = {"/v1/registry/operators/{omni}", "/v1/registry/devices/{key_hash}", "/v1/registry/changes"}
    assert set(paths) == operations | registry | {"/healthz", "/openapi.json"}
    for path in operations:
        described = paths[path]["post"]
        assert set(described["requestBody"]["content"]["application/json"]["schema"]["required"]) == {"body", "cap"}
        assert set(described["responses"]["200"]["content"]["application/json"]["schema"]["required"]) == {
            "cap_digest",
            "row",
            "sealed",
        }
        assert client.post(path, content=b"{}", headers={"Content-Type": "application/json"}).status_code == 400
        assert client.get(path).json()["reason"] == "method_not_allowed"
    assert client.get("/v1/registry/operators/" + "ab" * 32).json()["devices"] == []
    assert client.get("/healthz").json()["registry"] == "fresh"
