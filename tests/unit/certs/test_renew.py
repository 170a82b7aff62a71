import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agentkeys_core.ops import WorkerClass
from certs.ca import Authority
from certs.errors import CertsError
from certs.files import Folder
from certs.leaf import ttl_of
from certs.profiles import LeafNames, Role
from certs.renew import renew
from certs.revoke import entry_of, revoke


@pytest.fixture
def out(authority: Authority, tmp_path: Path) -> Path:
    """Folder of a worker's leaf that lives two hours."""
    folder = tmp_path / "worker"
    authority.issue(worker(authority, "main"), folder, ttl=timedelta(hours=2))
    return folder


def worker(authority: Authority, name: str) -> LeafNames:
    return LeafNames.parse(
        trust_domain=authority.trust_domain,
        role=Role.WORKER,
        name=name,
        worker_class=WorkerClass.CREDENTIALS,
        dns=("w.example.org",),
        ips=("10.0.0.1",),
    )


def leaf_in(out: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())[0]


def state(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_new_key_same_identity_same_lifetime(authority: Authority, out: Path) -> None:
    old, old_key = leaf_in(out), (out / "key.pem").read_bytes()
    new = renew(authority, out)
    assert leaf_in(out) == new
    assert new.serial_number != old.serial_number
    assert new.public_key() != old.public_key()
    assert LeafNames.of(new) == LeafNames.of(old)
    assert ttl_of(new) == timedelta(hours=2)
    key = load_pem_private_key((out / "key.pem").read_bytes(), None)
    assert key.public_key() == new.public_key()
    assert (out / "key.pem").read_bytes() != old_key
    assert stat.S_IMODE((out / "key.pem").stat().st_mode) == 0o600
    assert set(state(out)) == {"cert.pem", "key.pem", "ca.pem"}


def test_takes_another_lifetime(authority: Authority, out: Path) -> None:
    assert ttl_of(renew(authority, out, ttl=timedelta(hours=5))) == timedelta(hours=5)


def test_whoever_writes_there_gets_no_other_parts_identity(authority: Authority, out: Path, tmp_path: Path) -> None:
    authority.issue(worker(authority, "other"), tmp_path / "other")
    (out / "cert.pem").write_bytes((tmp_path / "other" / "cert.pem").read_bytes())
    before = state(out)
    with pytest.raises(CertsError, match="not the key"):
        renew(authority, out)
    assert state(out) == before


def test_foreign_leaf_is_refused(out: Path, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "stranger", "keys.example.org")
    before = state(out)
    with pytest.raises(CertsError, match="not issued by this authority"):
        renew(stranger, out)
    assert state(out) == before


def test_revoked_leaf_is_not_renewed(authority: Authority, out: Path) -> None:
    with Folder(authority.folder) as home:
        revoke(home, entry_of(leaf_in(out)))
    before = state(out)
    with pytest.raises(CertsError, match="revoked"):
        renew(authority, out)
    assert state(out) == before


def test_leaf_of_an_earlier_intermediate_is_renewed_under_the_new_one(authority: Authority, out: Path) -> None:
    newer = authority.renew_intermediate()
    assert newer.issued([renew(newer, out)])


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
def test_links_are_refused_and_their_targets_untouched(
    authority: Authority, out: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "target"
    (out / name).rename(target)
    (out / name).symlink_to(target)
    before = target.read_bytes()
    with pytest.raises(CertsError):
        renew(authority, out)
    assert target.read_bytes() == before
    assert (out / name).is_symlink()


def test_loose_key_is_refused(authority: Authority, out: Path) -> None:
    (out / "key.pem").chmod(0o644)
    with pytest.raises(CertsError, match="by others"):
        renew(authority, out)


def test_leftovers_of_a_crash_before_the_renames_do_not_hinder(authority: Authority, out: Path, tmp_path: Path) -> None:
    (out / "key.pem.new").write_text("half")
    (out / "cert.pem.new").symlink_to(tmp_path / "victim")
    renew(authority, out)
    assert set(state(out)) == {"cert.pem", "key.pem", "ca.pem"}
    assert not (tmp_path / "victim").exists()


def test_crash_between_the_renames_is_finished(authority: Authority, out: Path) -> None:
    old_certificate = (out / "cert.pem").read_bytes()
    cut_off = renew(authority, out)
    (out / "cert.pem.new").write_bytes((out / "cert.pem").read_bytes())
    (out / "cert.pem").write_bytes(old_certificate)
    new = renew(authority, out)
    assert new.serial_number != cut_off.serial_number
    assert leaf_in(out) == new


def test_readers_never_see_a_missing_or_half_file(authority: Authority, out: Path) -> None:
    done = threading.Event()
    broken: list[str] = []

    def read() -> None:
        while not done.is_set():
            for name in ("cert.pem", "key.pem"):
                try:
                    text = (out / name).read_text()
                except OSError as error:
                    broken.append(str(error))
                    continue
                if not text.endswith("-----\n"):
                    broken.append(text[-20:])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(10):
            renew(authority, out)
    finally:
        done.set()
        thread.join()
    assert not broken
