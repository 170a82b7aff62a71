import os
import threading
from pathlib import Path

import pytest

from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import Watched, read_limited
from tests.unit.runtime.conftest import Lines


def swap(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def test_reads_regular_files_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_limited(path, 5) == b"12345"
    with pytest.raises(ConfigError, match="larger than 4"):
        read_limited(path, 4)


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610])
def test_refuses_loose_private_file(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"k")
    path.chmod(0o600)
    assert read_limited(path, 9, private=True) == b"k"
    path.chmod(mode)
    with pytest.raises(ConfigError, match="by others"):
        read_limited(path, 9, private=True)
    assert read_limited(path, 9) == b"k"


def test_follows_links_to_secrets_but_judges_their_target(tmp_path: Path) -> None:
    target = tmp_path / "key"
    target.write_bytes(b"k")
    target.chmod(0o644)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(ConfigError, match="by others"):
        read_limited(link, 9, private=True)


def test_refuses_what_is_no_regular_file_without_hanging(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError):
            read_limited(path, 9)


def test_takes_up_changes_and_keeps_the_last_good(tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")

    def load() -> int:
        text = read_limited(path, 9)
        if not text.isdigit():
            raise ConfigError("no number")
        return int(text)

    watched = Watched([path], load, interval_s=0)
    assert watched.get() == 1
    swap(path, b"2")
    assert watched.get() == 2
    swap(path, b"broken")
    assert [watched.get() for _ in range(3)] == [2, 2, 2]
    path.unlink()
    assert watched.get() == 2
    swap(path, b"3")
    assert watched.get() == 3
    assert [line["event"] for line in lines()] == ["reloaded", "reload_failed", "reload_failed", "reloaded"]


def test_loads_once_a_change(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    loads = []
    watched = Watched([path], lambda: loads.append(1), interval_s=0)
    threads = [threading.Thread(target=lambda: [watched.get() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_looks_only_after_its_interval(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    watched = Watched([path], path.read_bytes, interval_s=3600)
    swap(path, b"2")
    assert watched.get() == b"1"


def test_first_load_may_fail(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Watched([tmp_path / "x"], lambda: read_limited(tmp_path / "x", 1))
