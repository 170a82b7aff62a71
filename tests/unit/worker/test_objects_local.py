"""The local object store: durable, one writer an object, nothing through symbolic links."""

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkeys_core.errors import KeyServiceError
from agentkeys_runtime.config import ConfigError
from tests.unit.core.refusal import refused
from worker.adapters import durable
from worker.adapters.deletions_local import FOLDER, PRUNE_EVERY, LocalDeletions
from worker.adapters.objects_local import LocalObjects

PATH = f"bots/{'ab' * 32}/credentials/openrouter.enc"


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[LocalObjects]:
    with LocalObjects(tmp_path / "objects", lock_timeout_s=0.2) as made:
        yield made


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts
    }


def test_what_was_written_is_read_and_replaced_and_removed(objects: LocalObjects, tmp_path: Path) -> None:
    assert objects.read(PATH) is None
    objects.write(PATH, b"one")
    objects.write(PATH, b"two")
    assert objects.read(PATH) == b"two"
    assert files(tmp_path / "objects") == {PATH}
    assert (tmp_path / "objects" / PATH).stat().st_mode & 0o777 == 0o600
    for folder in (tmp_path / "objects").rglob("*"):
        assert folder.is_file() or folder.stat().st_mode & 0o777 == 0o700
    objects.remove(PATH)
    objects.remove(PATH)
    assert objects.read(PATH) is None


