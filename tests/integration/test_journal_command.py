"""`agentkeys-signer journal verify`: on a running signer's file, on a copy, and on what somebody has touched."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.signer_process import SignerProcess
from tests.integration.signer_user import Deployed, store


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerProcess]:
    made = SignerProcess(tmp_path_factory.mktemp("journal"))
    made.prepare()
    made.start("--allow-software-k11")
    user = Deployed(made)
    user.enrol()
    with made.channel("worker") as channel:
        for number in range(3):
            store(channel, user, f"cred:name{number}")
    yield made
    assert made.stop() == 0


def verify(signer: SignerProcess, *words: str) -> tuple[int, Any]:
    done = signer.command("journal", "verify", "--json", *words)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


@pytest.fixture
def copy(signer: SignerProcess, tmp_path: Path) -> Path:
    """A copy of the state file as it is now."""
    path = tmp_path / "copy.db"
    with closing(sqlite3.connect(signer.folder / "state" / "state.db")) as live, closing(sqlite3.connect(path)) as made:
        live.backup(made)
    return path


def test_a_running_signers_journal_is_as_it_was_written(signer: SignerProcess) -> None:
    before = json.loads(signer.command("status", "--json", check=True).stdout)["journal"]
    status, report = verify(signer, "--known-head", before)
    assert (status, report["ok"], report["rows"]) == (0, True, 4)
    assert report["head"].startswith(f"{report['lines']}:")
    text = signer.command("journal", "verify", check=True).stdout
    assert "True" in text
    assert report["head"] in text


def test_a_copy_is_checked_without_being_written(signer: SignerProcess, copy: Path) -> None:
    content = copy.read_bytes()
    assert verify(signer, "--state", str(copy))[0] == 0
    assert copy.read_bytes() == content


def test_what_was_touched_is_named_by_its_place(signer: SignerProcess, copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as conn:
        conn.execute("DELETE FROM journal WHERE seq = 4")
        conn.commit()
    status, report = verify(signer, "--state", str(copy))
    assert (status, report["ok"], report["line"], report["row"]) == (3, False, 4, None)
    done = signer.command("journal", "verify", "--state", str(copy))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "agentkeys-signer: journal line 4 is missing\n"


def test_an_older_copy_is_told_by_a_head_that_is_known(signer: SignerProcess, copy: Path) -> None:
    head = verify(signer)[1]["head"]
    number, _, digest = head.partition(":")
    signer.command("status", check=True)  # writes a line
    newer = verify(signer)[1]["head"]
    assert verify(signer, "--state", str(copy), "--known-head", head)[0] == 0
    status, report = verify(signer, "--state", str(copy), "--known-head", newer)
    assert (status, report["line"]) == (3, int(number) + 1)
    status, report = verify(signer, "--state", str(copy), "--known-head", f"{number}:{'00' * 32}")
    assert (status, report["line"]) == (3, int(number))
    assert digest != "00" * 32


def test_a_file_put_back_beside_its_stamp_is_told_by_that(signer: SignerProcess, copy: Path) -> None:
    for stamp in (signer.folder / "state").glob("*.stamp"):
        shutil.copy(stamp, copy.parent)
    with closing(sqlite3.connect(copy)) as conn:  # the stamp may have seen a line more by now
        lines = conn.execute("SELECT max(seq) FROM journal").fetchone()[0]
    signer.command("status", check=True)
    while not (report := verify(signer))[1]["lines"] > lines:
        pass
    for stamp in (signer.folder / "state").glob("*.stamp"):
        stamp_words = memoryview(bytearray(stamp.read_bytes())).cast("Q")
        stamp_words[3] = report[1]["lines"]
        (copy.parent / stamp.name).write_bytes(stamp_words.cast("B"))
    status, found = verify(signer, "--state", str(copy))
    assert (status, found["line"]) == (3, lines + 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--state", "/nowhere"), "no state file"),
        (("--state", "/etc/hostname"), "not a readable SQLite file"),
    ],
)
def test_what_cannot_be_checked_ends_with_one(signer: SignerProcess, words: tuple[str, ...], said: str) -> None:
    status, text = verify(signer, *words)
    assert status == 1
    assert said in text


@pytest.mark.parametrize("head", ["", "1", "0:" + "00" * 32, "1:00", "x:" + "00" * 32, "1:" + "ZZ" * 32, "1" * 99])
def test_a_head_that_is_none_is_bad_usage(signer: SignerProcess, head: str) -> None:
    assert signer.command("journal", "verify", "--known-head", head).returncode == 2


def test_damage_of_the_file_itself_is_tampering(signer: SignerProcess, copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    for start in range(8192, len(content), 4096):
        content[start : start + 16] = bytes(16)
    copy.write_bytes(content)
    status, _ = verify(signer, "--state", str(copy))
    assert status in {1, 3}


def test_a_vault_of_another_deployment_says_so(signer: SignerProcess, tmp_path: Path) -> None:
    other = SignerProcess(tmp_path / "other")
    other.folder.mkdir()
    other.prepare()
    status, text = verify(other, "--state", str(signer.folder / "state" / "state.db"))
    assert status == 1
    assert "k3_mismatch" in text
