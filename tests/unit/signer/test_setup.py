"""What the command line calls: making a deployment, finding its unseal provider, its policy and its profile."""

import json
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import WorkerClass
from agentkeys_core.secret import Secret
from agentkeys_runtime.config import ConfigError
from signer import setup
from signer.adapters.database import StateError, open_state
from signer.adapters.unseal_keyfile import KeyFileUnsealer
from signer.config import ProfileConfig, RoleArns, SignerConfig, StsConfig, TlsConfig, UnsealConfig
from signer.derivation import k3_check
from signer.keyring import Keyring
from signer.policy import service_policy
from signer.ports import VaultError, VaultProblem
from signer.private_files import read_descriptor, write_private
from signer.profile_file import compose, parse_workers
from signer.serving import StartError, check_state_folder, only_signer_of
from signer.setup import create_deployment, ensure_key_file, parse_k3
from signer.unsealing import unsealer_of
from signer.vault import Vault, new_k3

K3 = bytes(range(32))
WORKERS = {kind.value: f"https://{kind.value}.example.org" for kind in WorkerClass}
CA = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


@pytest.fixture
def config(tmp_path: Any) -> Any:
    def made(**changes: Any) -> Any:
        path = tmp_path / "x"
        tls = TlsConfig(certificate=path, key=path, client_ca=path, revocation_list=path)
        values = {
            "trust_domain": "example.org",
            "listen": "127.0.0.1:0",
            "state_dir": tmp_path / "state",
            "vault": tmp_path / "vault.bin",
            "tls": tls,
            "unseal": UnsealConfig(method="key-file", key_file=tmp_path / "key"),
        }
        return SignerConfig(**{**values, **changes})

    return made


def problem_of(call: Any) -> Any:
    with pytest.raises(VaultError) as caught:
        call()
    return caught.value.problem


def made(config: Any, k3: Any = K3) -> Any:
    ensure_key_file(config)
    return create_deployment(config, KeyFileUnsealer(config.unseal.key_file), Secret.copy_of(k3))


def test_makes_a_vault_and_a_state_that_fit(config: Any) -> None:
    registry_id = made(config())
    assert len(bytes.fromhex(registry_id)) == 32
    with Keyring(Vault(config().vault).open(KeyFileUnsealer(config().unseal.key_file))) as keyring:
        assert keyring.k3_check(1) == k3_check(K3)
        open_state(config().database, keyring).close()
    assert made(config(vault=config().vault.with_name("v2"), state_dir=config().state_dir / "2")) != registry_id


def test_changes_nothing_where_something_exists(config: Any) -> None:
    made(config())
    before = {path: path.read_bytes() for path in (config().vault, config().database)}
    assert problem_of(lambda: made(config())) is VaultProblem.EXISTS
    other = config(vault=config().vault.with_name("other"))
    with pytest.raises(StateError):
        made(other)
    assert not other.vault.exists()
    assert {path: path.read_bytes() for path in before} == before


