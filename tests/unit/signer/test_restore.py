"""Backup and restore where something goes wrong on the way: nothing half done stays, and asking again works."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from signer import backup as backup_module
from signer.adapters.database import StateError
from signer.adapters.unseal_keyfile import KeyFileUnsealer
from signer.backup import Manifest, back_up
from signer.cli_state import parse_head
from signer.config import SignerConfig, TlsConfig
from signer.ports import VaultError
from signer.restore import restore
from tests.unit.signer.epochs import Deployment

NOW = 1_764_000_000


def repr_json(value: object) -> bytes:
    return json.dumps(value).encode()


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
    back_up(config(source), tmp_path / "backup", deployment.unsealer, now=NOW)
    return config(target), tmp_path / "backup", deployment.unsealer


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_restores_into_an_empty_folder(made: Any) -> None:
    target, backup, unsealer = made
    done = restore(target, backup, unsealer, now=NOW + 5)
    assert (done.incarnation, done.k3_epoch, done.journal_lines) == (NOW + 5, 1, 3)
    assert names(target.state_dir) == {"state.db", "vault.bin"}


def test_a_rotation_that_waited_does_not_come_due_after_a_restore(tmp_path: Path) -> None:
    """Its user may have stopped it in the time that was lost."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with Deployment(source) as deployment:
        deployment.registry.note("status")
    with closing(sqlite3.connect(config(source).database)) as conn, conn:
        conn.execute(
            "INSERT INTO registry_rotations VALUES (?, ?, ?, ?, ?, ?)",
            (bytes(32), bytes(32), bytes([1]) * 32, bytes(20), NOW, bytes(32)),
        )
    back_up(config(source), tmp_path / "backup", deployment.unsealer, now=NOW)
    restore(config(target), tmp_path / "backup", deployment.unsealer, now=NOW + 5)
    with closing(sqlite3.connect(config(target).database)) as conn:
        assert conn.execute("SELECT count(*) FROM registry_rotations").fetchone() == (0,)


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


@pytest.mark.parametrize("missing", ["state.db", "vault.bin", "backup.json"])
def test_half_a_backup_restores_nothing(made: Any, missing: str) -> None:
    target, backup, unsealer = made
    (backup / missing).unlink()
    with pytest.raises((StateError, VaultError, FileNotFoundError)):
        restore(target, backup, unsealer, now=NOW)
    assert not names(target.state_dir)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO registry_actors VALUES (zeroblob(32), zeroblob(32), 1)",
        "UPDATE registry_devices SET revoked = 0",
        "DELETE FROM caps",
        "UPDATE meta SET value = 1 WHERE key = 'k3_epoch'",
        "VACUUM",
    ],
)
def test_whoever_can_write_backups_decides_nothing(made: Any, statement: str) -> None:
    """What the journal does not cover either: devices, scopes, burns, salts. The file is as it was made, or nothing."""
    target, backup, unsealer = made
    with closing(sqlite3.connect(backup / "state.db", isolation_level=None)) as conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute(statement)
        conn.execute("UPDATE meta SET value = value")
        conn.execute("CREATE TABLE IF NOT EXISTS mine(x)")
    with pytest.raises(StateError, match="changed"):
        restore(target, backup, unsealer, now=NOW)
    assert not names(target.state_dir)


def test_a_manifest_of_somebody_else_is_none(made: Any, tmp_path: Path) -> None:
    target, backup, unsealer = made
    manifest = Manifest.load(backup)
    for bent in (replace(manifest, mac=bytes(32)), replace(manifest, made_at=manifest.made_at + 1)):
        (backup / "backup.json").write_bytes(bent.encode())
        with pytest.raises(StateError, match="MAC"):
            restore(target, backup, unsealer, now=NOW)
    (backup / "backup.json").write_bytes(replace(manifest, epoch=2).encode())
    with pytest.raises(KeyServiceError) as caught:
        restore(target, backup, unsealer, now=NOW)
    assert caught.value.reason is Reason.EPOCH_NOT_HELD
    (backup / "backup.json").write_bytes(b"{}")
    with pytest.raises(StateError):
        restore(target, backup, unsealer, now=NOW)
    assert not names(target.state_dir)


def test_the_time_of_the_backup_is_told(made: Any) -> None:
    """An older backup under the name of a newer one is a whole backup: only its time tells."""
    target, backup, unsealer = made
    assert restore(target, backup, unsealer, now=NOW + 9).made_at == NOW


def test_a_stamp_that_lies_in_the_folder_does_not_stop_a_restore(made: Any, tmp_path: Path) -> None:
    target, backup, unsealer = made
    with Deployment(tmp_path / "source") as deployment:
        deployment.registry.note("status")
        deployment.stamp.raise_journal(1, 99)
    for stamp in (tmp_path / "source").glob("*.stamp"):
        shutil.copy(stamp, target.state_dir)
    assert restore(target, backup, unsealer, now=NOW).journal_lines == 3


@given(
    st.binary(max_size=300) | st.dictionaries(st.sampled_from(["epoch", "mac", "ver"]), st.integers()).map(repr_json)
)
def test_whatever_a_manifest_holds_has_a_name(data: bytes) -> None:
    with pytest.raises(KeyServiceError):
        Manifest.parse(data)


@given(text=st.text(max_size=90) | st.from_regex(r"[0-9]{1,17}:[0-9a-f]{60,66}", fullmatch=True))
def test_a_head_is_parsed_or_bad_usage(text: str) -> None:
    try:
        number, digest = parse_head(text)
    except click.BadParameter:
        return
    assert f"{number}:{digest.hex()}" == f"{number}:{text.partition(':')[2]}"


def test_a_backup_that_fails_leaves_nothing(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module, "write_private", fail)
    before = names(tmp_path)
    with pytest.raises(OSError, match="No space"):
        back_up(config(tmp_path / "source"), tmp_path / "another", made[2], now=NOW)
    assert names(tmp_path) == before


def test_a_backup_of_nothing_is_none(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        back_up(config(tmp_path), tmp_path / "backup", KeyFileUnsealer(tmp_path / "key"), now=NOW)
    assert not names(tmp_path)
