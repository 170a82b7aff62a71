import os
import stat
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.secret import Secret
from signer.adapters.unseal_keyfile import KeyFileUnsealer
from signer.adapters.unseal_passphrase import Argon2Cost, PassphraseUnsealer, passphrase_secret
from signer.ports import SealParameters, UnsealMethod, VaultError, VaultProblem
from signer.private_files import read_private, write_private
from signer.vault import Vault

K3 = {1: bytes(range(32)), 2: bytes(range(1, 33))}
CHEAP = Argon2Cost(iterations=1, lanes=1, memory_kib=8)
NONCE, HEADER = 46, 58


def unsealer(text: Any = b"a passphrase of the host", cost: Any = CHEAP) -> Any:
    return PassphraseUnsealer(Secret.copy_of(text), cost)


def held(epochs: Any = (1, 2)) -> Any:
    return {epoch: Secret.copy_of(K3[epoch]) for epoch in epochs}


def shown(secrets: Any) -> Any:
    return {epoch: secret.reveal() for epoch, secret in secrets.items()}


@pytest.fixture
def vault(tmp_path: Any) -> Any:
    made = Vault(tmp_path / "vault.bin")
    made.create(unsealer(), held((1,)))
    return made


def problem_of(call: Any) -> Any:
    with pytest.raises(VaultError) as caught:
        call()
    return caught.value.problem


def test_opens_what_was_sealed(vault: Any) -> None:
    assert shown(vault.open(unsealer())) == {1: K3[1]}
    assert stat.S_IMODE(vault.path.stat().st_mode) == 0o600
    assert K3[1] not in vault.path.read_bytes()


def test_adds_an_epoch_without_the_passphrase_under_a_fresh_nonce(vault: Any) -> None:
    before = vault.path.read_bytes()
    _, key = vault.unlock(unsealer())
    vault.add(key, 2, Secret.copy_of(K3[2]))
    assert shown(vault.open(unsealer())) == shown(vault.reopen(key)) == K3
    after = vault.path.read_bytes()
    assert before[:NONCE] == after[:NONCE]
    assert before[NONCE:HEADER] != after[NONCE:HEADER]


def test_a_key_that_was_wiped_opens_and_adds_nothing(vault: Any) -> None:
    _, key = vault.unlock(unsealer())
    key.wipe()
    assert repr(key) == "<VaultKey>"
    for call in (lambda: vault.reopen(key), lambda: vault.add(key, 2, Secret.copy_of(K3[2]))):
        with pytest.raises(KeyServiceError) as caught:
            call()
        assert caught.value.reason is Reason.SEALED


def test_a_file_that_was_sealed_anew_does_not_open_under_the_old_key(vault: Any) -> None:
    _, key = vault.unlock(unsealer())
    vault.path.unlink()
    vault.create(unsealer(), held((1,)))
    assert problem_of(lambda: vault.reopen(key)) is VaultProblem.CANNOT_OPEN


def test_never_generates_a_held_epoch_anew(vault: Any) -> None:
    before = vault.path.read_bytes()
    assert (
        problem_of(lambda: vault.add(vault.unlock(unsealer())[1], 1, Secret.copy_of(K3[2])))
        is VaultProblem.EPOCH_EXISTS
    )
    assert vault.path.read_bytes() == before


def test_creates_nothing_over_an_existing_file(vault: Any) -> None:
    before = vault.path.read_bytes()
    assert problem_of(lambda: vault.create(unsealer(), held())) is VaultProblem.EXISTS
    assert vault.path.read_bytes() == before
    assert [path.name for path in vault.path.parent.iterdir()] == ["vault.bin"]


def test_a_wrong_passphrase_is_a_clear_error_and_changes_nothing(vault: Any) -> None:
    before = vault.path.read_bytes()
    assert problem_of(lambda: vault.open(unsealer(b"some other passphrase"))) is VaultProblem.CANNOT_OPEN
    assert vault.path.read_bytes() == before


@pytest.mark.parametrize("position", [18, 22, 26, 30, 45, 46, 57, HEADER, -1])
def test_every_part_of_the_file_is_authenticated(vault: Any, position: Any) -> None:
    data = bytearray(vault.path.read_bytes())
    data[position] ^= 1
    vault.path.write_bytes(data)
    problem = problem_of(lambda: vault.open(unsealer()))
    assert problem in {VaultProblem.CANNOT_OPEN, VaultProblem.BAD_PARAMETERS}
    assert vault.path.read_bytes() == data


