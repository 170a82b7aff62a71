"""The worker's HTTP edge: every route, whatever bytes come."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.bodies import AuditAnswer
from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import Reason
from agentkeys_core.ops import OPS, Op
from agentkeys_runtime.config import ConfigError, load_config
from tests.fakes.services_kit import Services
from worker.app import load_cosign_keys, object_operations
from worker.config import WorkerConfig

KNOWN = {str(reason) for reason in Reason} - {"internal"}
HOSTILE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def post(services: Services, path: str, content: bytes, media: str = "application/json") -> Any:
    return services.worker.post(path, content=content, headers={"Content-Type": media})


def test_audit_rows_are_served_as_signed_and_row_is_null(services: Services) -> None:
    services.send(services.store())
    answered = services.send(services.rows())
    assert answered.row is None
    page = AuditAnswer.parse(answered.plaintext)
    (row,) = page.rows
    row.verify(services.world.audit_keys())
    assert page.next is None


def test_an_agent_sees_its_own_rows_and_not_the_tree(services: Services) -> None:
    services.send(services.store())
    agent = services.world.user.agent
    assert AuditAnswer.parse(services.send(services.rows(key=agent)).plaintext).rows == ()
    assert services.send(services.rows("audit:tree", key=agent)).reason == "device_role_missing"
    assert services.audit_signer.calls == ["rows"]


def test_the_audit_worker_serves_no_objects(services: Services) -> None:
    assert services.audit.post("/v1/credentials/fetch", json=services.fetch().json()).status_code == 404
    assert services.worker.post("/v1/audit/list", json=services.rows().json()).status_code == 404


def test_each_operation_has_its_path(services: Services) -> None:
    paths = services.worker.get("/openapi.json").json()["paths"]
    for op in object_operations(services.service):
        assert f"/v1/{OPS[op].worker_class}/{op.value.partition('-')[2]}" in paths


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "invalid_body"),
        (b"[]", "invalid_body"),
        (b'{"body":"e30"}', "invalid_body"),
        (b'{"body":"e30","cap":{},"more":1}', "unknown_fields"),
        (b'{"body":"e30","cap":{}}', "invalid_cap"),
        (b'{"body":"e3","cap":{}}', "invalid_body"),
        (b'{"body":"e30","body":"e30","cap":{}}', "invalid_body"),
        (b'{"body":1,"cap":{}}', "invalid_body"),
        (b'{"body":"e30","cap":1.5}', "invalid_body"),
        (b'{"body":"e30","cap":[]}', "invalid_cap"),
        (b"\xff", "invalid_body"),
        (b"[" * 40, "invalid_body"),
        (b'{"body":"\\ud800","cap":{}}', "invalid_body"),
    ],
)
def test_a_body_that_is_none_has_its_reason(services: Services, content: bytes, reason: str) -> None:
    answer = post(services, "/v1/credentials/fetch", content)
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)
    assert services.signer.calls == []


def test_a_cap_beyond_its_limit_is_refused(services: Services) -> None:
    asked = services.fetch().json()
    asked["cap"]["kid"] = "k" * 17_000
    assert post(services, "/v1/credentials/fetch", json.dumps(asked).encode()).json()["reason"] == "too_large"


@HOSTILE
@given(content=st.binary(max_size=300), path=st.sampled_from(["store", "fetch", "list", "delete"]))
def test_random_bytes_get_a_named_refusal(services: Services, content: bytes, path: str) -> None:
    answer = post(services, f"/v1/credentials/{path}", content)
    assert answer.status_code == 400
    assert answer.json()["reason"] in KNOWN
    assert services.signer.calls == []


@HOSTILE
@given(data=st.data())
def test_mutated_requests_get_a_named_refusal_or_an_honest_answer(services: Services, data: st.DataObject) -> None:
    asked = getattr(services, data.draw(st.sampled_from(["store", "fetch", "delete", "names"])))()
    content = bytearray(json.dumps(asked.json()).encode())
    # Signatures differ in length from run to run, so what is drawn must not depend on the content.
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3)):
        content[at % len(content)] = byte
    path = f"/v1/credentials/{asked.parsed.request.op.value.partition('-')[2]}"
    answer = post(services, path, bytes(content))
    assert answer.status_code < 500, answer.text
    assert answer.status_code == 200 or answer.json()["reason"] in KNOWN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@HOSTILE
@given(data=st.data())
def test_any_json_in_place_of_any_member_gets_a_named_refusal(services: Services, data: st.DataObject) -> None:
    asked = services.fetch().json()
    place = asked["cap"] if data.draw(st.booleans()) else asked
    name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(JSON)  # texts of eight letters at most: never what stood there
    answer = post(services, "/v1/credentials/fetch", json.dumps(asked).encode())
    # Without a device signature over `k11` a null in its place is a well-formed request; all else is refused.
    assert answer.status_code in {400, 403}
    assert answer.json()["reason"] in KNOWN


def config_text(**changed: str) -> str:
    members = {
        "class": '"credentials"',
        "trust_domain": '"t.example"',
        "listen": '"127.0.0.1:0"',
        "registry_id": f'"{"ab" * 32}"',
        "cosign_keys": '["k1.jwk.json"]',
    } | changed
    lines = [f"{name} = {value}" for name, value in members.items() if name != "objects"]
    tables = '[tls]\ncertificate = "c"\nkey = "k"\nca = "a"\n[signer]\naddress = "127.0.0.1:1"\nserver_name = "s"\n'
    return "\n".join(lines) + "\n" + tables + changed.get("objects", '[objects]\ndirectory = "objects"\n')


S3_TABLE = """[objects.s3]
endpoint = "https://objects.example.org"
bucket = "objects"
role_arn = "arn:aws:iam::000000000000:role/credentials"
"""


def test_a_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(config_text())
    found = load_config(path, WorkerConfig)
    assert found.worker_class == "credentials"
    assert found.objects is not None
    assert found.objects.directory == tmp_path / "objects"
    path.write_text(config_text(objects=S3_TABLE + 'ca = "roots.pem"\n'))
    found = load_config(path, WorkerConfig)
    assert found.objects is not None
    assert found.objects.s3 is not None
    assert (found.objects.s3.bucket, found.objects.s3.region) == ("objects", "us-east-1")
    assert found.objects.s3.ca == tmp_path / "roots.pem"
    path.write_text(config_text(**{"class": '"audit"', "objects": ""}))
    assert load_config(path, WorkerConfig).objects is None


@pytest.mark.parametrize(
    "changed",
    [
        {"class": '"audit"'},
        {"class": '"other"'},
        {"objects": ""},
        {"cosign_keys": "[]"},
        {"registry_id": '""'},
        {"listen": '"nowhere"'},
        {"listen": '"127.0.0.1:99999"'},
        {"more": "1"},
        {"objects": "[objects]\n"},
        {"objects": '[objects]\ndirectory = "objects"\n' + S3_TABLE},
        {"objects": S3_TABLE + 'access_key_id = "a"\n'},
        {"objects": S3_TABLE.replace("https://objects.example.org", "http://objects.example.org")},
        {"objects": S3_TABLE.replace("objects.example.org", "user:secret@objects.example.org")},
        {"objects": S3_TABLE.replace("objects.example.org", "objects.example.org/path")},
        {"objects": S3_TABLE.replace('"objects"', '"o*"')},
        {"objects": S3_TABLE + 'region = "a b"\n'},
        {"objects": S3_TABLE.replace("arn:aws:iam::000000000000:role/credentials", "")},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, changed: dict[str, str]) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(config_text(**changed))
    with pytest.raises(ConfigError):
        load_config(path, WorkerConfig)


def test_cosign_keys_are_public_jwks(services: Services, tmp_path: Path) -> None:
    path = tmp_path / "k1.jwk.json"
    path.write_text(json.dumps(services.world.k1_public.jwk()))
    assert list(load_cosign_keys([path])) == [services.world.k1_public.kid]
    path.write_text(json.dumps({**services.world.k1_public.jwk(), "d": b64u_encode(bytes(32))}))
    with pytest.raises(ConfigError):
        load_cosign_keys([path])
    assert Op.CRED_STORE in OPS
