import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from certs.ca import Authority
from certs.errors import CertsError, InvalidInputError
from certs.leaf import new_key
from certs.profiles import LeafNames, Role
from certs.renew import renew

FILES = {"root.key", "root.pem", "intermediate.key", "intermediate.pem", "ca.pem", "revoked.json"}


def signer_of(authority: Authority) -> LeafNames:
    return LeafNames.parse(trust_domain=authority.trust_domain, role=Role.SIGNER, name="main")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_root_and_intermediate_are_apart(authority: Authority) -> None:
    root, intermediate = authority.root, authority.intermediate
    assert root.public_key() != intermediate.public_key()
    root.verify_directly_issued_by(root)
    intermediate.verify_directly_issued_by(root)
    for certificate, length in ((root, 1), (intermediate, 0)):
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, length)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.key_cert_sign
        assert not usage.value.digital_signature
    assert {path.name for path in authority.folder.iterdir()} == FILES
    assert (authority.folder / "ca.pem").read_bytes() == (authority.folder / "root.pem").read_bytes()


def test_another_x509_library_path_accepts_the_chain(authority: Authority, tmp_path: Path) -> None:
    leaf = authority.issue(signer_of(authority), tmp_path / "out")
    verifier = (
        PolicyBuilder()
        .store(Store([authority.root]))
        .build_server_verifier(x509.DNSName(f"signer.{authority.trust_domain}"))
    )
    assert len(verifier.verify(leaf, [authority.intermediate])) == 3


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_keys_are_private_from_their_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int) -> None:
    at_birth: list[int] = []
    real = os.open

    def watching(*arguments: Any, **options: Any) -> int:
        descriptor = real(*arguments, **options)
        if str(arguments[0]).removesuffix(".new").endswith(("key.pem", ".key")):
            at_birth.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watching)
    before = os.umask(umask)
    try:
        authority = Authority.create(tmp_path / "deep" / "ca", "keys.example.org")
        authority.issue(signer_of(authority), tmp_path / "out")
        renew(authority, tmp_path / "out")
    finally:
        os.umask(before)
    assert set(at_birth) == {0o600}
    for folder in (tmp_path / "deep", authority.folder, tmp_path / "out"):
        assert mode(folder) == 0o700
    for key in (authority.folder / "root.key", authority.folder / "intermediate.key", tmp_path / "out" / "key.pem"):
        assert mode(key) == 0o600