def test_the_header_is_bound_even_where_the_key_does_not_depend_on_it(vault: Any, monkeypatch: Any) -> None:
    data = bytearray(vault.path.read_bytes())
    data[25] ^= 2  # lanes: 3 instead of 1

    class Stubborn:
        def key(self, parameters: Any) -> Any:
            return unsealer().key(
                SealParameters(method=parameters.method, iterations=1, lanes=1, memory_kib=8, salt=parameters.salt)
            )

    assert shown(vault.open(Stubborn())) == {1: K3[1]}
    vault.path.write_bytes(data)
    assert problem_of(lambda: vault.open(Stubborn())) is VaultProblem.CANNOT_OPEN


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", VaultProblem.TRUNCATED),
        (b"agentkeys-vault\x00", VaultProblem.TRUNCATED),
        (b"agentkeys-vault\x00" + bytes(100), VaultProblem.UNSUPPORTED_VERSION),
        (b"agentkeys-vault\x00\x01\x63" + bytes(100), VaultProblem.WRONG_METHOD),
        (b"agentkeys-vault\x00\x01\x02" + bytes(100), VaultProblem.WRONG_METHOD),
        (b"agentkeys-vault\x00\x01\x01" + bytes(100), VaultProblem.BAD_PARAMETERS),
        (b"-----BEGIN" + bytes(200), VaultProblem.NOT_A_VAULT),
        (bytes(100_000), VaultProblem.TOO_LARGE),
    ],
)
def test_names_what_is_wrong_with_the_file(vault: Any, content: Any, problem: Any) -> None:
    vault.path.write_bytes(content)
    assert problem_of(lambda: vault.open(unsealer())) is problem


def test_every_truncation_is_named(vault: Any) -> None:
    data = vault.path.read_bytes()
    for length in range(len(data)):
        vault.path.write_bytes(data[:length])
        assert problem_of(lambda: vault.open(unsealer())) in {VaultProblem.TRUNCATED, VaultProblem.CANNOT_OPEN}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.integers(0, 150))
def test_random_and_mutated_bytes_give_a_named_error(vault: Any, noise: Any, position: Any) -> None:
    data = vault.path.read_bytes()
    target = Vault(vault.path.with_name("mutated"))
    write_private(target.path, data[:position] + noise + data[position + len(noise) :], replace=True)
    if target.path.read_bytes() == data:
        return
    assert problem_of(lambda: target.open(unsealer())) in VaultProblem


@pytest.mark.parametrize("field", ["iterations", "lanes", "memory_kib"])
@pytest.mark.parametrize("value", [0, 2**32 - 1])
def test_a_header_cannot_ask_for_impossible_costs(field: Any, value: Any) -> None:
    costs = {"iterations": 1, "lanes": 1, "memory_kib": 8, field: value}
    parameters = SealParameters(method=UnsealMethod.PASSPHRASE, salt=bytes(16), **costs)
    assert problem_of(lambda: unsealer().key(parameters)) is VaultProblem.BAD_PARAMETERS


def test_content_that_opens_but_is_no_vault_is_named(vault: Any, monkeypatch: Any) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    sealed = vault.path.read_bytes()
    from signer.vault import _parse_header

    parameters, nonce = _parse_header(sealed, vault.path)
    key = unsealer().key(parameters)
    good = AESGCM(key.reveal()).decrypt(nonce, sealed[HEADER:], sealed[:HEADER])
    for content in (b"\x00\x02" + good[2:], b"\x00\x00" + good[2:], b"\x00\x02" + good[2:] * 2, good[:2] + bytes(36)):
        vault.path.write_bytes(sealed[:HEADER] + AESGCM(key.reveal()).encrypt(nonce, content, sealed[:HEADER]))
        assert problem_of(lambda: vault.open(unsealer())) is VaultProblem.BAD_CONTENT


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_refuses_loose_modes(vault: Any, mode: Any) -> None:
    vault.path.chmod(mode)
    assert problem_of(lambda: vault.open(unsealer())) is VaultProblem.LOOSE_MODE


