"""A Node client that is built from the .proto files alone, against the real signer over mutual TLS."""

import base64
import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.proof import k10_digest
from tests.conformance import derived
from tests.integration.signer_process import SERVER_NAME, SignerProcess
from tests.services import program
from tools.services import needed

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).parent / "node" / "client.js"
PROTO = ROOT / "protos" / "agentkeys" / "signer" / "v1" / "signer.proto"
K3 = bytes(range(32))


@pytest.fixture(scope="module")
def signer(tmp_path_factory: Any) -> Any:
    made = SignerProcess(tmp_path_factory.mktemp("signer"), k3=K3)
    made.prepare()
    made.start()
    try:
        yield made
    finally:
        assert made.stop() == 0


def ask(signer: Any, client: str, *calls: tuple[str, dict[str, Any]]) -> Any:
    packages = program("node-client").parents[2]
    command = [needed("node", "it runs the client"), str(CLIENT), str(PROTO), signer.target, SERVER_NAME]
    done = subprocess.run(
        [*command, str(signer.folder / client)],
        input=json.dumps([{"method": method, "request": request} for method, request in calls]),
        env={"NODE_PATH": str(packages), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def signed(key: DeviceKey, payload: bytes) -> dict[str, Any]:
    return {
        "public_key": b64(key.public_key),
        "payload": b64(payload),
        "signature": b64(key.sign(k10_digest("session", payload))),
        "scheme": "SIGNATURE_SCHEME_K10_V2",
        "purpose": "session",
    }


def test_derives_an_address_and_verifies_a_device_signature(signer: Any) -> None:
    omni, key = secrets.token_bytes(32), DeviceKey.generate()
    good = signed(key, b"a payload")
    derive, verified, refuted = ask(
        signer,
        "broker",
        ("DeriveAddress", {"omni": b64(omni), "epoch": 1}),
        ("VerifyK10Sig", good),
        ("VerifyK10Sig", good | {"payload": b64(b"another")}),
    )
    assert base64.b64decode(derive["response"]["address"]) == derived.wallet(K3, omni).address
    assert verified["response"] == {"valid": True, "reason": "", "binding": b64(key.key_hash)}
    assert refuted["response"] == {"valid": False, "reason": Reason.DEVICE_SIGNATURE_INVALID.value, "binding": ""}


def test_gets_the_reason_of_a_refusal(signer: Any) -> None:
    (short,) = ask(signer, "broker", ("DeriveAddress", {"omni": b64(bytes(31)), "epoch": 1}))
    assert short == {"code": "INVALID_ARGUMENT", "reason": Reason.INVALID_OMNI.value}
    (role,) = ask(signer, "worker", ("DeriveAddress", {"omni": b64(bytes(32)), "epoch": 1}))
    assert role == {"code": "PERMISSION_DENIED", "reason": Reason.ROLE_NOT_ALLOWED.value}


def test_the_lock_names_no_registry() -> None:
    for package in json.loads((CLIENT.parent / "package-lock.json").read_text())["packages"].values():
        assert "resolved" not in package
