import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from certs import cli


class Result:
    """What one run of the command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs `agentkeys-certs --dir …` in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: object) -> Result:
        line = ["agentkeys-certs", "--dir", str(self.folder), *(str(word) for word in words)]
        self._monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return Result(int(str(caught.value.code or 0)), out, err)


@pytest.fixture
def certs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.delenv("AGENTKEYS_CA_DIR", raising=False)
    return Command(tmp_path / "ca", monkeypatch, capsys)


@pytest.fixture
def ready(certs: Command) -> Command:
    assert certs("init", "--trust-domain", "keys.example.org").code == 0
    return certs


def test_whole_life_of_a_leaf(ready: Command, tmp_path: Path) -> None:
    out = tmp_path / "w"
    issued = ready("issue", "worker", "main", "--class", "credentials", "--ip", "127.0.0.1", "--out", out, "--json")
    assert issued.code == 0
    assert issued.json["spiffe_id"] == "spiffe://keys.example.org/worker/credentials/main"
    assert (issued.json["role"], issued.json["worker_class"], issued.json["ips"]) == (
        "worker",
        "credentials",
        ["127.0.0.1"],
    )
    assert issued.json["usages"] == ["clientAuth", "serverAuth"]
    shown = ready("show", out, "--json").json
    assert shown["revoked"] is False
    assert shown["serial"] == issued.json["serial"]
    renewed = ready("renew", out, "--json").json
    assert renewed["spiffe_id"] == shown["spiffe_id"]
    assert renewed["serial"] != shown["serial"]
    assert ready("revoke", out).out == f"revoked serial {renewed['serial']}\n"
    assert "already" in ready("revoke", out).out
    assert ready("show", out / "cert.pem", "--json").json["revoked"] is True
    refused = ready("renew", out)
    assert (refused.code, "revoked" in refused.err) == (1, True)
    assert ready("revoke", "--serial", shown["serial"]).code == 0


@pytest.mark.parametrize("role", ["signer", "broker", "daemon", "issuer"])
def test_issues_every_role(ready: Command, tmp_path: Path, role: str) -> None:
    result = ready("issue", role, "main", "--out", tmp_path / role)
    assert result.code == 0
    assert f"spiffe://keys.example.org/{role}/main" in result.out
    assert "BEGIN" not in result.out + result.err


def test_show_for_people_and_of_the_authority(ready: Command, tmp_path: Path) -> None:
    ready("issue", "broker", "main", "--out", tmp_path / "b")
    text = ready("show", tmp_path / "b").out
    for part in ("broker", "spiffe://keys.example.org/broker/main", "clientAuth, serverAuth", "until", "serial"):
        assert part in text
    own = ready("show", "--json").json
    assert (own["root"]["role"], own["intermediate"]["role"]) == ("root", "intermediate")
    assert "intermediate" in ready("show").out


def test_intermediate_is_renewed(ready: Command) -> None:
    before = ready("show", "--json").json["intermediate"]["serial"]
    assert ready("renew-intermediate").code == 0
    assert ready("show", "--json").json["intermediate"]["serial"] != before


@pytest.mark.parametrize(
    "words",
    [
        ("issue", "king", "main"),
        ("issue", "broker", "Main"),
        ("issue", "broker", "../x"),
        ("issue", "worker", "main"),
        ("issue", "worker", "main", "--class", "secrets"),
        ("issue", "broker", "main", "--class", "audit"),
        ("issue", "signer", "main", "--ip", "127.0.0.1"),
        ("issue", "broker", "main", "--dns", "signer.keys.example.org"),
        ("issue", "broker", "main", "--dns", "*.example.org"),
        ("issue", "broker", "main", "--ip", "nowhere"),
        ("issue", "broker", "main", "--ttl-h", "0"),
        ("issue", "broker", "main", "--ttl-h", "nan"),
        ("issue", "broker", "main", "--ttl-h", "inf"),
        ("issue", "broker", "main", "--ttl-h", "1e300"),
        ("issue", "broker", "main", "--ttl-h", "9999"),
    ],
)
def test_wrong_arguments_end_with_2_and_make_nothing(ready: Command, tmp_path: Path, words: tuple[str, ...]) -> None:
    result = ready(*words, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("domain", ["", "Keys.example.org", "a b", "a/b", "10.0.0.1"])
def test_bad_trust_domain_ends_with_2(certs: Command, domain: str) -> None:
    assert certs("init", "--trust-domain", domain).code == 2
    assert not certs.folder.exists()


@pytest.mark.parametrize("hours", ["0", "-1", "nan"])
def test_renewing_for_no_time_changes_nothing(ready: Command, tmp_path: Path, hours: str) -> None:
    ready("issue", "broker", "main", "--out", tmp_path / "b")
    before = (tmp_path / "b" / "cert.pem").read_bytes()
    assert ready("renew", tmp_path / "b", "--ttl-h", hours).code == 2
    assert (tmp_path / "b" / "cert.pem").read_bytes() == before


def test_revoke_takes_one_of_path_and_serial(ready: Command, tmp_path: Path) -> None:
    assert ready("revoke").code == 2
    assert ready("revoke", tmp_path, "--serial", "1").code == 2
    assert ready("revoke", "--serial", "xyz").code == 2


def test_what_is_not_there_ends_with_1(certs: Command, tmp_path: Path) -> None:
    assert certs("issue", "broker", "main", "--out", tmp_path / "b").code == 1
    assert certs("show", tmp_path / "missing.pem").code == 1
    certs("init", "--trust-domain", "keys.example.org")
    again = certs("init", "--trust-domain", "keys.example.org")
    assert (again.code, "nothing was overwritten" in again.err) == (1, True)
    assert certs("renew", tmp_path / "missing").code == 1
    (tmp_path / "text.pem").write_text("no certificate")
    assert certs("show", tmp_path / "text.pem").code == 1
    assert certs("revoke", tmp_path / "text.pem").code == 1


def test_foreign_certificate_is_not_revoked_here(
    ready: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Command(tmp_path / "other", monkeypatch, capsys)
    other("init", "--trust-domain", "keys.example.org")
    other("issue", "broker", "main", "--out", tmp_path / "b")
    result = ready("revoke", tmp_path / "b")
    assert (result.code, "not issued by this authority" in result.err) == (1, True)


def test_folder_may_come_from_the_environment(tmp_path: Path) -> None:
    environment = {**os.environ, "AGENTKEYS_CA_DIR": str(tmp_path / "ca")}
    command = [sys.executable, "-m", "certs", "init", "--trust-domain", "keys.example.org"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "ca" / "ca.pem").exists()


def test_help_names_every_command(certs: Command) -> None:
    text = certs("--help").out
    for name in ("init", "issue", "show", "renew", "renew-intermediate", "revoke"):
        assert name in text
