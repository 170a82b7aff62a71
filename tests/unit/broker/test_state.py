"""K1 on disk, the counters, the configuration and the command line."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentkeys_core.keys import ES256PublicKey
from agentkeys_runtime.config import ConfigError, load_config
from broker.adapters.store_sqlite import SqliteCounters
from broker.config import BrokerConfig
from broker.keyfile import JWK_NAME, KEY_NAME, create_key, load_key


def pem(curve: ec.EllipticCurve) -> bytes:
    return ec.generate_private_key(curve).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_k1_is_made_private_and_its_public_half_is_published(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    public = create_key(folder)
    assert (mode(folder), mode(folder / KEY_NAME), mode(folder / JWK_NAME)) == (0o700, 0o600, 0o644)
    jwk = json.loads((folder / JWK_NAME).read_text())
    assert ES256PublicKey.from_jwk(jwk) == public
    assert "d" not in jwk
    assert jwk["kid"] == public.kid
    assert ES256PublicKey.of(load_key(folder).public_key()) == public


@pytest.mark.parametrize("name", [KEY_NAME, JWK_NAME])
@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_nothing_is_overwritten(tmp_path: Path, name: str, kind: str) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    path = tmp_path / name
    if kind == "file":
        path.write_bytes(b"theirs")
    else:
        path.symlink_to(target if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="never overwritten"):
        create_key(tmp_path)
    assert target.read_bytes() == b"theirs"
    assert not (tmp_path / "nowhere").exists()
    other = tmp_path / (JWK_NAME if name == KEY_NAME else KEY_NAME)
    assert not other.exists()


def test_a_loose_key_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path)
    for loose in (0o640, 0o604, 0o660):
        (tmp_path / KEY_NAME).chmod(loose)
        with pytest.raises(ConfigError, match="open to other accounts"):
            load_key(tmp_path)


def test_a_key_behind_a_link_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path / "real")
    (tmp_path / KEY_NAME).symlink_to(tmp_path / "real" / KEY_NAME)
    with pytest.raises(ConfigError, match="symbolic link"):
        load_key(tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / KEY_NAME, 0o600)
    with pytest.raises(ConfigError, match="regular"):
        load_key(tmp_path)


@pytest.mark.parametrize("content", [b"", b"secret words", pem(ec.SECP384R1()), pem(ec.SECP256K1())])
def test_what_is_no_p256_key_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEY_NAME
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_key(tmp_path)
    assert "secret words" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=KEY_NAME):
        load_key(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError):
        create_key(tmp_path / "file" / "state")


def test_counts_stop_at_the_limit_and_begin_anew_each_minute(tmp_path: Path) -> None:
    counters = SqliteCounters(tmp_path / "broker.db")
    assert [counters.count(b"a", minute=1, limit=2) for _ in range(3)] == [True, True, False]
    assert counters.count(b"b", minute=1, limit=2)
    assert counters.count(b"a", minute=2, limit=2)
    assert counters._conn.execute("SELECT name, minute, n FROM counts").fetchall() == [(b"a", 2, 1)]
    counters.close()
    assert mode(tmp_path / "broker.db") == 0o600


def test_counts_are_shared_by_processes_and_survive_a_restart(tmp_path: Path) -> None:
    one, two = SqliteCounters(tmp_path / "broker.db"), SqliteCounters(tmp_path / "broker.db")
    assert one.count(b"a", minute=1, limit=1)
    assert not two.count(b"a", minute=1, limit=1)
    one.close()
    two.close()
    three = SqliteCounters(tmp_path / "broker.db")
    assert not three.count(b"a", minute=1, limit=1)
    three.close()


def test_threads_never_get_more_than_the_limit(tmp_path: Path) -> None:
    counters = SqliteCounters(tmp_path / "broker.db")
    granted: list[bool] = []

    def work() -> None:
        granted.extend(counters.count(b"a", minute=1, limit=25) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters.close()
    assert granted.count(True) == 25


def test_a_state_file_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    conn = sqlite3.connect(path)
    conn.execute("PRAGMA user_version = 7")
    conn.close()
    with pytest.raises(ConfigError, match="version"):
        SqliteCounters(path)
    path.write_bytes(b"not a database at all, and long enough to be looked at" * 20)
    with pytest.raises(ConfigError):
        SqliteCounters(path)


def test_a_state_file_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broker.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        SqliteCounters(tmp_path / "broker.db")
    assert not (tmp_path / "elsewhere").exists()


CONFIG = """
trust_domain = "t.example"
listen = "127.0.0.1:0"
registry_id = "{aud}"
state_dir = "state"
{more}
[tls]
certificate = "c.pem"
key = "k.pem"
ca = "ca.pem"
[signer]
address = "127.0.0.1:7443"
server_name = "signer.t.example"
{quota}
"""


def config(folder: Path, *, aud: str = "ab" * 32, more: str = "", quota: str = "") -> BrokerConfig:
    path = folder / "broker.toml"
    path.write_text(CONFIG.format(aud=aud, more=more, quota=quota))
    return load_config(path, BrokerConfig)


def test_a_configuration_is_read(tmp_path: Path) -> None:
    found = config(tmp_path, quota="[quota]\ndevice_per_minute = 7\nuser_per_minute = 9")
    assert found.database == tmp_path / "state" / "broker.db"
    assert (found.quota.device_per_minute, found.quota.user_per_minute) == (7, 9)
    assert config(tmp_path).quota.device_per_minute > 0


@pytest.mark.parametrize(
    "given", [{"aud": ""}, {"more": "extra = 1"}, {"quota": "[quota]\ndevice_per_minute = 0"}, {"aud": "\u00e4"}]
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        config(tmp_path, **given)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "broker", *words]
    return subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)


def test_init_prints_where_the_key_is_and_never_the_key(tmp_path: Path) -> None:
    done = command("init", "--state-dir", str(tmp_path / "state"))
    assert done.returncode == 0
    assert json.loads((tmp_path / "state" / JWK_NAME).read_text())["kid"] in done.stdout
    assert "PRIVATE" not in done.stdout + done.stderr
    again = command("init", "--state-dir", str(tmp_path / "state"))
    assert again.returncode == 1
    assert again.stderr.startswith("agentkeys-broker: ")
    assert len(again.stderr.splitlines()) == 1


def test_a_bad_configuration_ends_with_one_line(tmp_path: Path) -> None:
    done = command("serve", "--config", str(tmp_path / "missing.toml"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
