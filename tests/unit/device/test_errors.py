"""Exit codes: total, stable, documented."""

import json
from pathlib import Path

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from device import cli
from device.cli import _globals_first, run
from device.errors import DeviceError, ExitCode, Trouble, exit_code


def test_every_reason_has_an_exit_code() -> None:
    for reason in Reason:
        assert exit_code(KeyServiceError(reason)) in set(ExitCode) - {ExitCode.OK}
    for trouble in Trouble:
        assert exit_code(DeviceError(trouble)) in set(ExitCode) - {ExitCode.OK}


def test_exit_codes_are_those_documented() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "REFUSED": 1, "USAGE": 2, "DENIED": 3, "NOT_FOUND": 4, "UNAVAILABLE": 5, "UNTRUSTED": 6, "CONFLICT": 7,
    }  # fmt: skip


def test_device_and_service_reasons_do_not_meet() -> None:
    assert not {str(trouble) for trouble in Trouble} & {str(reason) for reason in Reason} - {"internal"}


@pytest.mark.parametrize(
    "args", [["nonsense"], ["cred"], ["cred", "get"], ["--bogus"], ["init"], ["cred", "put", "a", "b"]]
)
def test_wrong_arguments_are_usage(args: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    capfd.readouterr()
    code = run(["--json", *args])
    err = capfd.readouterr().err
    assert code in (0, 2)
    if code and err:
        assert json.loads(err)["error"]["reason"] == "usage"


def test_help_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "Exit codes" in capfd.readouterr().out


def test_unexpected_errors_show_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def explode(**_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(cli, "app", explode)
    assert run(["whoami"]) == 1
    err = capfd.readouterr().err
    assert "internal: RuntimeError" in err
    assert "a secret" not in err


def test_interruption_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    assert run(["whoami"]) == 130


def test_global_options_move_to_the_front() -> None:
    assert _globals_first(["cred", "get", "x", "--json", "--home", "h", "--yes"]) == [
        "--json",
        "--home",
        "h",
        "--yes",
        "cred",
        "get",
        "x",
    ]
    assert _globals_first(["cred", "get", "--", "--json"]) == ["cred", "get", "--", "--json"]
    assert _globals_first(["whoami", "--home=h", "-y", "--home"]) == ["--home=h", "-y", "--home", "whoami"]


def test_missing_folder_is_not_made_by_reading(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--home", str(tmp_path / "none"), "whoami"]) == 2
    assert not (tmp_path / "none").exists()
    assert "not_initialised" in capfd.readouterr().err
