"""Further masters, roles, thresholds, rotation, teardown: from command to the real registry, file by file."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.encoding import hex_encode
from agentkeys_core.errors import Reason
from agentkeys_core.registry import Role
from tests.fakes.evidence_kit import CLIENT, ISSUER
from tests.unit.device.conftest import Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.masters_kit import Named, bring_in, device_of, offer, state_of
from tests.unit.device.real_registry import RealRegistry

CHANGES = "/v1/registry/changes"


# --- letting a master in


def test_a_further_master_takes_one_hash_and_one_file_each_way(
    registry: RealRegistry, first: Person, second: Person
) -> None:
    record = state_of(registry, first).devices[device_of(second)]
    assert (record.is_master, int(record.roles), record.revoked) == (True, 7, False)
    assert second("whoami").data["status"] == "registered"
    assert second("freeze").code == 0
    assert first("unfreeze").code == 0


def test_the_comparison_decides(registry: RealRegistry, person: Named, first: Person, tmp_path: Path) -> None:
    machine = person("machine")
    offer(machine, first, tmp_path / "offer")
    refused = first("device", "add", tmp_path / "offer", "--out", tmp_path / "back", "--pairing-hash", "00" * 16)
    assert (refused.code, refused.reason) == (6, "pairing_hash_mismatch")
    asked = first("device", "add", tmp_path / "offer", "--out", tmp_path / "back")  # --yes does not answer it
    assert (asked.code, asked.reason) == (2, "usage")
    assert not (tmp_path / "back").exists()


def test_a_swapped_key_shows_in_the_hash(registry: RealRegistry, person: Named, first: Person, tmp_path: Path) -> None:
    machine, mallory = person("machine"), person("mallory")
    mine = offer(machine, first, tmp_path / "offer").data["pairing_hash"]
    offer(mallory, first, tmp_path / "offer", "--force")
    assert first("device", "add", tmp_path / "offer", "--out", tmp_path / "x", "--pairing-hash", mine).code == 6


@pytest.mark.parametrize("part", ["k11", "pair", "device_public_key"])
def test_an_offer_whose_parts_do_not_fit_is_refused(
    registry: RealRegistry, person: Named, first: Person, tmp_path: Path, part: str
) -> None:
    machine, other = person("machine"), person("other")
    offer(machine, first, tmp_path / "offer")
    offer(other, first, tmp_path / "theirs")
    mixed, theirs = (json.loads((tmp_path / name).read_bytes()) for name in ("offer", "theirs"))
    mixed[part] = theirs[part]
    (tmp_path / "offer").write_text(json.dumps(mixed))
    refused = first("device", "add", tmp_path / "offer", "--out", tmp_path / "back", "--pairing-hash", "00" * 16)
    assert (refused.code, refused.reason) == (6, "pair_invalid")


def test_an_agents_offer_makes_no_master_and_the_other_way_round(
    registry: RealRegistry, person: Named, first: Person, tmp_path: Path
) -> None:
    agent, machine = person("agent"), person("machine")
    operator = first("whoami", "--offline").data["operator_omni"]
    agent("pair", "--operator", operator, "--out", tmp_path / "agents-offer", *agent.profile_words())
    offer(machine, first, tmp_path / "master")
    as_master = first("device", "add", tmp_path / "agents-offer", "--out", tmp_path / "x", "--pairing-hash", "00" * 16)
    as_agent = first("agent", "add", tmp_path / "master", "--label", "a", "--pairing-hash", "00" * 16)
    assert (as_master.reason, as_agent.reason) == ("pair_invalid", "pair_invalid")


def test_an_approval_for_another_machine_is_refused_here(
    registry: RealRegistry, person: Named, first: Person, tmp_path: Path
) -> None:
    machine, other = person("machine"), person("other")
    told = offer(machine, first, tmp_path / "offer").data["pairing_hash"]
    first("device", "add", tmp_path / "offer", "--out", tmp_path / "back", "--pairing-hash", told)
    offer(other, first, tmp_path / "theirs")
    refused = other("join", tmp_path / "back")
    assert (refused.code, refused.reason) == (6, "pair_invalid")


def test_roles_are_what_the_master_said(registry: RealRegistry, person: Named, first: Person, tmp_path: Path) -> None:
    made = person("limited")
    assert bring_in(made, first, tmp_path, "--roles", 1).code == 0
    assert state_of(registry, first).devices[device_of(made)].roles == Role.CAP_MINT
    assert first("device", "roles", hex_encode(device_of(made)), "--roles", 5).code == 0
    assert int(state_of(registry, first).devices[device_of(made)].roles) == 5


# --- several masters


def test_two_masters_sign_together_under_a_threshold_of_two(
    registry: RealRegistry, person: Named, first: Person, third: Person, second: Person, tmp_path: Path
) -> None:
    target = hex_encode(device_of(third))
    alone = first("device", "revoke", target)
    assert (alone.code, alone.reason) == (2, "usage")
    begun = first("device", "revoke", target, "--collect", tmp_path / "revoke")
    assert begun.data["enough"] is False
    assert "Afterwards 1 instead of 2 masters" in begun.err
    twice = first("device", "approve", tmp_path / "revoke")
    assert (twice.code, twice.reason) == (2, "bad_file")
    done = second("device", "approve", tmp_path / "revoke")
    assert (done.code, done.data["done"]) == (0, True), done.err
    assert state_of(registry, first).devices[device_of(third)].revoked


def test_a_master_comes_in_by_two_approvals(
    registry: RealRegistry, person: Named, first: Person, second: Person, third: Person, tmp_path: Path
) -> None:
    fourth = person("fourth")
    assert bring_in(fourth, first, tmp_path, others=(second,)).code == 0
    assert device_of(fourth) in state_of(registry, first).devices


def test_an_approver_compares_the_hash_too(
    registry: RealRegistry, person: Named, first: Person, second: Person, third: Person, tmp_path: Path
) -> None:
    fourth = person("fourth")
    told = offer(fourth, first, tmp_path / "offer").data["pairing_hash"]
    first("device", "add", tmp_path / "offer", "--out", tmp_path / "back", "--pairing-hash", told)
    assert second("device", "approve", tmp_path / "back", "--pairing-hash", "00" * 16).code == 6
    assert fourth("join", tmp_path / "back").reason == "change_not_authorised"


def test_another_operators_file_is_not_approved(
    registry: RealRegistry, person: Named, first: Person, second: Person, tmp_path: Path
) -> None:
    stranger = person("stranger")
    stranger.init()
    begun = first("device", "roles", hex_encode(device_of(second)), "--roles", 1, "--collect", tmp_path / "file")
    assert begun.code == 0
    assert stranger("device", "approve", tmp_path / "file").reason == "bad_file"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"kind":"agentkeys-change"}'])
def test_a_file_that_is_none_is_refused_by_name(first: Person, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for command in (("device", "approve"), ("join",)):
        assert first(*command, tmp_path / "file").reason == "bad_file"


def test_nothing_is_collected_while_the_views_differ(
    registry: RealRegistry, deployment: Deployment, first: Person, second: Person, tmp_path: Path
) -> None:
    operator = first("whoami", "--offline").data["operator_omni"]
    told: Any = {**state_of(registry, first).to_json(), "nonce": 9}
    deployment.hooks["broker", f"/v1/registry/operators/{operator}"] = lambda _: (200, told)
    refused = first("device", "threshold", 1, "--collect", tmp_path / "file")
    assert (refused.code, refused.reason) == (6, "registry_views_differ")


def test_a_broker_that_lies_holds_no_revocation_up(
    registry: RealRegistry, deployment: Deployment, first: Person, second: Person
) -> None:
    deployment.hooks["broker", CHANGES] = lambda _: problem(Reason.OVERLOADED, 429)
    assert first("device", "revoke", hex_encode(device_of(second))).code == 0
    assert state_of(registry, first).devices[device_of(second)].revoked


# --- teardown, list


def test_tears_down_what_it_was_told(registry: RealRegistry, first: Person) -> None:
    assert first("teardown").reason == "usage"
    assert first("teardown", "agent", "--credentials").reason == "usage"
    done = first("teardown", "--credentials")
    assert (done.code, done.data["classes"]) == (0, 1), done.err
    assert set(state_of(registry, first).torn_down.values()) == {1}
    assert set(first("device", "list").data["torn_down"].values()) == {1}


def test_lists_proof_roles_and_counters(registry: RealRegistry, first: Person, second: Person) -> None:
    listed = first("device", "list").data
    rows = {row["device"]: row for row in listed["devices"]}
    mine, other = rows[hex_encode(device_of(first))], rows[hex_encode(device_of(second))]
    assert (mine["evidence"], other["evidence"], other["assurance"]) == ("wallet", "master", "high")
    assert (mine["roles"], listed["threshold"], mine["counter_fell"]) == (7, 1, False)
    text = first("device", "list", as_json=False).out
    assert "wallet (high)" in text
    assert "manage agents" in text


def test_a_counter_that_fell_is_shown(registry: RealRegistry, first: Person, second: Person) -> None:
    file = first.home / "software-authenticator.json"
    copied = file.read_bytes()
    for threshold in (1, 1):
        assert first("device", "threshold", threshold).code == 0
    file.write_bytes(copied)
    assert first("device", "threshold", 1).code == 0
    listed = first("device", "list")
    assert "somebody may have a copy" in listed.err


# --- first bind by an ID token


def test_enrols_by_an_id_token(registry: RealRegistry, person: Named, tmp_path: Path) -> None:
    alice = person("alice")
    wish = alice.init("--identity", "oidc", "--client-id", CLIENT)
    assert wish.data["status"] == "id_token_needed", wish.err
    again = alice.init("--identity", "oidc", "--client-id", CLIENT)
    assert again.data["nonce"] == wish.data["nonce"]
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": CLIENT, "sub": "alice", "nonce": wish.data["nonce"], "iat": now, "exp": now + 600}
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(registry.issuer.token(claims) + "\n")
    made = alice.init("--identity", "oidc", "--client-id", CLIENT, "--id-token-file", token)
    assert made.data["status"] == "enrolled", made.err
    row = alice("device", "list").data["devices"][0]
    assert (row["evidence"], row["assurance"]) == ("oidc", "high")
    repeated = alice.init("--identity", "oidc", "--client-id", CLIENT)
    assert (repeated.code, repeated.data["status"]) == (0, "already_enrolled")


def test_a_bind_whose_answer_was_lost_is_finished_with_the_same_token(
    registry: RealRegistry, deployment: Deployment, person: Named, tmp_path: Path
) -> None:
    alice = person("alice")
    nonce = alice.init("--identity", "oidc", "--client-id", CLIENT).data["nonce"]
    now = int(time.time())
    token = tmp_path / "token"
    token.touch(mode=0o600)
    claims = {"iss": ISSUER, "aud": CLIENT, "sub": "alice", "nonce": nonce, "iat": now, "exp": now + 600}
    token.write_text(registry.issuer.token(claims))
    for part in ("broker", "credentials", "audit"):
        deployment.hooks[part, CHANGES] = lambda _: problem(Reason.OVERLOADED, 429)
    words = ("--identity", "oidc", "--client-id", CLIENT, "--id-token-file", token)
    assert alice.init(*words).reason == "overloaded"
    deployment.hooks = {key: hook for key, hook in deployment.hooks.items() if key[1] != CHANGES}
    made = alice.init(*words)
    assert made.data["status"] == "enrolled", made.err


@pytest.mark.parametrize("content", ["", "a.b.c", "only-one", "é.é.é"])
def test_what_is_no_id_token_is_refused_by_name(
    registry: RealRegistry, person: Named, tmp_path: Path, content: str
) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(content)
    made = person("alice").init("--identity", "oidc", "--client-id", CLIENT, "--id-token-file", token)
    assert (made.code, made.reason) == (2, "bad_file")


def test_a_signature_of_another_wallet_is_not_used(
    registry: RealRegistry, deployment: Deployment, person: Named, tmp_path: Path
) -> None:
    alice = person("alice")
    nonce = alice.init("--identity", "oidc", "--client-id", CLIENT).data["nonce"]
    now = int(time.time())
    token = tmp_path / "token"
    token.touch(mode=0o600)
    claims = {"iss": ISSUER, "aud": CLIENT, "sub": "alice", "nonce": nonce, "iat": now, "exp": now + 600}
    token.write_text(registry.issuer.token(claims))
    deployment.hooks["broker", "/v1/enrolments/attest"] = lambda _: (200, {"signature": "A" * 86 + "A"})
    made = alice.init("--identity", "oidc", "--client-id", CLIENT, "--id-token-file", token)
    assert (made.code, made.reason) == (6, "answer_not_trusted")


@pytest.mark.parametrize(("length", "reason"), [(255, "invalid_evidence"), (256, "bad_file")])
def test_a_subject_is_bounded(
    registry: RealRegistry, deployment: Deployment, person: Named, tmp_path: Path, length: int, reason: str
) -> None:
    """OpenID Connect Core, 2. The signer would have its say on one that the device lets pass."""
    alice = person("alice")
    nonce = alice.init("--identity", "oidc", "--client-id", CLIENT).data["nonce"]
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(registry.issuer.token({"iss": ISSUER, "aud": CLIENT, "sub": "a" * length, "nonce": nonce}))
    deployment.hooks["broker", "/v1/enrolments/attest"] = lambda _: problem(Reason.INVALID_EVIDENCE, 400)
    assert alice.init("--identity", "oidc", "--client-id", CLIENT, "--id-token-file", token).reason == reason
