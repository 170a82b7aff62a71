"""Whole command lines against a small deployment: what works."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkeys_core.changes import parse_change
from agentkeys_core.encoding import hex_encode
from agentkeys_core.keys import DeviceKey
from device.intent import moment
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment


def test_master_stores_and_agent_fetches_byte_for_byte(master: Person, agent: Person, tmp_path: Path) -> None:
    value = bytes(range(256))
    (tmp_path / "value").write_bytes(value)
    assert master("cred", "put", "openrouter", "--file", tmp_path / "value").code == 0
    fetched = agent("cred", "get", "openrouter", "--out", tmp_path / "got")
    assert fetched.code == 0, fetched.err
    assert (tmp_path / "got").read_bytes() == value
    assert stat.S_IMODE((tmp_path / "got").stat().st_mode) == 0o600


def test_master_reads_lists_replaces_and_removes(master: Person, tmp_path: Path, deployment: Deployment) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    stored = master("cred", "put", "openrouter", "--file", first)
    assert stored.data["replaced"] is None
    replaced = master("cred", "put", "openrouter", "--file", second)
    assert replaced.data["replaced"] == stored.data["store"]
    assert [entry["name"] for entry in master("cred", "list").data["names"]] == ["openrouter"]
    assert master("cred", "get", "openrouter", as_json=False).out == "two"
    assert master("cred", "rm", "openrouter").data["deleted"] is True
    assert master("cred", "list").data == {"names": []}
    assert not deployment.objects


@pytest.mark.parametrize("name", ["Capital", "list", "a" * 65, "", "../up", "ü"])
def test_a_name_that_no_credential_can_have_is_a_usage_error(master: Person, tmp_path: Path, name: str) -> None:
    (tmp_path / "v").write_bytes(b"v")
    for words in (("put", name, "--file", tmp_path / "v"), ("get", name), ("rm", name)):
        outcome = master("cred", *words)
        assert (outcome.code, outcome.reason) == (2, "usage")


def test_init_prints_typed_data_and_goes_on_with_the_wallets_signature(
    person: Callable[[str], Person], tmp_path: Path
) -> None:
    made = person("hardware")
    wallet = DeviceKey.generate()
    asked = made.init("--wallet", "0x" + wallet.address.hex())
    assert asked.code == 0, asked.err
    assert asked.data["status"] == "wallet_signature_needed"
    typed = asked.data["typed_data"]
    change = parse_change(typed["primaryType"], typed["message"])
    digest = change.digest(made.deployment.profile.domain)
    assert hex_encode(digest) == asked.data["digest"]
    assert (
        made.init("--wallet", "0x" + wallet.address.hex()).data["digest"] == asked.data["digest"]
    )  # asks for the same
    unnamed = made("init", *made.profile_words(), "--k11", "software")
    assert unnamed.data["digest"] == asked.data["digest"]  # and opens no page while that waits
    wrong = made.init("--wallet-signature", DeviceKey.generate().sign_recoverable(digest).hex())
    assert (wrong.code, wrong.reason) == (2, "wallet_signature_invalid")
    done = made.init("--wallet-signature", "0x" + wallet.sign_recoverable(digest).hex())
    assert (done.code, done.data["status"]) == (0, "enrolled")
    assert made.init().code == 7  # another wallet
    again = made.init("--wallet", wallet.address.hex())
    assert (again.code, again.data["status"]) == (0, "already_enrolled")
    assert not (made.home / "pending-enrol.json").exists()


def test_files_are_private(master: Person) -> None:
    assert stat.S_IMODE(master.home.stat().st_mode) == 0o700
    files = sorted(path.name for path in master.home.iterdir())
    assert files == [
        "audit-keys.json",
        "identity.json",
        "k10.json",
        "k11.json",
        "memory.json",
        "profile.json",
        "software-authenticator.json",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in master.home.iterdir()} == {0o600}


def test_whoami_tells_registration_and_scope(master: Person, agent: Person) -> None:
    assert master("whoami").data["status"] == "registered"
    told = agent("whoami").data
    assert (told["status"], told["label"], told["scope"]) == ("registered", "research", ["cred:openrouter"])
    assert told["actor_omni"] == master("agent", "list").data["agents"][0]["actor_omni"]


def test_whoami_of_an_agent_that_nobody_added(person: Callable[[str], Person], master: Person, tmp_path: Path) -> None:
    made = person("stranger")
    operator = master("whoami").data["operator_omni"]
    assert made("pair", "--operator", operator, *made.profile_words(), "--out", tmp_path / "o").code == 0
    assert made("whoami").data["status"] == "not_registered"
    refused = made("cred", "list")
    assert (refused.code, refused.reason) == (3, "not_registered")


def test_a_device_that_joins_an_agent_is_told_to_share_its_scope(
    master: Person, agent: Person, person: Callable[[str], Person], tmp_path: Path
) -> None:
    """A master who grants one service must know what else the device gets: the actor's scope is not its own."""
    second, offer = person("second"), tmp_path / "second.json"
    operator = agent("whoami").data["operator_omni"]
    hashes = second("pair", "--operator", operator, *second.profile_words(), "--out", offer).data["pairing_hash"]
    words = ("--label", "research", "--service", "cred:stripe", "--pairing-hash", hashes)
    added = master("agent", "add", offer, *words)
    assert added.code == 0
    assert "joins research/0, which has 1 other device" in added.err
    assert "cred:openrouter" in added.err


