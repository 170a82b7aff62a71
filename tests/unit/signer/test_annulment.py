"""The host undoes a first bind by e-mail that the wrong person made, as long as nothing was released to it."""

from pathlib import Path

import pytest

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpKind, OpResult
from agentkeys_core.keys import DeviceKey
from signer.adapters.committer import Tx
from signer.attesting import Attesting
from signer.hostsocket import HostSocket, HostSocketError, ask_host
from signer.journal import JournalLine, LineKind, verify_journal
from tests.fakes.evidence_kit import Issuer, Member, attesting, change_json, email_member, policy
from tests.fakes.registry_kit import NOW, Opened, Person, kind_of
from tests.unit.core.refusal import refused


@pytest.fixture
def desk(here: Opened, tmp_path: Path) -> Attesting:
    return attesting(here, policy(Issuer(tmp_path / "issuer.json")))


def bind(here: Opened, desk: Attesting, member: Member, **bent: int) -> Member:
    enrol = member.bind(**bent)
    signature = desk.attest(change_json(enrol), member.by_email(), caller="bb" * 32)
    here.registry.apply(member.bound(enrol, signature))
    return member


@pytest.fixture
def squatter(here: Opened, desk: Attesting) -> Member:
    """Somebody who bound alice@example.com, with a second master, an agent and a rotation that waits; next nonce 4."""
    member = bind(here, desk, email_member(here))
    here.registry.apply(member.add_master(member.second(), 1))
    here.registry.apply(member.add_agent(DeviceKey.generate(), 2))
    new = DeviceKey.generate()
    here.registry.apply(member.rotate(3, new, k10=new))
    return member


def release(here: Opened, person: Person, actor: bytes | None = None) -> None:
    def unit(tx: Tx) -> None:
        body = OpBody(cap=bytes(32), req=bytes(32), svc="cred:a")
        row = tx.append_row(
            AuditEnvelope(
                ts_unix=tx.now,
                actor_omni=actor or person.operator,
                operator_omni=person.operator,
                op_kind=OpKind.CRED_FETCH,
                op_body=body,
                result=OpResult.SUCCESS,
            )
        )
        tx.journal(JournalLine(at=tx.now, kind=LineKind.RELEASE, method="m", caller="c", row_hash=row.row_hash))

    here.committer.run(unit)


def test_revokes_every_device_and_says_so(here: Opened, squatter: Member) -> None:
    row = here.registry.annul(squatter.operator)
    state = here.state(squatter)
    assert all(device.revoked for device in state.devices.values())
    assert (state.rotations, state.scopes) == ({}, {})
    assert kind_of(row) == OpKind.DEVICE_REVOKE
    assert AuditEnvelope.parse(AuditRow.parse(row).envelope).operator_omni == squatter.operator
    assert here.registry.changes_after(0)[-1].type == "Annulment"
    conn = here.database.reader()
    last = conn.execute("SELECT line FROM journal ORDER BY seq DESC LIMIT 1").fetchone()[0]
    assert b'"kind":"host"' in last
    assert b"Annulment" in last
    verify_journal(conn, here.keyring)


def test_nothing_works_that_the_squatter_signs_afterwards(here: Opened, squatter: Member) -> None:
    here.registry.annul(squatter.operator)
    for signed in (squatter.freeze(), squatter.approved(squatter.set_scope(5, revoke=("cred:openrouter",)))):
        with refused("change_not_authorised"):
            here.registry.apply(signed)


def test_the_identity_may_bind_again_and_nothing_old_fits(here: Opened, desk: Attesting, squatter: Member) -> None:
    here.registry.annul(squatter.operator)
    alice = bind(here, desk, email_member(here), deadline=NOW + 601)
    state = here.state(alice)
    assert [device.device_key_hash for device in state.devices.values() if not device.revoked] == [alice.device]
    assert (state.nonce, state.freeze_nonce, state.threshold) == (6, 1, 1)
    with refused("change_not_authorised"):
        here.registry.apply(squatter.freeze(1))
    with refused("already_bound"):
        bind(here, desk, email_member(here), deadline=NOW + 602)
    here.registry.apply(alice.add_agent(DeviceKey.generate(), 6))


def test_the_squatters_own_devices_never_come_back(here: Opened, desk: Attesting, squatter: Member) -> None:
    here.registry.annul(squatter.operator)
    with refused("already_bound"):
        bind(here, desk, squatter, deadline=NOW + 601)


@pytest.mark.parametrize("who", ["a master", "an agent"])
def test_refuses_once_anything_was_released(here: Opened, squatter: Member, who: str) -> None:
    release(here, squatter, None if who == "a master" else squatter.actor())
    with refused("already_bound"):
        here.registry.annul(squatter.operator)
    assert not here.state(squatter).devices[squatter.device].revoked


def test_sees_what_was_released_in_the_same_transaction(here: Opened, squatter: Member) -> None:
    """Several units share one transaction; a release that is not in the file yet counts as well."""
    writer = here.registry._writer

    def unit(tx: Tx) -> None:
        row = tx.append_row(
            AuditEnvelope(
                ts_unix=tx.now,
                actor_omni=squatter.operator,
                operator_omni=squatter.operator,
                op_kind=OpKind.CRED_FETCH,
                op_body=OpBody(cap=bytes(32)),
                result=OpResult.SUCCESS,
            )
        )
        tx.journal(JournalLine(at=tx.now, kind=LineKind.RELEASE, method="m", caller="c", row_hash=row.row_hash))
        writer.write_annulment(tx, squatter.operator)

    with refused("already_bound"):
        here.committer.run(unit)


def test_what_others_were_given_does_not_count(here: Opened, squatter: Member) -> None:
    other = Person()
    here.registry.apply(other.enrol())
    release(here, other)
    here.registry.annul(squatter.operator)


def test_only_a_bind_by_email_is_annulled_and_once(here: Opened, squatter: Member) -> None:
    person = Person()
    here.registry.apply(person.enrol())
    with refused("already_bound"):
        here.registry.annul(person.operator)
    with refused("not_found"):
        here.registry.annul(bytes(32))
    here.registry.annul(squatter.operator)
    with refused("not_found"):
        here.registry.annul(squatter.operator)


def test_the_host_socket_takes_an_operator_for_the_command_that_is_about_one(tmp_path: Path) -> None:
    asked: list[str] = []

    def annul(operator: str) -> dict[str, object]:
        asked.append(operator)
        return {}

    def status() -> dict[str, object]:
        return {}

    host = HostSocket(tmp_path / "host.sock", {"status": status, "annul": annul})
    host.start()
    try:
        assert ask_host(tmp_path / "host.sock", "annul", operator="00" * 32)["ok"] is True
        assert ask_host(tmp_path / "host.sock", "annul")["reason"] == "invalid_body"
        assert ask_host(tmp_path / "host.sock", "status", operator="00" * 32)["reason"] == "invalid_body"
    finally:
        host.close()
    assert asked == ["00" * 32]
    with pytest.raises(HostSocketError):
        ask_host(tmp_path / "host.sock", "annul", operator="00" * 32)