def test_a_vault_without_a_state_is_not_left_behind(config: Any, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StateError("no room")

    monkeypatch.setattr(setup, "initialise", fail)
    with pytest.raises(StateError):
        made(config())
    assert not config().vault.exists()


def test_new_secrets_are_random() -> None:
    assert new_k3().reveal() != new_k3().reveal()


@pytest.mark.parametrize("content", [K3, K3.hex().encode(), K3.hex().encode() + b"\n"])
def test_reads_a_master_secret(content: Any) -> None:
    buffer = bytearray(content)
    assert parse_k3(buffer).reveal() == K3
    assert not any(buffer)


@pytest.mark.parametrize("content", [b"", K3[1:], K3 + b"\n", b"zz" * 32, b"00 " * 21 + b"0", "é".encode() * 32])
def test_refuses_what_is_no_master_secret(content: Any) -> None:
    assert problem_of(lambda: parse_k3(bytearray(content))) is VaultProblem.BAD_SECRET


def test_makes_a_key_file_once(config: Any) -> None:
    assert ensure_key_file(config())
    before = config().unseal.key_file.read_bytes()
    assert not ensure_key_file(config())
    assert config().unseal.key_file.read_bytes() == before
    assert not ensure_key_file(config(unseal=UnsealConfig()))
    config().unseal.key_file.chmod(0o644)
    assert problem_of(lambda: ensure_key_file(config())) is VaultProblem.LOOSE_MODE


def test_a_state_folder_is_the_accounts_own(tmp_path: Any) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    check_state_folder(tmp_path / "state")
    (tmp_path / "link").symlink_to(tmp_path / "state")
    (tmp_path / "loose").mkdir(mode=0o755)
    for name in ("none", "link", "loose"):
        with pytest.raises(StartError):
            check_state_folder(tmp_path / name)


def test_only_one_signer_serves_a_state_folder(config: Any) -> None:
    made(config())
    with only_signer_of(config()), pytest.raises(StartError):
        only_signer_of(config()).__enter__()
    with only_signer_of(config()):
        pass


def opened(config: Any, **given: Any) -> Any:
    options = {"passphrase_file": None, "passphrase_fd": None, **given}
    with unsealer_of(config, **options) as unsealer:
        return repr(unsealer)


def test_finds_the_unseal_provider(config: Any, tmp_path: Any) -> None:
    assert opened(config().unseal).startswith("<KeyFileUnsealer")
    write_private(tmp_path / "passphrase", b"a long passphrase\n", replace=False)
    assert opened(UnsealConfig(passphrase_file=tmp_path / "passphrase")) == "<PassphraseUnsealer>"
    assert opened(UnsealConfig(), passphrase_file=tmp_path / "passphrase") == "<PassphraseUnsealer>"
    assert problem_of(lambda: opened(config().unseal, passphrase_fd=0)) is VaultProblem.WRONG_METHOD


def test_a_passphrase_descriptor_is_read_once_and_closed() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a long passphrase")
    os.close(writing)
    assert opened(UnsealConfig(), passphrase_fd=reading) == "<PassphraseUnsealer>"
    with pytest.raises(OSError):
        os.fstat(reading)
    assert problem_of(lambda: read_descriptor(reading, limit=9, name="closed")) is VaultProblem.UNREADABLE


class Terminal:
    def __init__(self, is_one: Any) -> None:
        self.isatty = lambda: is_one


@pytest.mark.parametrize(
    ("answers", "problem"), [(["one", "other"], VaultProblem.BAD_SECRET), (["same", "same"], None)]
)
def test_a_new_passphrase_is_asked_for_twice(monkeypatch: Any, answers: Any, problem: Any) -> None:
    monkeypatch.setattr("signer.unsealing.sys.stdin", Terminal(is_one=True))
    monkeypatch.setattr("signer.unsealing.getpass.getpass", lambda _: answers.pop(0))
    if problem is None:
        assert opened(UnsealConfig(), new=True) == "<PassphraseUnsealer>"
    else:
        assert problem_of(lambda: opened(UnsealConfig(), new=True)) is problem
    assert answers == []


def test_nothing_is_asked_without_a_terminal(monkeypatch: Any) -> None:
    monkeypatch.setattr("signer.unsealing.sys.stdin", Terminal(is_one=False))
    assert problem_of(lambda: opened(UnsealConfig())) is VaultProblem.BAD_SECRET


def jwk(path: Any, **changes: Any) -> Any:
    public = ES256PublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
    path.write_text(json.dumps({**public.jwk(), **changes}))
    return public


def test_the_policy_pins_every_broker_key(config: Any, tmp_path: Any) -> None:
    keys = [jwk(tmp_path / name) for name in ("a", "b")]
    sts = StsConfig(
        endpoint="https://sts.example.org",
        audience="sts",
        issuer="https://issuer.example.org",
        bucket="bucket",
        role_arns=RoleArns(credentials=("arn",)),
    )
    found = service_policy(config(cosign_keys=(tmp_path / "a", tmp_path / "b"), sts=sts), registry_id="ab" * 32)
    assert set(found.cosign_keys) == {key.kid for key in keys}
    assert found.aud == "ab" * 32
    assert found.sts is not None
    assert found.sts.role_arns == {WorkerClass.CREDENTIALS: {"arn"}, WorkerClass.MEMORY: set()}


@pytest.mark.parametrize("change", [{"d": "AA"}, {"crv": "P-384"}, {"kid": "other"}, {"use": "enc"}])
def test_refuses_what_is_no_public_broker_key(config: Any, tmp_path: Any, change: Any) -> None:
    jwk(tmp_path / "a", **change)
    with pytest.raises(ConfigError):
        service_policy(config(cosign_keys=(tmp_path / "a",)), registry_id="")


def test_refuses_to_serve_without_a_broker_key(config: Any) -> None:
    with pytest.raises(ConfigError):
        service_policy(config(), registry_id="")


def profile(config: Any, tmp_path: Any, **changes: Any) -> Any:
    (tmp_path / "ca.pem").write_text(changes.pop("pem", CA))
    options = {
        "registry_id": "ab" * 32,
        "ca": tmp_path / "ca.pem",
        "broker": "https://broker.example.org",
        "issuer": "https://issuer.example.org",
        "workers": WORKERS,
    }
    return compose(config, **{**options, **changes})


def test_composes_a_profile_from_options_and_configuration(config: Any, tmp_path: Any) -> None:
    found = profile(config(), tmp_path)
    assert (found.aud, found.trust_domain, found.ca) == ("ab" * 32, "example.org", CA)
    defaults = ProfileConfig(ca=tmp_path / "ca.pem", broker=found.broker, issuer=found.issuer, workers=dict(WORKERS))
    nothing: dict[str, Any] = {"ca": None, "broker": None, "issuer": None, "workers": {}}
    assert profile(config(profile=defaults), tmp_path, **nothing).encode() == found.encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"broker": None},
        {"ca": None},
        {"workers": {}},
        {"workers": {**WORKERS, "mail": "https://mail.example.org"}},
        {"broker": "http://broker.example.org"},
        {"issuer": "https://issuer.example.org/"},
        {"pem": "no certificate"},
        {"pem": CA + "é"},
    ],
)
def test_refuses_to_compose_a_profile_that_no_device_would_take(config: Any, tmp_path: Any, changes: Any) -> None:
    with pytest.raises(ConfigError):
        profile(config(), tmp_path, **changes)


@pytest.mark.parametrize("pairs", [["credentials"], ["a=1", "a=2"]])
def test_workers_are_given_once_each(pairs: Any) -> None:
    with pytest.raises(ConfigError):
        parse_workers(pairs)
    assert parse_workers(["a=https://b=c"]) == {"a": "https://b=c"}


def test_a_vault_of_another_deployment_is_refused(config: Any, tmp_path: Any) -> None:
    made(config())
    with Keyring({1: Secret.copy_of(bytes(32))}) as keyring, pytest.raises(KeyServiceError) as caught:
        open_state(config().database, keyring)
    assert caught.value.reason is Reason.K3_MISMATCH
