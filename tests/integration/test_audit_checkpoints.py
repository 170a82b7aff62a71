"""Checkpoints through real processes: signed by the signer, kept by the audit worker, verified by a device."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.checkpoint import Checkpoint
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.jwks import jwks_document
from agentkeys_core.keys import ES256PublicKey
from device import checkpoints
from device.audit_trail import export_own
from device.checkpoints import FILE, Coverage, Seen, cover, latest
from device.cli import run
from device.credentials import put
from device.errors import DeviceError, Trouble
from device.problems import check_refusal
from tests.adversarial.town import Member, Town, eventually, town_in


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("checkpoints") / "stack") as made:
        yield made


@pytest.fixture
def master(town: Town) -> Member:
    return town.master()


def covered(master: Member, count: int) -> Coverage:
    """The coverage once a checkpoint holds so many of the master's rows."""
    found: list[Coverage] = []

    def check() -> bool:
        try:
            found.append(cover(master.device, export_own(master.device)[0].rows))
        except KeyServiceError:
            return False  # none was signed yet
        return found[-1].covered >= count

    eventually(check)
    return found[-1]


def test_a_devices_rows_are_in_the_signed_history(master: Member) -> None:
    for number in range(3):
        put(master.device, f"name{number}", b"x")
    first = covered(master, 4)
    put(master.device, "more", b"x")
    later = covered(master, first.covered + 2)
    assert later.checkpoint.size > first.checkpoint.size
    assert Seen.load(master.device.home) == Seen(size=later.checkpoint.size, root=later.checkpoint.root)


def test_the_command_says_so(master: Member, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put(master.device, "name", b"x")
    covered(master, 2)
    home = ["--home", str(master.device.home.path), "--json"]
    master.device.home.close()
    assert run([*home, "audit", "export", "--out", str(tmp_path / "rows")]) == 0
    capfd.readouterr()
    assert run([*home, "audit", "verify", str(tmp_path / "rows"), "--checkpoint"]) == 0
    told = json.loads(capfd.readouterr().out)["checkpoint"]
    assert told["covered"] >= 2
    assert told["size"] >= told["covered"]


def test_a_restarted_audit_worker_goes_on(town: Town, master: Member) -> None:
    put(master.device, "name", b"x")
    before = covered(master, 2).checkpoint
    town.restart("audit")
    put(master.device, "name", b"y")
    assert covered(master, 4).checkpoint.size > before.size


def untrusted(call: Callable[[], object]) -> None:
    with pytest.raises(DeviceError) as caught:
        call()
    assert caught.value.reason is Trouble.EXPORT_NOT_TRUSTED


def test_a_history_that_went_back_or_was_changed_is_noticed(master: Member) -> None:
    """As after a signer's state was put back: the device has seen more, or other rows."""
    put(master.device, "name", b"x")
    now = covered(master, 2).checkpoint
    for seen in (
        Seen(size=now.size + 1000, root=now.root),
        Seen(size=now.size, root=b"x" * 32),
        Seen(size=now.size - 1, root=b"x" * 32),
    ):
        master.device.home.write(FILE, seen.encode())
        untrusted(lambda: latest(master.device))
        assert Seen.load(master.device.home) == seen, "what was seen stays seen"


def test_a_row_that_is_not_in_the_history_is_noticed(master: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    put(master.device, "name", b"x")
    covered(master, 3)
    rows = export_own(master.device)[0].rows
    real = checkpoints._places

    def without(index: int, device: object, checkpoint: Checkpoint, page: object) -> object:
        places = real(device, checkpoint, page)  # type: ignore[arg-type]
        return [None if number == index else place for number, place in enumerate(places)]

    monkeypatch.setattr(checkpoints, "_places", lambda *given: without(0, *given))
    untrusted(lambda: cover(master.device, rows))


@pytest.mark.parametrize("bend", ["index", "proof", "count", "order", "note", "key"])
def test_what_the_audit_worker_bends_is_noticed(master: Member, monkeypatch: pytest.MonkeyPatch, bend: str) -> None:
    put(master.device, "name", b"x")
    covered(master, 3)
    rows = export_own(master.device)[0].rows[:3]

    def bent(answer: object) -> object:
        found = check_refusal(answer)  # type: ignore[arg-type]
        told = json.loads(found.body)
        if "proofs" in told:
            proofs = told["proofs"]
            if bend == "index":
                proofs[1]["index"] += 1
            elif bend == "proof":
                proofs[1]["proof"] = proofs[1]["proof"][:-1]
            elif bend == "count":
                proofs.pop()
            elif bend == "order":
                proofs[1], proofs[2] = proofs[2], proofs[1]
        elif "checkpoint" in told and bend == "note":
            told["checkpoint"] = told["checkpoint"].replace("/audit\n", "/audit\n9", 1)
        return type(found)(
            **{name: getattr(found, name) for name in found.__slots__} | {"body": json.dumps(told).encode()}
        )

    monkeypatch.setattr(checkpoints, "check_refusal", bent)
    if bend == "key":
        other = ES256PublicKey.of(ec.generate_private_key(ec.SECP256R1()).public_key())
        monkeypatch.setattr(master.device.keys, "_keys", {other.kid: other})
        monkeypatch.setattr(master.device.keys, "_fetch", lambda: jwks_document([other]))
    untrusted(lambda: cover(master.device, rows))
