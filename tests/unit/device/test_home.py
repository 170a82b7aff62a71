"""The folder: private, whole, never followed elsewhere."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkeys_core.audit import ChainHead
from agentkeys_core.encoding import hex_encode
from device.errors import DeviceError, Trouble
from device.home import MAX_FILE_BYTES, Home, read_private_file, read_public_file, write_new_file
from device.identity import IDENTITY_FILE, MEMORY_FILE, Identity, Memory, Part
from device.k11.port import K11_FILE, K11Record
from device.k11.software import SOFTWARE_FILE, SoftwareAuthenticator
from device.keys import K10, K10_FILE
from tests.unit.device.conftest import Person


def refused(reason: Trouble, call: Callable[..., object], *args: object, **words: object) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        call(*args, **words)
    assert caught.value.reason is reason
    return caught.value


def test_writes_are_private_and_whole(home: Home) -> None:
    home.write("a", b"one")
    home.write("a", b"two")
    assert home.read("a") == b"two"
    assert stat.S_IMODE((home.path / "a").stat().st_mode) == 0o600
    assert [path.name for path in home.path.iterdir()] == ["a"]
    home.remove("a")
    home.remove("a")
    assert home.read("a") is None


def test_creating_never_overwrites(home: Home) -> None:
    home.create("a", b"one")
    refused(Trouble.FILE_EXISTS, home.create, "a", b"two")
    assert home.read("a") == b"one"
    assert [path.name for path in home.path.iterdir()] == ["a"]


def test_refuses_loose_file(home: Home) -> None:
    home.write("a", b"x")
    (home.path / "a").chmod(0o640)
    error = refused(Trouble.UNSAFE_FILE, home.read, "a")
    assert "chmod 600" in error.detail


def test_refuses_symlinked_file(home: Home, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch(mode=0o600)
    (home.path / "a").symlink_to(tmp_path / "elsewhere")
    refused(Trouble.UNSAFE_FILE, home.read, "a")


def test_refuses_what_is_no_regular_file(home: Home) -> None:
    os.mkfifo(home.path / "a", 0o600)
    refused(Trouble.UNSAFE_FILE, home.read, "a")
    (home.path / "b").mkdir(mode=0o700)
    refused(Trouble.UNSAFE_FILE, home.read, "b")


def test_refuses_loose_folder(tmp_path: Path) -> None:
    folder = tmp_path / "loose"
    folder.mkdir()
    folder.chmod(0o750)
    assert "chmod 700" in refused(Trouble.UNSAFE_FILE, Home.open, folder).detail
    refused(Trouble.UNSAFE_FILE, Home.open, folder, create=True)


def test_refuses_symlinked_folder_and_plain_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused(Trouble.UNSAFE_FILE, Home.open, tmp_path / "link")
    (tmp_path / "file").touch(mode=0o600)
    refused(Trouble.UNSAFE_FILE, Home.open, tmp_path / "file")
    refused(Trouble.NOT_INITIALISED, Home.open, tmp_path / "missing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_refuses_files_of_another_user(home: Home) -> None:
    home.write("a", b"x")
    os.chown(home.path / "a", 12345, -1)
    refused(Trouble.UNSAFE_FILE, home.read, "a")


def test_refuses_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Home.open(tmp_path / "home", create=True):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    refused(Trouble.UNSAFE_FILE, Home.open, tmp_path / "home")


def test_private_files_elsewhere_are_checked_alike(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"x")
    key.chmod(0o644)
    refused(Trouble.UNSAFE_FILE, read_private_file, key)
    key.chmod(0o600)
    assert read_private_file(key) == b"x"
    (tmp_path / "link").symlink_to(key)
    refused(Trouble.UNSAFE_FILE, read_private_file, tmp_path / "link")
    refused(Trouble.BAD_FILE, read_private_file, tmp_path / "missing")


def test_sizes_are_bounded(home: Home, tmp_path: Path) -> None:
    home.write("a", bytes(MAX_FILE_BYTES + 1))
    refused(Trouble.BAD_FILE, home.read, "a")
    refused(Trouble.BAD_FILE, read_public_file, home.path / "a", limit=10)
    refused(Trouble.BAD_FILE, read_public_file, tmp_path / "missing")


def test_new_files_are_private_and_not_replaced_silently(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_new_file(out, b"1", replace=False)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    refused(Trouble.FILE_EXISTS, write_new_file, out, b"2", replace=False)
    write_new_file(out, b"2", replace=True)
    assert out.read_bytes() == b"2"
    refused(Trouble.BAD_FILE, write_new_file, tmp_path / "no" / "where", b"", replace=False)


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / "out").symlink_to(target)
    write_new_file(tmp_path / "out", b"new", replace=True)
    assert target.read_bytes() == b"mine"


def test_k10_is_made_once_even_by_two_at_a_time(home: Home) -> None:
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(K10.load_or_make(home).public_key)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    loaded = K10.load(home)
    assert loaded is not None
    assert loaded.public_key == made[0]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data.replace(b'"ver":1', b'"ver":2'), lambda data: b"{}"]
)
def test_damaged_k10_is_named_and_nothing_of_it_shown(home: Home, damage: Callable[[bytes], bytes]) -> None:
    K10.load_or_make(home)
    data = home.read(K10_FILE)
    assert data is not None
    home.write(K10_FILE, damage(data))
    error = refused(Trouble.BAD_FILE, K10.load, home)
    assert str(error).endswith("k10.json is damaged")


def test_k10_whose_halves_do_not_fit_is_refused(home: Home, tmp_path: Path) -> None:
    K10.load_or_make(home)
    mine = home.read(K10_FILE)
    with Home.open(tmp_path / "other", create=True) as other:
        K10.load_or_make(other)
        theirs = other.read(K10_FILE)
    assert mine is not None
    assert theirs is not None
    key = b'"public_key":"'
    at, end = mine.index(key), mine.index(b'"', mine.index(key) + len(key))
    home.write(K10_FILE, mine[:at] + theirs[at : theirs.index(b'"', at + len(key))] + mine[end:])
    refused(Trouble.BAD_FILE, K10.load, home)


def test_k10_does_not_print(home: Home) -> None:
    key = K10.load_or_make(home)
    data = home.read(K10_FILE)
    assert data is not None
    secret = data.split(b'"private_key":"')[1].split(b'"')[0].decode()
    assert secret not in repr(key) + str(key)
    assert hex_encode(key._key.secret_bytes()) not in repr(key) + repr(key._key)


@pytest.mark.parametrize("name", [IDENTITY_FILE, MEMORY_FILE, K11_FILE, SOFTWARE_FILE])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"ver":1}'])
def test_damaged_files_are_named(home: Home, name: str, content: bytes) -> None:
    home.write(name, content)
    loads = {
        IDENTITY_FILE: Identity.load,
        MEMORY_FILE: Memory.load,
        K11_FILE: K11Record.load,
        SOFTWARE_FILE: lambda where: SoftwareAuthenticator(where).create(where, device_key_hash=bytes(32)),
    }
    assert name in refused(Trouble.BAD_FILE, loads[name], home).detail


def test_identity_and_memory_survive(home: Home) -> None:
    identity = Identity(part=Part.AGENT, operator_omni=bytes(32), profile_hash=bytes(32), label="a", generation=3)
    identity.save(home)
    assert Identity.load(home) == identity
    memory = Memory(epoch=4, heads={bytes(32): ChainHead(seq=7, row_hash=bytes(32))})
    home.write(MEMORY_FILE, memory.encode())
    assert Memory.load(home) == memory


@pytest.mark.parametrize("name", ["k10.json", "profile.json", "identity.json", "software-authenticator.json"])
def test_commands_refuse_loose_files(master: Person, name: str) -> None:
    (master.home / name).chmod(0o604)
    refusal = master("freeze") if name != "software-authenticator.json" else master("unfreeze")
    assert (refusal.code, refusal.reason) == (1, "unsafe_file")


def test_commands_refuse_a_symlinked_key(master: Person, tmp_path: Path) -> None:
    (master.home / "k10.json").rename(tmp_path / "moved")
    (master.home / "k10.json").symlink_to(tmp_path / "moved")
    assert master("whoami").reason == "unsafe_file"


def test_profile_that_was_exchanged_is_noticed(master: Person) -> None:
    path = master.home / "profile.json"
    path.write_bytes(path.read_bytes().replace(b'"trust_domain":"keys', b'"trust_domain":"keyz'))
    assert master("cred", "list").reason == "bad_file"


def test_module_runs_as_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "device", "--home", str(tmp_path / "none"), "whoami", "--json"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"not_initialised" in done.stderr
    assert b"Traceback" not in done.stderr