def test_file_and_folder_are_synced_before_a_write_returns(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(descriptor: int) -> None:
        done.append("file" if os.path.isfile(f"/proc/self/fd/{descriptor}") else "folder")
        fsync(descriptor)

    def watched_rename(*given: object, **named: object) -> None:
        done.append("rename")
        rename(*given, **named)  # type: ignore[arg-type]

    objects.write(PATH, b"first")
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    objects.write(PATH, b"second")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_folder_is_reached_through_a_symbolic_link(tmp_path: Path, depth: int) -> None:
    elsewhere = tmp_path / "elsewhere"
    root = tmp_path / "objects"
    parts = PATH.split("/")
    (root / Path(*parts[: depth - 1])).mkdir(parents=True)
    (elsewhere / Path(*parts[depth:-1])).mkdir(parents=True)
    (elsewhere / Path(*parts[depth:])).write_bytes(b"theirs")
    (root / Path(*parts[:depth])).symlink_to(elsewhere)
    with LocalObjects(root) as objects:
        with refused("object_store_unavailable"):
            objects.read(PATH)
        with refused("object_store_unavailable"):
            objects.write(PATH, b"ours")
        with refused("object_store_unavailable"):
            objects.remove(PATH)
    assert (elsewhere / Path(*parts[depth:])).read_bytes() == b"theirs"


def test_an_object_that_is_a_symbolic_link_is_neither_read_nor_replaced(objects: LocalObjects, tmp_path: Path) -> None:
    objects.write(PATH, b"one")
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    path = tmp_path / "objects" / PATH
    path.unlink()
    path.symlink_to(target)
    with refused("object_store_unavailable"):
        objects.read(PATH)
    with refused("object_store_unavailable"):
        objects.write(PATH, b"ours")
    assert path.is_symlink()
    assert target.read_bytes() == b"theirs"


def test_a_pipe_in_place_of_an_object_does_not_hang(objects: LocalObjects, tmp_path: Path) -> None:
    objects.write(PATH, b"one")
    path = tmp_path / "objects" / PATH
    path.unlink()
    os.mkfifo(path)
    with refused("object_store_unavailable"):
        objects.read(PATH)


@pytest.mark.parametrize(
    "path", ["../x.enc", PATH + "\n", PATH.upper(), "bots/ab/credentials/a.enc", PATH.replace("openrouter", "..")]
)
def test_nothing_but_the_path_of_an_object_is_touched(objects: LocalObjects, path: str) -> None:
    for call in (objects.read, objects.remove, lambda given: objects.write(given, b"")):
        with pytest.raises(ValueError, match="path of an object"):
            call(path)


def test_a_failed_write_leaves_the_old_object_and_no_rest(
    objects: LocalObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.write(PATH, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused("object_store_unavailable"):
        objects.write(PATH, b"new")
    monkeypatch.undo()
    assert objects.read(PATH) == b"old"
    assert files(tmp_path / "objects") == {PATH}


def _crash_in_write(folder: Path) -> None:
    os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    LocalObjects(folder).write(PATH, b"new")


def test_what_a_crash_left_is_swept_at_the_next_start_only_when_nobody_writes(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    with LocalObjects(folder) as first:
        first.write(PATH, b"old")
        process = multiprocessing.get_context("fork").Process(target=_crash_in_write, args=(folder,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(files(folder)) == 2
        LocalObjects(folder).close()  # `first` may be writing
        assert len(files(folder)) == 2
    with LocalObjects(folder) as again:
        assert files(folder) == {PATH}
        assert again.read(PATH) == b"old"


def test_one_writer_an_object_among_threads(objects: LocalObjects) -> None:
    held = threading.Event()
    go_on = threading.Event()

    def holder() -> None:
        with objects.lock(PATH):
            held.set()
            go_on.wait(10)

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait(10)
    with refused("overloaded"), objects.lock(PATH):
        pass
    go_on.set()
    thread.join()
    with objects.lock(PATH):
        pass


def test_one_writer_an_object_among_processes(tmp_path: Path) -> None:
    with (
        LocalObjects(tmp_path / "o", lock_timeout_s=0.2) as one,
        LocalObjects(tmp_path / "o", lock_timeout_s=0.2) as two,
    ):
        with one.lock(PATH), refused("overloaded"), two.lock(PATH):
            pass
        with two.lock(PATH):
            pass


def test_a_lock_is_given_back_after_an_error(objects: LocalObjects) -> None:
    with pytest.raises(RuntimeError), objects.lock(PATH):
        raise RuntimeError
    started = time.monotonic()
    with objects.lock(PATH):
        assert time.monotonic() - started < 0.2


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError):
        LocalObjects(folder)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        LocalObjects(tmp_path / "missing" / "objects")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError):
        LocalObjects(tmp_path / "file")


def test_the_first_note_of_a_delete_stands(objects: LocalObjects) -> None:
    notes = LocalDeletions(objects)
    begun = notes.begin(bytes(32), b"\x01" * 32, keep_until=4e9)
    assert (begun.version, begun.first) == (b"\x01" * 32, True)
    again = LocalDeletions(objects).begin(bytes(32), b"\x02" * 32, keep_until=4e9)
    assert (again.version, again.first) == (b"\x01" * 32, False)
    notes.withdraw(bytes(32))
    assert notes.begin(bytes(32), b"", keep_until=4e9).first


def test_a_damaged_note_stops_the_delete(objects: LocalObjects, tmp_path: Path) -> None:
    notes = LocalDeletions(objects)
    notes.begin(bytes(32), b"", keep_until=4e9)
    (tmp_path / "objects" / FOLDER / bytes(32).hex()).write_bytes(b"\xff")
    with pytest.raises(KeyServiceError), objects.lock(PATH):
        notes.begin(bytes(32), b"", keep_until=4e9)


def test_old_notes_are_removed(objects: LocalObjects, tmp_path: Path) -> None:
    notes = LocalDeletions(objects, clock=lambda: 1000.0)
    notes.begin(b"\x01" * 32, b"", keep_until=999.0)
    notes.begin(b"\x02" * 32, b"", keep_until=1001.0)
    for number in range(PRUNE_EVERY):
        notes.begin(number.to_bytes(32, "big"), b"", keep_until=2000.0)
        notes.withdraw(number.to_bytes(32, "big"))
    assert files(tmp_path / "objects") == {f"{FOLDER}/{(bytes([2]) * 32).hex()}"}


def test_durable_refuses_a_link_in_place_of_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="no file"):
            durable.replace_at(folder, "name", b"")
    finally:
        os.close(folder)


def _write_for_ever(folder: Path) -> None:
    with LocalObjects(folder) as objects:
        for number in itertools.count():
            with objects.lock(PATH):
                objects.write(PATH, number.to_bytes(4, "big") * 5000)


def test_killed_at_any_moment_of_a_write_the_old_or_the_new_object_stands(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    last = -1
    for _ in range(50):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(folder,))
        process.start()
        time.sleep(random.uniform(0.005, 0.05))
        process.kill()
        process.join()
        with LocalObjects(folder, lock_timeout_s=2.0) as objects, objects.lock(PATH):
            data = objects.read(PATH)
        assert files(folder) <= {PATH}
        if data is not None:
            assert data == data[:4] * 5000
            last = int.from_bytes(data[:4], "big")
    assert last >= 0