def test_refuses_symlinks(vault: Any) -> None:
    link = vault.path.with_name("link")
    link.symlink_to(vault.path)
    assert problem_of(lambda: Vault(link).open(unsealer())) is VaultProblem.NOT_A_REGULAR_FILE


def test_refuses_what_is_no_file(tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert problem_of(lambda: read_private(tmp_path / "pipe", limit=9)) is VaultProblem.NOT_A_REGULAR_FILE
    assert problem_of(lambda: read_private(tmp_path, limit=9)) is VaultProblem.NOT_A_REGULAR_FILE
    assert problem_of(lambda: read_private(tmp_path / "none", limit=9)) is VaultProblem.NOT_FOUND


def test_refuses_a_file_of_another_account(vault: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("signer.private_files.os.geteuid", lambda: 12_345)
    assert problem_of(lambda: vault.open(unsealer())) is VaultProblem.WRONG_OWNER


def test_a_failed_write_leaves_the_old_file_and_no_other(vault: Any, monkeypatch: Any) -> None:
    before = vault.path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("signer.private_files.os.fsync", fail)
    assert (
        problem_of(lambda: vault.add(vault.unlock(unsealer())[1], 2, Secret.copy_of(K3[2]))) is VaultProblem.UNREADABLE
    )
    assert vault.path.read_bytes() == before
    assert [path.name for path in vault.path.parent.iterdir()] == ["vault.bin"]


def test_writes_are_synced_before_they_are_named(tmp_path: Any, monkeypatch: Any) -> None:
    order: list[str] = []

    def noting(name: str, call: Any) -> Any:
        def noted(*args: Any) -> Any:
            order.append(name)
            return call(*args)

        return noted

    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr("signer.private_files.os.fsync", noting("fsync", fsync))
    monkeypatch.setattr("signer.private_files.os.rename", noting("rename", rename))
    write_private(tmp_path / "f", b"x", replace=True)
    assert order == ["fsync", "rename", "fsync"]


def test_key_files_unseal(tmp_path: Any) -> None:
    key = tmp_path / "key"
    write_private(key, os.urandom(32), replace=False)
    vault = Vault(tmp_path / "vault.bin")
    vault.create(KeyFileUnsealer(key), held())
    assert shown(vault.open(KeyFileUnsealer(key))) == K3
    assert problem_of(lambda: vault.open(unsealer())) is VaultProblem.WRONG_METHOD
    write_private(key, os.urandom(32), replace=True)
    assert problem_of(lambda: vault.open(KeyFileUnsealer(key))) is VaultProblem.CANNOT_OPEN


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_file_has_exactly_32_bytes(tmp_path: Any, length: Any) -> None:
    key = tmp_path / "key"
    write_private(key, bytes(length), replace=False)
    problem = problem_of(lambda: Vault(tmp_path / "v").create(KeyFileUnsealer(key), held()))
    assert problem in {VaultProblem.BAD_SECRET, VaultProblem.TOO_LARGE}
    assert not (tmp_path / "v").exists()


def test_a_key_file_has_no_costs(tmp_path: Any) -> None:
    write_private(tmp_path / "key", bytes(32), replace=False)
    parameters = SealParameters(method=UnsealMethod.KEY_FILE, iterations=1, lanes=0, memory_kib=0, salt=bytes(16))
    assert problem_of(lambda: KeyFileUnsealer(tmp_path / "key").key(parameters)) is VaultProblem.BAD_PARAMETERS


def test_a_new_vault_takes_no_short_passphrase(tmp_path: Any) -> None:
    assert problem_of(lambda: Vault(tmp_path / "v").create(unsealer(b"eleven byte"), held())) is VaultProblem.BAD_SECRET


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_one_line_end_is_not_part_of_a_passphrase(end: Any) -> None:
    content = bytearray(b" pass \n phrase " + end)
    assert passphrase_secret(content).reveal() == b" pass \n phrase "
    assert not any(content)


def test_unsealers_show_nothing(tmp_path: Any) -> None:
    secret = unsealer()
    assert "passphrase of" not in repr(secret)
    secret.wipe()
    with pytest.raises(ValueError):
        secret.key(secret.parameters())
    assert repr(KeyFileUnsealer(tmp_path / "key")) == f"<KeyFileUnsealer {tmp_path / 'key'}>"
