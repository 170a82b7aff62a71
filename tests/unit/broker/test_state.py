"""K1 on disk, the counters, the configuration and the command line."""

import hashlib
import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentkeys_core.keys import ES256PublicKey
from agentkeys_runtime.config import ConfigError, load_config
from broker.adapters.store.engine import database_url, open_engine
from broker.config import BrokerConfig
from broker.keyfile import (
    JWK_NAME,
    KEY_NAME,
    NEXT_JWK_NAME,
    NEXT_KEY_NAME,
    PREVIOUS_KEY_NAME,
    _read_key,
    create_key,
    forget_key,
    load_keys,
    prepare_key,
    promote_key,
)

ISSUERS = ("https://accounts.example.com", "https://login.example.org/tenant")


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
    assert ES256PublicKey.of(load_keys(folder).active.public_key()) == public


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
            load_keys(tmp_path)


def test_a_key_behind_a_link_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path / "real")
    (tmp_path / KEY_NAME).symlink_to(tmp_path / "real" / KEY_NAME)
    with pytest.raises(ConfigError, match="symbolic link"):
        load_keys(tmp_path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / KEY_NAME, 0o600)
    with pytest.raises(ConfigError, match="regular"):
        load_keys(tmp_path)


@pytest.mark.parametrize("content", [b"", b"secret words", pem(ec.SECP384R1()), pem(ec.SECP256K1())])
def test_what_is_no_p256_key_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEY_NAME
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_keys(tmp_path)
    assert "secret words" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=KEY_NAME):
        load_keys(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError):
        create_key(tmp_path / "file" / "state")


