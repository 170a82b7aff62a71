"""Both steps of a rotation: what each needs, what it refuses by name, and that nothing is ever half done."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.audit import AuditRow, OpKind
from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.secret import Secret
from signer import oidc, rotation
from signer.adapters.database import open_state
from signer.adapters.epoch_store import registry_omni
from signer.derivation import k3_check
from signer.journal import verify_journal
from signer.keyring import Keyring
from signer.rotation import SPACING_S, RotationError, RotationProblem
from signer.vault import Vault, new_k3
from tests.unit.signer.epochs import REGISTRY_ID, Deployment


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment
        verify_journal(deployment.database.reader(), deployment.keyring)


def problem_of(call: Callable[[], object]) -> RotationProblem:
    with pytest.raises(RotationError) as caught:
        call()
    assert caught.value.reason == caught.value.problem.value
    return caught.value.problem


def reason_of(call: Callable[[], object]) -> Reason:
    with pytest.raises(KeyServiceError) as caught:
        call()
    return caught.value.reason


def test_what_was_prepared_is_held_and_published_but_current_only_after_the_commit(made: Deployment) -> None:
    step = made.rotation()
    prepared = step.prepare()
    assert prepared["epoch"] == 2
    assert made.keyring.epochs == (1, 2)
    assert made.registry.record().current == 1
    assert 2 not in made.registry.record().checks
    made.publish(prepared)
    assert step.commit() == {"epoch": 2}
    record = made.registry.record()
    assert (record.current, record.checks[2]) == (2, made.keyring.k3_check(2))
    assert made.methods() == ["init", "rotate-prepare", "rotate-commit"]


def test_the_advance_leaves_a_signed_row_in_the_registrys_own_chain(made: Deployment) -> None:
    made.rotate()
    (data,) = made.database.reader().execute("SELECT row FROM rows").fetchone()
    row = AuditRow.parse(data)
    content = row.verify(made.keyring.audit_keys())
    assert (content.op_kind, content.op_body.epoch) == (OpKind.K3_EPOCH_ADVANCE, 2)
    assert row.actor == content.operator_omni == registry_omni(REGISTRY_ID)


def test_preparing_again_generates_nothing_anew(made: Deployment) -> None:
    step = made.rotation()
    first, vault = step.prepare(), made.vault.path.read_bytes()
    assert step.prepare() == first
    assert made.vault.path.read_bytes() == vault
    assert made.methods().count("rotate-prepare") == 1


def test_a_restart_between_the_steps_forgets_nothing(tmp_path: Path) -> None:
    with Deployment(tmp_path) as made:
        prepared = made.rotation().prepare()
    with Deployment(tmp_path) as again:
        assert again.rotation().prepare() == prepared
        again.publish(prepared)
        assert again.rotation().commit() == {"epoch": 2}
    with Deployment(tmp_path) as after:
        assert (after.registry.record().current, after.keyring.epochs) == (2, (1, 2))


def test_nothing_is_committed_that_was_not_prepared(made: Deployment) -> None:
    assert problem_of(made.rotation().commit) is RotationProblem.NOTHING_PREPARED
    made.rotate()
    assert problem_of(made.rotation().commit) is RotationProblem.NOTHING_PREPARED


@pytest.mark.parametrize("path", [oidc.JWKS, oidc.AUDIT_JWKS])
def test_nothing_is_committed_before_both_key_sets_are_published(made: Deployment, path: str) -> None:
    step = made.rotation()
    made.publish(step.prepare())
    old = {"keys": [made.keyring.public_key("oidc" if path == oidc.JWKS else "audit", 1).jwk()]}
    made.served.files = {**made.served.files, path: canonical_json(old).decode()}
    assert problem_of(step.commit) is RotationProblem.NOT_PUBLISHED
    assert made.registry.record().current == 1
    assert "rotate-commit" not in made.methods()


def test_a_key_set_that_lost_an_older_epoch_is_not_published(made: Deployment) -> None:
    """Rows and tokens of the past must stay verifiable."""
    step = made.rotation()
    made.publish(step.prepare())
    new = {"keys": [made.keyring.public_key("audit", 2).jwk()]}
    made.served.files = {**made.served.files, oidc.AUDIT_JWKS: canonical_json(new).decode()}
    assert problem_of(step.commit) is RotationProblem.NOT_PUBLISHED


def test_one_rotation_an_hour(made: Deployment) -> None:
    made.rotate()
    made.clock.forward(SPACING_S - 1)
    assert problem_of(made.rotation().prepare) is RotationProblem.TOO_SOON
    made.clock.forward(1)
    made.publish(made.rotation().prepare())
    assert made.rotation().commit() == {"epoch": 3}
    assert problem_of(made.rotation().commit) is RotationProblem.NOTHING_PREPARED


def test_an_epoch_prepared_in_time_is_not_committed_too_soon(made: Deployment) -> None:
    """The hour is asked for in the transaction as well, whatever was seen before it."""
    made.rotate()
    made.clock.forward(SPACING_S)
    made.publish(made.rotation().prepare())
    made.committer.run(lambda tx: tx.conn.execute("UPDATE meta SET value = ? WHERE key = 'rotated_at'", (tx.now,)))
    assert problem_of(made.rotation().commit) is RotationProblem.TOO_SOON
    assert problem_of(lambda: made.registry.advance(3, made.keyring.k3_check(3))) is RotationProblem.TOO_SOON
    assert made.registry.record().current == 2


def test_all_processes_hold_an_epoch_before_any_serves_it(tmp_path: Path) -> None:
    with Deployment(tmp_path, processes=3) as made:
        made.publish(made.rotation().prepare())
        assert [keys.epochs for keys in made.others] == [(1, 2), (1, 2)]
        assert {keys.k3_check(2) for keys in made.others} == {made.keyring.k3_check(2)}
        made.rotation().commit()


def test_a_process_that_does_not_take_the_epoch_up_keeps_it_from_being_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "TAKE_UP_S", 0.05)
    with Deployment(tmp_path, processes=2) as made:
        made.stop_watching()
        assert problem_of(made.rotation().prepare) is RotationProblem.NOT_HELD_EVERYWHERE
        made.keepers[0].look()
        assert problem_of(made.rotation().commit) is RotationProblem.NOT_HELD_EVERYWHERE
        assert made.registry.record().current == 1


def test_a_process_takes_up_nothing_but_what_was_announced(tmp_path: Path) -> None:
    """Not another K3 under the same number, and nothing where the vault was put back."""
    with Deployment(tmp_path, processes=2) as made:
        made.stop_watching()
        before = made.vault.path.read_bytes()
        made.board.announce(2, bytes(32))
        made.keepers[1].look()
        with new_k3() as other:
            made.vault.add(made.key, 2, other)
        made.keepers[1].look()
        assert made.others[0].epochs == (1,)
        made.vault.path.write_bytes(before)
        made.keepers[1].look()
        assert made.others[0].epochs == (1,)
        assert made.board.held_by_all() == 1


def test_a_vault_that_was_put_back_under_a_running_signer_is_noticed(made: Deployment) -> None:
    before = made.vault.path.read_bytes()
    step = made.rotation()
    made.publish(step.prepare())
    made.vault.path.write_bytes(before)
    assert problem_of(step.prepare) is RotationProblem.VAULT_CHANGED
    assert problem_of(step.commit) is RotationProblem.VAULT_CHANGED


def test_an_epoch_of_another_vault_is_none_of_ours(made: Deployment) -> None:
    """Same number, same passphrase, another K3: the file is not what this signer holds."""
    step = made.rotation()
    before = made.vault.path.read_bytes()
    step.prepare()
    made.vault.path.write_bytes(before)
    with new_k3() as other:
        made.vault.add(made.key, 2, other)
    assert problem_of(step.commit) is RotationProblem.VAULT_CHANGED


def test_a_recorded_epoch_is_never_generated_anew(tmp_path: Path) -> None:
    """Two replicas: the vault of one lacks what the other has committed. It does not start, nor generate its own."""
    with Deployment(tmp_path) as made:
        older = made.vault.path.read_bytes()
        made.rotate()
        check = made.keyring.k3_check(2)
    (tmp_path / "vault.bin").write_bytes(older)
    assert reason_of(lambda: Deployment(tmp_path)) is Reason.EPOCH_NOT_HELD
    vault = Vault(tmp_path / "vault.bin")
    secrets, key = vault.unlock(made.unsealer)
    with new_k3() as own:
        vault.add(key, 2, own)
        assert k3_check(own.view()) != check
    with Keyring(vault.open(made.unsealer)) as diverged:
        assert reason_of(lambda: open_state(tmp_path / "state.db", diverged)) is Reason.K3_MISMATCH
    assert secrets


def test_a_replica_whose_epoch_is_recorded_otherwise_commits_nothing(made: Deployment) -> None:
    """As on a shared registry: another replica has recorded its own check under the number of the next epoch."""
    made.publish(made.rotation().prepare())
    record = "INSERT INTO k3_checks(epoch, check_value) VALUES (2, zeroblob(32))"
    made.committer.run(lambda tx: tx.conn.execute(record))
    assert reason_of(made.rotation().commit) is Reason.K3_MISMATCH
    assert made.registry.record().current == 1


def test_a_lost_epoch_that_is_recorded_is_not_replaced(made: Deployment) -> None:
    record = "INSERT INTO k3_checks(epoch, check_value) VALUES (2, zeroblob(32))"
    made.committer.run(lambda tx: tx.conn.execute(record))
    assert reason_of(made.rotation().prepare) is Reason.K3_MISMATCH
    assert made.keyring.epochs == (1,)


def test_no_epoch_is_generated_without_a_journal_line(made: Deployment) -> None:
    before = made.vault.path.read_bytes()
    made.clock.forward(-120)  # the journal takes nothing while the clock is behind
    assert reason_of(made.rotation().prepare) is Reason.CLOCK_BEHIND
    assert made.vault.path.read_bytes() == before
    made.clock.forward(120)


def test_a_sealed_signer_rotates_nothing(tmp_path: Path) -> None:
    with Deployment(tmp_path) as made:
        made.publish(made.rotation().prepare())
        made.gate.seal()
        assert reason_of(made.rotation().prepare) is Reason.SEALED
        assert reason_of(made.rotation().commit) is Reason.SEALED
        made.keyring.seal()
        assert made.key.secret.wiped
        made.gate = type(made.gate)()
        assert reason_of(made.rotation().commit) is Reason.SEALED


def test_a_keyring_takes_the_next_epoch_alone(made: Deployment) -> None:
    for epoch, secret in ((1, bytes(32)), (3, bytes(32)), (2, bytes(31))):
        with pytest.raises(ValueError, match="next epoch"):
            made.keyring.hold(epoch, Secret.copy_of(secret))
    with Keyring({1: Secret.copy_of(bytes(32))}) as other:
        other.seal()
        late = Secret.copy_of(bytes([7]) * 32)
        assert reason_of(lambda: other.hold(2, late)) is Reason.SEALED
        assert late.wiped


def test_answers_hold_public_keys_alone(made: Deployment) -> None:
    prepared: dict[str, Any] = dict(made.rotation().prepare())
    made.publish(prepared)
    assert set(made.served.keys(oidc.JWKS)) == {made.keyring.oidc_kid(epoch) for epoch in (1, 2)}
    assert set(made.served.keys(oidc.AUDIT_JWKS)) == {made.keyring.audit_kid(epoch) for epoch in (1, 2)}
    assert not any('"d"' in text for text in prepared["files"].values())
