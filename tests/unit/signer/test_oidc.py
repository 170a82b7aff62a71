import json
import stat
from typing import Any

import pytest

from agentkeys_core.keys import parse_jwks
from agentkeys_core.secret import Secret
from signer import oidc
from signer.keyring import Keyring


@pytest.fixture
def keyring() -> Any:
    with Keyring({1: Secret.copy_of(b"1" * 32), 2: Secret.copy_of(b"2" * 32)}) as made:
        yield made


def test_exports_discovery_and_both_key_sets(tmp_path: Any, keyring: Any) -> None:
    files = oidc.documents(keyring, "https://issuer.example.org")
    written = oidc.export(tmp_path / "site", files)
    assert {str(path.relative_to(tmp_path / "site")) for path in written} == {
        oidc.AUDIT_JWKS,
        oidc.DISCOVERY,
        oidc.JWKS,
    }
    discovery = json.loads((tmp_path / "site" / oidc.DISCOVERY).read_bytes())
    assert discovery["issuer"] == "https://issuer.example.org"
    assert discovery["jwks_uri"] == "https://issuer.example.org/.well-known/jwks.json"
    assert set(parse_jwks((tmp_path / "site" / oidc.JWKS).read_bytes())) == {keyring.oidc_kid(1), keyring.oidc_kid(2)}
    audit = parse_jwks((tmp_path / "site" / oidc.AUDIT_JWKS).read_bytes())
    assert set(audit) == {keyring.audit_kid(1), keyring.audit_kid(2)}


def test_an_export_is_readable_for_a_web_server_and_can_be_repeated(tmp_path: Any, keyring: Any) -> None:
    for _ in range(2):
        for path in oidc.export(tmp_path / "site", oidc.documents(keyring, None)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "site" / ".well-known").stat().st_mode) == 0o755
    assert sorted(path.name for path in (tmp_path / "site" / ".well-known").iterdir()) == [
        "agentkeys-audit-jwks.json",
        "jwks.json",
    ]


def test_an_export_opens_no_folder_that_was_there(tmp_path: Any, keyring: Any) -> None:
    """A home folder named by mistake, say."""
    tmp_path.chmod(0o700)
    oidc.export(tmp_path, oidc.documents(keyring, None))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_failed_export_leaves_the_old_file(tmp_path: Any, keyring: Any, monkeypatch: Any) -> None:
    oidc.export(tmp_path, {oidc.JWKS: b"old"})

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("signer.oidc.os.fsync", fail)
    with pytest.raises(OSError):
        oidc.export(tmp_path, {oidc.JWKS: b"new"})
    assert (tmp_path / oidc.JWKS).read_bytes() == b"old"
    assert [path.name for path in (tmp_path / ".well-known").iterdir()] == ["jwks.json"]
