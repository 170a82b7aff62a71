"""Backup and restore where something goes wrong on the way: nothing half done stays, and asking again works."""

import os
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from signer import backup as backup_module
from signer.adapters.database import StateError
from signer.backup import back_up
from signer.config import SignerConfig, TlsConfig
from signer.ports import VaultError
from signer.restore import restore
from tests.unit.signer.epochs import Deployment

NOW = 1_764_000_000


def config(folder: Path) -> SignerConfig:
    none = folder / "none"
    tls = TlsConfig(certificate=none, key=none, client_ca=none, revocation_list=none)
    return SignerConfig(
        trust_domain="keys.example.org", listen="127.0.0.1:0", state_dir=folder, vault=folder / "vault.bin", tls=tls
    )


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """A deployment that is not served, its backup, and an empty folder to restore into."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with Deployment(source) as deployment:
        deployment.registry.note("status")
    back_up(config(source), tmp_path / "backup")
    return config(target), tmp_path / "backup", deployment.unsealer


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_restores_into_an_empty_folder(made: Any) -> None:
    target, backup, unsealer = made
    done = restore(target, backup, unsealer, now=NOW + 5)
    assert (done.incarnation, done.k3_epoch, done.journal_lines) == (NOW + 5, 1, 3)
    assert names(target.state_dir) == {"state.db", "vault.bin"}


def test_a_clock_that_is_behind_the_backup_restores_nothing(made: Any) -> None:
    """Requests that the lost time has used up would otherwise be issued after the restore, as far as it can see."""
    target, backup, unsealer = made
    with pytest.raises(KeyServiceError) as caught:
        restore(target, backup, unsealer, now=NOW - 61)
    assert caught.value.reason is Reason.CLOCK_BEHIND
    assert not names(target.state_dir)


def test_a_restore_that_was_cut_off_is_done_again(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target, backup, unsealer = made
    real = os.link

    def cut_off(source: Any, name: Any) -> None:
        if Path(name) == target.database:
            raise OSError(28, "No space left on device")
        real(source, name)

    monkeypatch.setattr("signer.restore.os.link", cut_off)
    with pytest.raises(OSError, match="No space"):
        restore(target, backup, unsealer, now=NOW)
    assert names(target.state_dir) == {"vault.bin"}
    monkeypatch.undo()
    (target.state_dir / "state.db.restoring").write_bytes(b"left by a process that was killed")
    assert restore(target, backup, unsealer, now=NOW).journal_lines == 3


@pytest.mark.parametrize("missing", ["state.db", "vault.bin"])
def test_half_a_backup_restores_nothing(made: Any, missing: str) -> None:
    target, backup, unsealer = made
    (backup / missing).unlink()
    with pytest.raises((StateError, VaultError)):
        restore(target, backup, unsealer, now=NOW)
    assert not names(target.state_dir)


def test_a_backup_that_fails_leaves_nothing(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module, "write_private", fail)
    before = names(tmp_path)
    with pytest.raises(OSError, match="No space"):
        back_up(config(tmp_path / "source"), tmp_path / "another")
    assert names(tmp_path) == before


def test_a_backup_of_nothing_is_none(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        back_up(config(tmp_path), tmp_path / "backup")
    assert not names(tmp_path)
