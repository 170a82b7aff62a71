import json
import threading
from pathlib import Path

import pytest

from agentkeys_runtime.revocation import parse_revocations
from certs.ca import Authority
from certs.errors import CertsError, InvalidInputError
from certs.files import Folder
from certs.leaf import new_key
from certs.profiles import LeafNames, Role
from certs.revoke import REVOKED, Entry, entry_of, parse_serial, read_list, revoke


def put(authority: Authority, entry: Entry) -> bool:
    with Folder(authority.folder) as home:
        return revoke(home, entry)


def test_the_signer_reads_what_is_written(authority: Authority) -> None:
    names = LeafNames.parse(trust_domain=authority.trust_domain, role=Role.DAEMON, name="x")
    leaf = authority.sign(names, new_key().public_key())
    assert parse_revocations((authority.folder / REVOKED).read_bytes()) == frozenset()
    assert put(authority, entry_of(leaf))
    found = parse_revocations((authority.folder / REVOKED).read_bytes())
    assert found == {(leaf.issuer.rfc4514_string(), leaf.serial_number)}


def test_twice_is_once(authority: Authority) -> None:
    assert put(authority, ("CN=x", "1f"))
    before = (authority.folder / REVOKED).read_bytes()
    assert not put(authority, ("CN=x", "1f"))
    assert (authority.folder / REVOKED).read_bytes() == before


def test_entries_stay_and_are_added_in_order(authority: Authority) -> None:
    for serial in ("3", "1", "2"):
        put(authority, ("CN=x", serial))
    with Folder(authority.folder) as home:
        assert read_list(home) == [("CN=x", "3"), ("CN=x", "1"), ("CN=x", "2")]


def test_runs_at_the_same_time_lose_nothing(authority: Authority) -> None:
    threads = [threading.Thread(target=put, args=(authority, ("CN=x", f"{number:x}"))) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parse_revocations((authority.folder / REVOKED).read_bytes())) == 12


@pytest.mark.parametrize(
    "text", ["", "{}", '{"revoked":[],"ver":2}', '{"revoked":[1],"ver":1}', '{"revoked":[],"ver":1,"x":1}']
)
def test_damaged_list_is_left_as_it_is(authority: Authority, text: str) -> None:
    path = authority.folder / REVOKED
    path.write_text(text)
    with pytest.raises(CertsError, match="damaged"):
        put(authority, ("CN=x", "1f"))
    assert path.read_text() == text


def test_linked_list_is_refused(authority: Authority, tmp_path: Path) -> None:
    path = authority.folder / REVOKED
    path.rename(tmp_path / "target")
    path.symlink_to(tmp_path / "target")
    with pytest.raises(CertsError):
        put(authority, ("CN=x", "1f"))
    assert json.loads((tmp_path / "target").read_text())["revoked"] == []


@pytest.mark.parametrize(("text", "serial"), [("1f", "1f"), ("0x1F", "1f"), ("00:1F:02", "1f02"), ("f" * 40, "f" * 40)])
def test_serials_are_read_in_the_usual_forms(text: str, serial: str) -> None:
    assert parse_serial(text) == serial


@pytest.mark.parametrize("text", ["", "0", "xyz", "1 2", "-1", "f" * 41, "\uff11"])
def test_refuses_what_is_no_serial(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_serial(text)
