"""A profile from an address: believed by its hash alone, whoever serves it."""

import json
import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest

from agentkeys_core.errors import Reason
from agentkeys_core.profile import MAX_PROFILE_BYTES
from device.errors import DeviceError, Trouble
from device.profile_source import read_profile
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem

PATH = "/v1/profile"


@pytest.fixture
def address(deployment: Deployment) -> str:
    """Where the broker serves the right profile."""
    deployment.hooks["broker", PATH] = lambda _: (200, json.loads(deployment.profile.encode()))
    return deployment.profile.broker + PATH


def serve(deployment: Deployment, status: int, value: object) -> None:
    deployment.hooks["broker", PATH] = lambda _: (status, value)


def test_a_machine_that_knows_only_the_hash_begins(
    person: Callable[[str], Person], address: str, deployment: Deployment
) -> None:
    made = person("p")
    outcome = made(
        "init",
        "--profile",
        address,
        "--profile-hash",
        made.profile_hash,
        "--wallet",
        "0x" + "11" * 20,
        "--k11",
        "software",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.data["status"] == "wallet_signature_needed"
    assert (made.home / "profile.json").read_bytes() == deployment.profile.encode()


def test_another_profile_at_the_address_is_refused(
    person: Callable[[str], Person], address: str, deployment: Deployment
) -> None:
    other = replace(deployment.profile, aud="cd" * 32)
    serve(deployment, 200, json.loads(other.encode()))
    made = person("p")
    outcome = made("init", "--profile", address, "--profile-hash", made.profile_hash)
    assert outcome.reason == "profile_hash_mismatch"
    assert not made.home.exists()


@pytest.mark.parametrize(
    ("status", "value", "reason"),
    [
        (200, b"no JSON", Trouble.ANSWER_NOT_TRUSTED),
        (200, {"a": 1.5}, Trouble.ANSWER_NOT_TRUSTED),
        (200, {"a": "x" * MAX_PROFILE_BYTES}, Trouble.ANSWER_NOT_TRUSTED),
        (302, b"", Trouble.ANSWER_NOT_TRUSTED),
    ],
)
def test_nonsense_at_the_address_is_named(
    address: str, deployment: Deployment, status: int, value: object, reason: Trouble
) -> None:
    serve(deployment, status, value)
    with pytest.raises(DeviceError) as caught:
        read_profile(address)
    assert caught.value.reason is reason


def test_a_host_that_serves_none_says_so(person: Callable[[str], Person], address: str, deployment: Deployment) -> None:
    deployment.hooks["broker", PATH] = lambda _: problem(Reason.NOT_FOUND, 404)
    made = person("p")
    assert made("init", "--profile", address, "--profile-hash", made.profile_hash).reason == "not_found"
    assert not made.home.exists()


@pytest.mark.parametrize(
    "source",
    [
        "https://",
        "https://user@host/p",
        "https://host/p#part",
        "https://host:0/",
        "https://host:x/",
        "https://h/\x7f",
        "https://h/ a",
        "https://hé/",
    ],
)
def test_what_is_no_address_is_usage(source: str) -> None:
    with pytest.raises(DeviceError) as caught:
        read_profile(source)
    assert caught.value.reason is Trouble.USAGE


def test_nothing_is_read_in_the_clear() -> None:
    for source in ("http://localhost/v1/profile", "HTTP://localhost/", "file:///etc/hosts", "://"):
        with pytest.raises(DeviceError) as caught:
            read_profile(source)
        assert caught.value.reason is Trouble.USAGE  # and not a file of that name, which there is not


# --- what a master has pasted on the machine --------------------------------------------------------------------------


def test_one_line_is_enough_on_the_machine(master: Person, person: Callable[[str], Person], address: str) -> None:
    line = master("agent", "invite", "--label", "research", "--service", "cred:openrouter").data["command"]
    words = shlex.split(line)
    assert words[:4] == ["agentkeys", "pair", "--profile", address]
    operator = master("whoami", "--offline").data["operator_omni"]
    assert words[words.index("--operator") + 1] == operator
    made = person("machine")
    outcome = made(*words[1:-4], "--out", made.home.with_suffix(".offer"))  # by a file: nobody claims it here
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("served", ["nothing", "another", "nonsense"])
def test_an_address_that_is_of_no_use_is_not_handed_on(
    master: Person, address: str, deployment: Deployment, served: str
) -> None:
    answers = {
        "nothing": problem(Reason.NOT_FOUND, 404),
        "another": (200, json.loads(replace(deployment.profile, aud="cd" * 32).encode())),
        "nonsense": (200, {"a": 1}),
    }
    deployment.hooks["broker", PATH] = lambda _: answers[served]
    command = master("agent", "invite").data["command"]
    assert shlex.split(command)[2:4] == ["--profile", "profile.json"]


@pytest.mark.parametrize("service", ["cred:x; rm -rf", "nonsense"])
def test_what_no_machine_could_ask_for_is_refused(master: Person, service: str) -> None:
    assert master("agent", "invite", "--service", service).code == 2
