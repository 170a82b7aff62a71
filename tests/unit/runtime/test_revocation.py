import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.revocation import RevocationList, parse_revocations

ISSUER = "CN=intermediate keys.example.org,O=AgentKeys"


def encode(*serials: str, issuer: str = ISSUER) -> bytes:
    return json.dumps({"revoked": [{"issuer": issuer, "serial": serial} for serial in serials], "ver": 1}).encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "revoked.json"
    path.write_bytes(encode("1f"))
    return path


def put(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


def test_contains_what_both_issuer_and_serial_name(path: Path) -> None:
    revoked = RevocationList.load(path)
    assert revoked.contains(ISSUER, 0x1F)
    assert not revoked.contains(ISSUER, 0x1E)
    assert not revoked.contains("CN=other", 0x1F)


def test_new_entry_holds_within_a_second(path: Path) -> None:
    revoked = RevocationList.load(path)
    put(path, encode("1f", "2a"))
    deadline = time.monotonic() + 1
    while not revoked.contains(ISSUER, 0x2A):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"revoked":[],"ver":2}', None])
def test_broken_or_missing_list_brings_nothing_revoked_back(path: Path, data: bytes | None) -> None:
    revoked = RevocationList.load(path, interval_s=0)
    if data is None:
        path.unlink()
    else:
        put(path, data)
    assert revoked.contains(ISSUER, 0x1F)
    put(path, encode("2a"))
    assert revoked.contains(ISSUER, 0x2A)


def test_must_exist_and_be_whole_at_start(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ConfigError):
        RevocationList.load(tmp_path / "missing.json")
    path.write_bytes(b"{}")
    with pytest.raises(ConfigError, match="not a revocation list"):
        RevocationList.load(path)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'{"revoked":{},"ver":1}',
        b'{"revoked":[],"ver":true}',
        b'{"revoked":[],"ver":1,"x":0}',
        b'{"revoked":[],"revoked":[],"ver":1}',
        b'{"revoked":["1f"],"ver":1}',
        b'{"revoked":[{"issuer":1,"serial":"1f"}],"ver":1}',
        b'{"revoked":[{"issuer":"x","serial":31}],"ver":1}',
        b'{"revoked":[{"issuer":"x"}],"ver":1}',
        encode("1F"),
        encode("0x1f"),
        encode("1f\n"),
        encode(""),
        encode("1" * 41),
        b"\xff",
    ],
)
def test_refuses_other_shapes(data: bytes) -> None:
    with pytest.raises(KeyServiceError) as caught:
        parse_revocations(data)
    assert caught.value.reason in (Reason.INVALID_ENCODING, Reason.UNKNOWN_FIELDS)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_list_or_a_named_error(data: bytes) -> None:
    try:
        parse_revocations(data)
        reason = None
    except KeyServiceError as error:
        reason = error.reason
    assert reason in (None, Reason.INVALID_ENCODING, Reason.UNKNOWN_FIELDS)


def test_says_too_large() -> None:
    with pytest.raises(KeyServiceError) as caught:
        parse_revocations(b" " * (16 * 1024 * 1024 + 1))
    assert caught.value.reason is Reason.TOO_LARGE