def test_nothing_is_overwritten(authority: Authority, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in authority.folder.iterdir()}
    with pytest.raises(CertsError, match="nothing was overwritten"):
        Authority.create(authority.folder, "other.example.org")
    assert {path.name: path.read_bytes() for path in authority.folder.iterdir()} == before
    out = tmp_path / "out"
    authority.issue(signer_of(authority), out)
    issued = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(CertsError, match="nothing was overwritten"):
        authority.issue(signer_of(authority), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == issued


@pytest.mark.parametrize("name", ["key.pem", "cert.pem", "ca.pem"])
def test_one_existing_file_stops_the_issue_and_leaves_no_other(authority: Authority, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    (out / name).write_text("mine")
    with pytest.raises(CertsError, match="nothing was overwritten"):
        authority.issue(signer_of(authority), out)
    assert [path.name for path in out.iterdir()] == [name]
    assert (out / name).read_text() == "mine"


def test_issuing_needs_no_root_key(authority: Authority, tmp_path: Path) -> None:
    (authority.folder / "root.key").unlink()
    opened = Authority.open(authority.folder)
    opened.issue(signer_of(opened), tmp_path / "out")
    assert opened.trust_domain == "keys.example.org"


@pytest.mark.parametrize("name", ["intermediate.key", "root.key"])
@pytest.mark.parametrize("loose", [0o640, 0o604, 0o620])
def test_loose_keys_are_refused(authority: Authority, name: str, loose: int) -> None:
    (authority.folder / name).chmod(loose)
    with pytest.raises(CertsError, match="by others"):
        Authority.open(authority.folder).renew_intermediate()


@pytest.mark.parametrize("name", ["intermediate.key", "intermediate.pem", "root.pem"])
def test_links_are_refused(authority: Authority, tmp_path: Path, name: str) -> None:
    path = authority.folder / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CertsError, match="cannot be read"):
        Authority.open(authority.folder)


def test_linked_folders_are_refused(authority: Authority, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(authority.folder)
    with pytest.raises(CertsError, match="symbolic link"):
        Authority.open(link)
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "out").symlink_to(tmp_path / "target")
    with pytest.raises(CertsError, match="symbolic link"):
        authority.issue(signer_of(authority), tmp_path / "out")
    assert not list((tmp_path / "target").iterdir())


def test_linked_files_lead_nowhere(authority: Authority, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    (out / "key.pem").symlink_to(tmp_path / "victim")
    with pytest.raises(CertsError, match="nothing was overwritten"):
        authority.issue(signer_of(authority), out)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("loose", [0o777, 0o770, 0o720])
def test_folders_that_others_write_to_are_refused(authority: Authority, tmp_path: Path, loose: int) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(loose)
    with pytest.raises(CertsError, match="by others"):
        authority.issue(signer_of(authority), out)
    assert not list(out.iterdir())


def test_mixed_up_files_are_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "keys.example.org")
    for name in ("root.pem", "intermediate.key"):
        mine = authority.folder / name
        kept = mine.read_bytes()
        mine.write_bytes((other.folder / name).read_bytes())
        with pytest.raises(CertsError):
            Authority.open(authority.folder)
        mine.write_bytes(kept)
    for name in ("root.pem", "intermediate.pem", "intermediate.key"):
        mine = authority.folder / name
        kept = mine.read_bytes()
        mine.write_bytes(b"garbage")
        with pytest.raises(CertsError):
            Authority.open(authority.folder)
        mine.write_bytes(kept)
    Authority.open(authority.folder)


def test_bad_trust_domain_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        Authority.create(tmp_path / "ca", "Bad Domain")
    assert not (tmp_path / "ca").exists()


def test_leaf_of_another_trust_domain_is_refused(authority: Authority) -> None:
    names = LeafNames.parse(trust_domain="other.example.org", role=Role.SIGNER, name="main")
    with pytest.raises(CertsError, match="another trust domain"):
        authority.sign(names, new_key().public_key())


def test_renewed_intermediate_leaves_old_leaves_valid(authority: Authority, tmp_path: Path) -> None:
    old = authority.issue(signer_of(authority), tmp_path / "out")
    renewed = authority.renew_intermediate()
    assert renewed.intermediate.public_key() != authority.intermediate.public_key()
    assert renewed.intermediate.subject == authority.intermediate.subject
    assert renewed.issued([old, authority.intermediate])
    assert not renewed.issued([old])
    assert mode(authority.folder / "intermediate.key") == 0o600


def test_replacement_of_the_intermediate_that_was_cut_off_is_finished(authority: Authority, tmp_path: Path) -> None:
    folder = authority.folder
    old = (folder / "intermediate.pem").read_bytes()
    authority.renew_intermediate()
    new = (folder / "intermediate.pem").read_bytes()
    # As it stands between the two renames.
    (folder / "intermediate.pem.new").write_bytes(new)
    (folder / "intermediate.pem").write_bytes(old)
    opened = Authority.open(folder)
    opened.issue(signer_of(opened), tmp_path / "out")
    assert (folder / "intermediate.pem").read_bytes() == new


def test_foreign_root_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "keys.example.org")
    (authority.folder / "root.key").write_bytes((other.folder / "root.key").read_bytes())
    with pytest.raises(CertsError, match=r"not the key of root\.pem"):
        authority.renew_intermediate()


def test_key_is_in_no_repr(authority: Authority) -> None:
    assert "key=" not in repr(authority)