CONFIG = """
trust_domain = "t.example"
listen = "127.0.0.1:0"
origin = "{origin}"
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


ORIGIN = "https://broker.t.example"


def config(
    folder: Path, *, aud: str = "ab" * 32, more: str = "", quota: str = "", origin: str = ORIGIN
) -> BrokerConfig:
    path = folder / "broker.toml"
    path.write_text(CONFIG.format(aud=aud, more=more, quota=quota, origin=origin))
    return load_config(path, BrokerConfig)


def test_a_configuration_is_read(tmp_path: Path) -> None:
    found = config(tmp_path, quota="[quota]\ndevice_per_minute = 7\nuser_per_minute = 9")
    assert (found.state_dir, found.store.postgresql) == (tmp_path / "state", None)
    assert (found.quota.device_per_minute, found.quota.user_per_minute) == (7, 9)
    assert config(tmp_path).quota.device_per_minute > 0


@pytest.mark.parametrize(
    "given",
    [
        {"aud": ""},
        {"more": "extra = 1"},
        {"quota": "[quota]\ndevice_per_minute = 0"},
        {"aud": "\u00e4"},
        {"origin": "http://broker.t.example"},
        {"origin": "https://broker.t.example/"},
        {"quota": '[store]\npostgresql = "mysql://x"'},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        config(tmp_path, **given)


def test_a_password_of_the_store_stays_out_of_texts(tmp_path: Path) -> None:
    found = config(tmp_path, quota='[store]\npostgresql = "postgresql://agentkeys:hush@127.0.0.1:1/x"')
    assert "hush" not in repr(found)
    with pytest.raises(ConfigError) as caught:
        open_engine(database_url(found.store.postgresql, tmp_path))
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        database_url("postgresql://agentkeys:hush@[::1/x", tmp_path)
    assert "hush" not in str(caught.value)


def kids(folder: Path) -> tuple[str, set[str]]:
    keys = load_keys(folder)
    return keys.kid, set(keys.verifying)


def test_k1_is_replaced_with_an_overlap(tmp_path: Path) -> None:
    old = create_key(tmp_path).kid
    new = prepare_key(tmp_path).kid
    assert mode(tmp_path / NEXT_KEY_NAME) == 0o600
    assert json.loads((tmp_path / NEXT_JWK_NAME).read_text())["kid"] == new
    assert kids(tmp_path) == (old, {old, new})  # prepared, it signs nothing; other brokers may have promoted it
    with pytest.raises(ConfigError, match="never overwritten"):
        prepare_key(tmp_path)
    assert promote_key(tmp_path).kid == new
    assert json.loads((tmp_path / JWK_NAME).read_text())["kid"] == new
    assert kids(tmp_path) == (new, {new, old})
    with pytest.raises(ConfigError):
        promote_key(tmp_path)
    forget_key(tmp_path)
    assert kids(tmp_path) == (new, {new})
    with pytest.raises(ConfigError):
        forget_key(tmp_path)


def test_a_second_replacement_waits_until_the_first_is_forgotten(tmp_path: Path) -> None:
    create_key(tmp_path)
    prepare_key(tmp_path)
    kept = promote_key(tmp_path).kid
    prepare_key(tmp_path)
    before = kids(tmp_path)
    with pytest.raises(ConfigError, match="never overwritten"):
        promote_key(tmp_path)
    assert kids(tmp_path) == before
    assert before[0] == kept


class Killed(BaseException):
    """Ends a command where it is: nothing that handles errors runs."""


#: What changes files; pathlib calls the same.
CHANGES = ("open", "link", "replace", "unlink", "fsync", "fchmod")


def cut_short(monkeypatch: pytest.MonkeyPatch, step: int, run: Callable[[], object]) -> bool:
    """Run, and end before the step of that number; whether there was one."""
    left = step

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **given: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **given)

        return call

    with monkeypatch.context() as patched:
        for name in CHANGES:
            patched.setattr(os, name, dying(getattr(os, name)))
        try:
            run()
        except Killed:
            return True
    return False


def test_a_promotion_cut_short_anywhere_goes_on_when_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in itertools.count():
        folder = tmp_path / str(step)
        old, new = create_key(folder).kid, prepare_key(folder).kid
        if not cut_short(monkeypatch, step, lambda folder=folder: promote_key(folder)):  # type: ignore[misc]
            break
        assert kids(folder)[1] == {old, new}  # the broker starts, and knows both
        if PREVIOUS_KEY_NAME in os.listdir(folder) and kid_of(folder / JWK_NAME) == new:
            continue  # nothing was left to do but to tell so
        assert promote_key(folder).kid == new
        assert kids(folder) == (new, {new, old})
        assert sorted(os.listdir(folder)) == sorted([KEY_NAME, PREVIOUS_KEY_NAME, JWK_NAME])
        assert (kid_of(folder / JWK_NAME), mode(folder / KEY_NAME)) == (new, 0o600)
        prepare_key(folder)
    assert step > 10


def test_a_key_whose_making_is_cut_short_anywhere_is_made_when_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for make, key, jwk in ((create_key, KEY_NAME, JWK_NAME), (prepare_key, NEXT_KEY_NAME, NEXT_JWK_NAME)):
        for step in itertools.count():
            folder = tmp_path / f"{key}-{step}"
            if make is prepare_key:
                create_key(folder)
            if not cut_short(monkeypatch, step, lambda make=make, folder=folder: make(folder)):  # type: ignore[misc]
                break
            if not (folder / jwk).exists():
                assert make(folder).kid == kid_of(folder / jwk)
            assert ES256PublicKey.of(_read_key(folder / key).public_key()).kid == kid_of(folder / jwk)
            assert mode(folder / key) == 0o600
        assert step > 10


def test_a_prepared_key_without_its_public_half_is_promoted_with_it(tmp_path: Path) -> None:
    """As one of several brokers is given it, or where the host moved the file to pin it elsewhere."""
    create_key(tmp_path)
    new = prepare_key(tmp_path).kid
    (tmp_path / NEXT_JWK_NAME).unlink()
    assert promote_key(tmp_path).kid == new
    assert kid_of(tmp_path / JWK_NAME) == new


def test_a_missing_public_half_is_no_promotion_cut_short(tmp_path: Path) -> None:
    create_key(tmp_path)
    (tmp_path / JWK_NAME).unlink()
    with pytest.raises(ConfigError, match=NEXT_KEY_NAME):
        promote_key(tmp_path)


def kid_of(path: Path) -> str:
    found: str = json.loads(path.read_text())["kid"]
    return found


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


def test_the_address_to_register_at_each_provider_is_printed(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    tables = "".join(f'[[providers]]\nissuer = "{issuer}"\nclient_id = "c"\n' for issuer in ISSUERS)
    config.write_text(
        'trust_domain = "keys.test"\nlisten = "127.0.0.1:0"\norigin = "https://broker.test"\nregistry_id = "ab"\n'
        'state_dir = "state"\n[tls]\ncertificate = "c"\nkey = "k"\nca = "a"\n'
        f'[signer]\naddress = "127.0.0.1:1"\nserver_name = "signer.keys.test"\n{tables}'
    )
    done = command("providers", "--config", str(config))
    assert done.returncode == 0, done.stderr
    ways = [hashlib.sha256(issuer.encode()).hexdigest()[:32] for issuer in ISSUERS]
    callback = "https://broker.test/identity/oidc/callback"
    assert done.stdout.splitlines() == [
        line
        for issuer, way in zip(ISSUERS, ways, strict=True)
        for line in (f"issuer    {issuer}", f"redirect  {callback}/{way}")
    ]
