"""First binds and host commands against the signer as a process: the broker's certificate, real files, a restart."""

import json
import sqlite3
import time
from typing import Any

import pytest

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2
from agentkeys_core.eip712 import Domain
from agentkeys_core.errors import Reason
from agentkeys_core.evidence import EmailEvidence, OidcEvidence
from agentkeys_core.ids import IdentityType
from agentkeys_core.keys import DeviceKey
from tests.fakes.evidence_kit import BLIND, CLIENT, ISSUER, Issuer, Member, change_json
from tests.integration.signer_process import SignerProcess, eventually, refusal
from tests.integration.signer_user import stub

EVIDENCE = (
    f'[evidence]\nemail = true\n[[evidence.oidc]]\nissuer = "{ISSUER}"\nclient_id = "{CLIENT}"\njwks = "issuer.json"\n'
)


@pytest.fixture
def signer(tmp_path: Any) -> Any:
    made = SignerProcess(tmp_path, tables=EVIDENCE)
    made.issuer_of_tokens = Issuer(tmp_path / "issuer.json")  # type: ignore[attr-defined]
    made.prepare()
    made.start()
    try:
        yield made
    finally:
        made.stop()


def domain(signer: Any) -> Domain:
    return Domain.embedded(json.loads(signer.command("status", "--json", check=True).stdout)["registry_id"])


def member(signer: Any, kind: IdentityType, value: str) -> Member:
    made = Member(kind=kind, value=value, now=int(time.time()))
    with signer.channel("broker") as channel:
        made.address = (
            stub(channel)
            .DeriveAddress(signer_pb2.DeriveAddressRequest(omni=made.identity, epoch=1), timeout=10)
            .address
        )
    return made


def attest(signer: Any, enrol: Any, evidence: bytes, caller: str = "broker") -> bytes:
    with signer.channel(caller) as channel:
        request = signer_pb2.AttestEnrolRequest(change=change_json(enrol), evidence=evidence)
        signature: bytes = stub(channel).AttestEnrol(request, timeout=10).signature
        return signature


def apply(signer: Any, signed: Any) -> Any:
    with signer.channel("worker") as channel:
        request = registry_pb2.ApplyChangeRequest(change=signed.encode())
        return registry_pb2_grpc.RegistryStub(channel).ApplyChange(request, timeout=10).row


def devices(signer: Any, who: Member) -> Any:
    with signer.channel("worker") as channel:
        request = registry_pb2.GetOperatorRequest(operator_omni=who.operator)
        return registry_pb2_grpc.RegistryStub(channel).GetOperator(request, timeout=10).operator.devices


def signed(signer: Any, who: Member, enrol: Any, signature: bytes) -> Any:
    return who.approved(enrol, domain=domain(signer), wallet=signature)


def test_an_id_token_binds_through_the_running_signer(signer: Any) -> None:
    alice = member(signer, IdentityType.OIDC, f"{ISSUER}|alice")
    enrol = alice.bind()
    token = signer.issuer_of_tokens.token(alice.claims(enrol))
    evidence = OidcEvidence(id_token=token, blind=BLIND).encode()
    assert refusal(lambda: attest(signer, enrol, evidence, "worker")).reason is Reason.ROLE_NOT_ALLOWED
    signature = attest(signer, enrol, evidence)
    signer.stop()
    signer.start()  # what was attested is on disk
    apply(signer, signed(signer, alice, enrol, signature))
    (device,) = devices(signer, alice)
    assert (device.evidence, device.assurance) == ("oidc", "high")
    signer.stop()
    lines = [line for line in signer.journal() if line["method"] == "AttestEnrol"]
    assert [line["kind"] for line in lines].count("release") == 1
    assert token not in signer.log


def test_the_host_annuls_a_bind_by_email(signer: Any) -> None:
    squatter = member(signer, IdentityType.EMAIL, "alice@example.com")
    enrol = squatter.bind()
    apply(signer, signed(signer, squatter, enrol, attest(signer, enrol, squatter.by_email())))
    (device,) = devices(signer, squatter)
    assert (device.evidence, device.assurance, device.revoked) == ("email", "low", False)
    facts = json.loads(signer.command("annul", squatter.operator.hex(), "--json", check=True).stdout)
    assert facts["operator_omni"] == squatter.operator.hex()
    assert [found.revoked for found in devices(signer, squatter)] == [True]
    again = signer.command("annul", squatter.operator.hex())
    assert (again.returncode, again.stderr) == (1, "agentkeys-signer: the signer refused: not_found\n")
    alice = member(signer, IdentityType.EMAIL, "alice@example.com")
    mine = alice.bind()
    apply(
        signer, signed(signer, alice, mine, attest(signer, mine, EmailEvidence(address="alice@example.com").encode()))
    )
    assert sorted(found.revoked for found in devices(signer, alice)) == [False, True]


def test_a_rotation_that_is_due_is_carried_out_by_the_running_signer(signer: Any) -> None:
    alice = member(signer, IdentityType.EMAIL, "alice@example.com")
    enrol, new = alice.bind(), DeviceKey.generate()
    apply(signer, signed(signer, alice, enrol, attest(signer, enrol, alice.by_email())))
    change = alice.rotate_change(1, new)
    digest = change.digest(domain(signer))
    apply(
        signer,
        alice.approved(
            change, k10=new, domain=domain(signer), k11=[alice.touch(digest)], new_device=new.sign_recoverable(digest)
        ),
    )
    signer.stop()
    bring_forward(signer)
    signer.start()
    eventually(lambda: {one.device_key_hash for one in devices(signer, alice) if not one.revoked} == {new.key_hash})


def bring_forward(signer: Any) -> None:
    """As if 72 hours had passed."""
    with sqlite3.connect(signer.folder / "state" / "state.db") as conn:
        conn.execute("UPDATE registry_rotations SET due_at = due_at - 72 * 3600")


def test_a_key_file_that_is_none_keeps_the_signer_from_starting(tmp_path: Any) -> None:
    made = SignerProcess(tmp_path, tables=EVIDENCE)
    (tmp_path / "issuer.json").write_text("{}")
    made.prepare()
    done = made.command("serve")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"agentkeys-signer: {tmp_path / 'issuer.json'}: no JWKS"