def test_scope_revocation_and_freeze(master: Person, agent: Person, deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"v")
    master("cred", "put", "openrouter", "--file", tmp_path / "v")
    assert master("scope", "set", "research", "--revoke", "cred:openrouter", "--grant", "cred:other").code == 0
    refused = agent("cred", "get", "openrouter")
    assert (refused.code, refused.reason) == (3, "service_not_in_scope")
    deployment.seen.clear()
    device = agent("whoami", "--offline").data["device"]
    assert master("device", "revoke", device[:12]).code == 0
    changes = {part for part, path in deployment.seen if path == "/v1/registry/changes"}
    assert changes == {"broker", "credentials"}  # both, so that neither can hold it up
    assert agent("cred", "list").reason == "device_revoked"
    assert agent("whoami").data["status"] == "revoked"
    for command, frozen in (("freeze", True), ("unfreeze", False)):
        done = master(command)
        assert done.code == 0, done.err
        assert master("whoami").data["frozen"] is frozen
    listed = master("device", "list").data["devices"]
    assert [(entry["tier"], entry["revoked"]) for entry in listed] == [("master", False), ("agent", True)]


def test_the_list_says_when_the_broker_last_saw_each_device(
    master: Person, agent: Person, deployment: Deployment, tmp_path: Path
) -> None:
    own, other = (bytes.fromhex(who("whoami", "--offline").data["device"]) for who in (master, agent))

    def seen() -> dict[str, object]:
        return {row["device"]: row["last_seen_by_broker"] for row in master("device", "list").data["devices"]}

    assert seen() == {own.hex(): None, other.hex(): None}
    assert "never" in master("device", "list", as_json=False).out
    before = int(time.time()) // 60 * 60
    assert agent("cred", "list").code == 0
    at = seen()[other.hex()]
    assert isinstance(at, int)
    assert before <= at <= time.time()
    assert moment(at)[:16] in master("device", "list", as_json=False).out
    assert agent("device", "list").data["last_seen_told"] is False  # no business of an agent's


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"uses": {}},
        {"uses": [{"device": "zz" * 32, "used_at": 1}]},
        {"uses": [{"device": "ab" * 32, "used_at": -1}]},
        {"uses": [{"device": "ab" * 32, "used_at": 1, "more": 1}]},
    ],
)
def test_a_list_is_whole_without_the_brokers_word(master: Person, deployment: Deployment, answer: object) -> None:
    deployment.hooks["broker", "/v1/devices/uses"] = lambda _: (200, answer)
    listed = master("device", "list")
    assert (listed.code, listed.data["last_seen_told"]) == (0, False)
    assert "not told" in master("device", "list", as_json=False).out


def test_audit_export_and_offline_verification(master: Person, tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"v")
    for name in ("a", "b", "c"):
        assert master("cred", "put", name, "--file", tmp_path / "v").code == 0
    out = tmp_path / "audit.json"
    exported = master("audit", "export", "--out", out)
    assert exported.code == 0, exported.err
    assert exported.data["rows"] > 6  # more than two pages
    verified = master("audit", "verify", out, "--jwks", master.home / "audit-keys.json")
    assert verified.data["ok"] is True
    assert master("audit", "verify", out, as_json=False).out.endswith("chain, sequence and signatures are right\n")
    document = json.loads(out.read_bytes())
    del document["rows"][2]
    out.write_text(json.dumps(document))
    gap = master("audit", "verify", out)
    assert (gap.code, gap.reason) == (6, "export_not_trusted")
    assert {"fault": "gap", "position": 2, "seq": 3} in json.loads(gap.out)["faults"]


def test_global_options_may_stand_anywhere(master: Person) -> None:
    assert master("cred", "list", "--json", "--yes").data == {"names": []}


def test_plain_output_goes_to_stdout_and_words_to_stderr(master: Person, tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"v")
    put = master("cred", "put", "x", "--file", tmp_path / "v", as_json=False)
    assert put.out.startswith("stored x (1 bytes)")
    got = master("cred", "get", "x", as_json=False)
    assert got.out == "v"
    assert "signing: Read a credential" in got.err
    assert "service: cred:x" in got.err
    assert "DEVELOPMENT ONLY" in got.err
