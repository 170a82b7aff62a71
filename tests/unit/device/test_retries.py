"""Lost answers, replays, epochs, and two who store at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkeys_core.captoken import Cap
from agentkeys_core.errors import Reason
from device import client
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.https import Reply

STORE = ("credentials", "/v1/credentials/store")
LIST = ("credentials", "/v1/credentials/list")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_S", 0.01)


@pytest.fixture
def value(tmp_path: Path) -> Path:
    path = tmp_path / "value"
    path.write_bytes(b"v")
    return path


def hang_up(
    times: int, deployment: Deployment, *, after: bool = False
) -> tuple[Callable[[bytes], Reply | None], list[bytes]]:
    """A hook that does the work (`after`) or not, and hangs up, so many times."""
    left = [times]
    digests: list[bytes] = []

    def hook(body: bytes) -> Reply | None:
        digests.append(Cap.from_json(json.loads(body)["cap"]).digest)
        if left[0]:
            left[0] -= 1
            if after:
                deployment.work(body)
            raise ConnectionError
        return None

    return hook, digests


@pytest.mark.parametrize("after", [False, True], ids=["request lost", "answer lost"])
def test_lost_store_is_asked_again_with_the_same_cap(
    master: Person, deployment: Deployment, value: Path, after: bool
) -> None:
    deployment.hooks[STORE], digests = hang_up(2 if not after else 1, deployment, after=after)
    done = master("cred", "put", "x", "--file", value)
    assert done.code == 0, done.err
    assert len(set(digests)) == 1
    assert len(deployment.objects) == 1
    assert master("cred", "get", "x", as_json=False).out == "v"


def test_gives_up_after_three_times(master: Person, deployment: Deployment, value: Path) -> None:
    deployment.hooks[STORE], digests = hang_up(99, deployment)
    outcome = master("cred", "put", "x", "--file", value)
    assert (outcome.code, outcome.reason) == (5, "unreachable")
    assert len(digests) == 3


def test_signer_unreachable_is_asked_again(master: Person, deployment: Deployment, value: Path) -> None:
    replies = [problem(Reason.SIGNER_UNREACHABLE, 503)]
    deployment.hooks[STORE] = lambda _: replies.pop() if replies else None
    assert master("cred", "put", "x", "--file", value).code == 0


def test_replay_without_a_row_makes_a_new_request(master: Person, deployment: Deployment, value: Path) -> None:
    digests = []

    def hook(body: bytes) -> Reply | None:
        digests.append(Cap.from_json(json.loads(body)["cap"]).digest)
        return problem(Reason.CAP_REPLAYED, 409) if len(digests) == 1 else None

    deployment.hooks[STORE] = hook
    assert master("cred", "put", "x", "--file", value).code == 0
    assert len(set(digests)) == 2


def test_replay_whose_store_is_current_gets_its_row(master: Person, deployment: Deployment, value: Path) -> None:
    seen = []

    def hook(body: bytes) -> Reply | None:
        seen.append(Cap.from_json(json.loads(body)["cap"]).digest)
        if len(seen) == 1:
            deployment.work(body)
            return problem(Reason.CAP_REPLAYED, 409)
        return None

    deployment.hooks[STORE] = hook
    done = master("cred", "put", "x", "--file", value)
    assert done.code == 0, done.err
    assert len(set(seen)) == 1
    assert done.data["store"] == seen[0].hex()


def test_replay_with_somebody_elses_store_is_a_conflict(master: Person, deployment: Deployment, value: Path) -> None:
    def hook(body: bytes) -> Reply | None:
        if not deployment.objects:
            deployment.hooks.pop(STORE)
            deployment.work(body)
            key, (request, stored, row) = next(iter(deployment.objects.items()))
            from dataclasses import replace

            deployment.objects[key] = (replace(request, digest=bytes(32)), stored, row)
        return problem(Reason.CAP_REPLAYED, 409)

    deployment.hooks[STORE] = hook
    outcome = master("cred", "put", "x", "--file", value)
    assert (outcome.code, outcome.reason) == (7, "changed_meanwhile")


def test_replay_with_a_row_of_another_request_is_not_believed(
    master: Person, deployment: Deployment, value: Path
) -> None:
    assert master("cred", "put", "x", "--file", value).code == 0
    row = next(iter(deployment.objects.values()))[2]
    deployment.hooks[STORE] = lambda _: problem(Reason.CAP_REPLAYED, 409, row=row.to_json())
    outcome = master("cred", "put", "y", "--file", value)
    assert (outcome.code, outcome.reason) == (6, "row_not_trusted")


def test_version_conflict_has_its_own_exit_code(master: Person, deployment: Deployment, value: Path) -> None:
    deployment.hooks[STORE] = lambda _: problem(Reason.VERSION_NOT_CURRENT, 409)
    outcome = master("cred", "put", "x", "--file", value)
    assert (outcome.code, outcome.reason) == (7, "version_not_current")


def test_follows_the_epoch_and_remembers_it_only_when_proven(
    master: Person, deployment: Deployment, value: Path
) -> None:
    assert master("cred", "list").code == 0
    deployment.epoch = 3
    assert master("cred", "put", "x", "--file", value).code == 0
    assert json.loads((master.home / "memory.json").read_bytes())["epoch"] == 3
    deployment.hooks["broker", "/v1/caps"] = lambda _: problem(Reason.STALE_EPOCH, 409, current_epoch=9)
    outcome = master("cred", "list")
    assert (outcome.code, outcome.reason) == (5, "stale_epoch")
    assert json.loads((master.home / "memory.json").read_bytes())["epoch"] == 3  # a lie does not last
    del deployment.hooks["broker", "/v1/caps"]
    assert master("cred", "list").code == 0


def test_epoch_never_goes_back(master: Person, deployment: Deployment) -> None:
    deployment.epoch = 3
    assert master("cred", "list").code == 0
    asked = []

    def hook(body: bytes) -> Reply:
        asked.append(body)
        return problem(Reason.FUTURE_EPOCH, 409, current_epoch=1)

    deployment.hooks["broker", "/v1/caps"] = hook
    assert master("cred", "list").reason == "future_epoch"
    assert len(asked) == 3, "a part may be a moment behind: asked again"
    assert len(set(asked)) == 1, "with the very same bytes, for no lower epoch"


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        (Reason.DEVICE_REVOKED, 403, 3),
        (Reason.CERTIFICATE_REVOKED, 401, 3),
        (Reason.OPERATOR_FROZEN, 403, 3),
        (Reason.REGISTRY_STALE, 503, 5),
        (Reason.RATE_LIMITED, 429, 5),
        (Reason.CLOCK_BEHIND, 409, 5),
        (Reason.CAP_EXPIRED, 400, 1),
        (Reason.EPOCH_NOT_HELD, 409, 1),
        (Reason.INVALID_CAP, 400, 2),
        (Reason.OBJECT_NOT_FOUND, 404, 4),
        (Reason.ALREADY_BOUND, 409, 7),
    ],
)
def test_exit_codes_by_reason(master: Person, deployment: Deployment, reason: Reason, status: int, code: int) -> None:
    deployment.hooks["broker", "/v1/caps"] = lambda _: problem(reason, status)
    outcome = master("cred", "list")
    assert (outcome.code, outcome.reason) == (code, str(reason))
    assert json.loads(outcome.err.splitlines()[-1])["error"]["server_time"].isdigit()


def test_clock_that_differs_is_told(master: Person, deployment: Deployment) -> None:
    deployment.hooks["broker", "/v1/caps"] = lambda _: problem(Reason.CAP_NOT_YET_VALID, 400)
    outcome = master("cred", "list", as_json=False)
    assert outcome.code == 1
    assert "Server time" in outcome.err


def test_reasons_from_a_newer_server_keep_their_status(master: Person, deployment: Deployment) -> None:
    deployment.hooks["broker", "/v1/caps"] = lambda _: (403, {"reason": "not_on_a_sunday"})
    assert master("cred", "list").code == 3


@pytest.mark.parametrize("size", [0, 64 * 1024 + 1])
def test_values_out_of_bounds_are_refused_before_anything_is_sent(
    master: Person, deployment: Deployment, value: Path, size: int
) -> None:
    value.write_bytes(bytes(size))
    deployment.seen.clear()
    outcome = master("cred", "put", "x", "--file", value)
    assert outcome.code == 2
    assert not deployment.seen


def test_largest_value_comes_back_whole(master: Person, value: Path) -> None:
    value.write_bytes(bytes(64 * 1024))
    assert master("cred", "put", "x", "--file", value).code == 0
    assert master("cred", "get", "x", as_json=False).out == "\0" * 64 * 1024


@pytest.mark.parametrize("name", ["list", "Upper", "", "a/b", "../x", "a" * 65])
def test_names_are_checked(master: Person, value: Path, name: str) -> None:
    assert master("cred", "put", "--file", value, "--", name).code == 2
