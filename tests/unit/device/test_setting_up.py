"""init, pair and agent add: what they refuse, and what they survive."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkeys_core.audit import OpKind
from agentkeys_core.changes import Pair, SignedPair
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from device.pairing import Offer, shown
from tests.unit.device.conftest import Outcome, Person
from tests.unit.device.deployment import Deployment, problem
from tests.unit.device.https import Reply
from tests.unit.device.ledger import Ledger

CHANGES = "/v1/registry/changes"


def test_profile_with_another_hash_is_refused_and_leaves_nothing(
    person: Callable[[str], Person], deployment: Deployment
) -> None:
    made = person("p")
    made.profile_hash = "00" * 32
    outcome = made.init()
    assert (outcome.code, outcome.reason) == (6, "profile_hash_mismatch")
    assert not made.home.exists()
    assert not deployment.seen


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33])
def test_profile_hash_must_be_one(person: Callable[[str], Person], text: str) -> None:
    made = person("p")
    made.profile_hash = text
    assert made.init().code == 2


def test_profile_that_is_none_is_a_bad_file(person: Callable[[str], Person], tmp_path: Path) -> None:
    made = person("p")
    made.profile.write_bytes(b"{}")
    assert made.init().reason == "bad_file"
    made.profile = tmp_path / "missing"
    assert made.init().reason == "bad_file"


def test_profile_of_another_deployment_never_replaces_the_first(
    master: Person, deployment: Deployment, tmp_path: Path
) -> None:
    other = replace(deployment.profile, aud="cd" * 32)
    master.profile = tmp_path / "other.json"
    master.profile.write_bytes(other.encode())
    master.profile_hash = other.hash().hex()
    outcome = master.init()
    assert (outcome.code, outcome.reason) == (7, "already_initialised")


def test_init_twice_is_one_enrolment(master: Person, deployment: Deployment) -> None:
    applied = len(deployment.applied)
    again = master.init()
    assert (again.code, again.data["status"]) == (0, "already_enrolled")
    assert len(deployment.applied) == applied


@pytest.mark.parametrize("part", ["broker", "credentials"])
def test_init_is_done_only_on_a_signed_row(person: Callable[[str], Person], deployment: Deployment, part: str) -> None:
    forged = Ledger()

    def lie(_: bytes) -> Reply:
        return 200, {"row": forged.of_change(bytes(32), bytes(32), OpKind.DEVICE_ADD).to_json()}

    for name in ("broker", "credentials", "audit"):
        deployment.hooks[name, CHANGES] = lie
    made = person("p")
    outcome = made.init()
    assert (outcome.code, outcome.reason) == (6, "row_not_trusted")
    assert made("whoami", "--offline").data["status"] == "not_enrolled"
    del deployment.hooks[part, CHANGES]  # one honest part is enough
    done = made.init()
    assert (done.code, done.data["status"]) == (0, "enrolled")


def test_lost_answer_of_init_is_asked_for_again(person: Callable[[str], Person], deployment: Deployment) -> None:
    def hang_up(body: bytes) -> Reply:
        deployment.change(body)
        raise ConnectionError

    for name in ("broker", "credentials", "audit"):
        deployment.hooks[name, CHANGES] = hang_up
    made = person("p")
    assert made.init().reason == "unreachable"
    deployment.hooks.clear()
    assert made.init().data["status"] == "enrolled"
    assert len(deployment.applied) == 1


def test_registry_that_refuses_software_keys_is_told_so(
    person: Callable[[str], Person], deployment: Deployment
) -> None:
    for name in ("broker", "credentials", "audit"):
        deployment.hooks[name, CHANGES] = lambda _: problem(Reason.CHANGE_NOT_AUTHORISED)
    outcome = person("p").init()
    assert (outcome.code, outcome.reason) == (3, "change_not_authorised")


def test_wallet_key_file_must_be_private_and_a_key(person: Callable[[str], Person]) -> None:
    made = person("p")
    made.wallet_file.chmod(0o644)
    assert made.init().reason == "unsafe_file"
    made.wallet_file.chmod(0o600)
    made.wallet_file.write_text("not a key")
    outcome = made.init()
    assert outcome.reason == "bad_file"
    assert "not a key" not in outcome.err
    made.wallet_file.write_bytes(b"\xff\xfe")
    assert made.init().reason == "bad_file"
    assert made.init("--wallet", "0x12").code == 2


def test_wallet_and_wallet_file_must_agree(person: Callable[[str], Person]) -> None:
    made = person("p")
    outcome = made.init("--wallet-key-file", made.wallet_file, "--wallet", DeviceKey.generate().address.hex())
    assert (outcome.code, outcome.reason) == (2, "usage")


def test_offers_are_renewed_when_they_grow_old(
    person: Callable[[str], Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = person("p")
    address = DeviceKey.generate().address.hex()
    first = made.init("--wallet", address).data["digest"]
    monkeypatch.setattr("device.enrol.MARGIN_S", 4000)
    monkeypatch.setattr("device.enrol.ENROL_LIFE_S", 3100)
    assert made.init("--wallet", address).data["digest"] != first


# --- pairing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def offered(person: Callable[[str], Person], master: Person, tmp_path: Path) -> tuple[Path, str]:
    """The file and pairing hash of an agent's offer."""
    made = person("agent")
    operator = master("whoami", "--offline").data["operator_omni"]
    paired = made("pair", "--operator", operator, *made.profile_words(), "--out", tmp_path / "offer.json")
    assert paired.code == 0, paired.err
    return tmp_path / "offer.json", str(paired.data["pairing_hash"])


def add(master: Person, file: Path, told: str | None, *words: str) -> Outcome:
    hashes = [] if told is None else ["--pairing-hash", told]
    return master("agent", "add", file, "--label", "research", "--service", "cred:openrouter", *hashes, *words)


def test_pairing_hash_must_be_the_one_of_the_other_machine(
    master: Person, offered: tuple[Path, str], deployment: Deployment
) -> None:
    applied = len(deployment.applied)
    outcome = add(master, offered[0], "00" * 16)
    assert (outcome.code, outcome.reason) == (6, "pairing_hash_mismatch")
    assert len(deployment.applied) == applied
    assert add(master, offered[0], " ".join((offered[1][:4], offered[1][4:]))).code == 0


def test_yes_does_not_compare_the_pairing_hash(
    master: Person, offered: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    outcome = add(master, offered[0], None)
    assert (outcome.code, outcome.reason) == (2, "usage")


def remade(deployment: Deployment, file: Path, key: DeviceKey | None = None, **members: object) -> Path:
    """An offer with other members, signed anew by `key` (or with the old signature)."""
    offer = Offer.parse(file.read_bytes())
    old = offer.pair.message
    names = ("operator_omni", "device", "k11_cred_id", "profile_hash", "expires_at")
    message = Pair(**{name: getattr(old, name) for name in names} | members)
    signature = key.sign_recoverable(message.digest(deployment.profile.domain)) if key else offer.pair.signature
    public = key.public_key if key else offer.public_key
    out = file.with_name("remade.json")
    out.write_bytes(Offer(public_key=public, pair=SignedPair(message=message, signature=signature)).encode())
    return out


@pytest.mark.parametrize(
    "members",
    [
        {"operator_omni": bytes(32)},
        {"profile_hash": bytes(32)},
        {"expires_at": 1},
        {"k11_cred_id": b"\1" * 32},
        {"device": bytes(20)},
    ],
    ids=["operator", "profile", "expired", "k11", "device"],
)
def test_offers_that_do_not_fit_are_refused(
    master: Person, offered: tuple[Path, str], deployment: Deployment, members: dict[str, object]
) -> None:
    key = DeviceKey.generate()
    file = remade(deployment, offered[0], key, **({"device": key.address} | members))
    told = Offer.parse(file.read_bytes()).hash.hex()
    applied = len(deployment.applied)
    outcome = add(master, file, told)
    assert (outcome.code, outcome.reason) == (6, "pair_invalid")
    assert len(deployment.applied) == applied


def test_offer_with_a_wrong_signature_is_refused(
    master: Person, offered: tuple[Path, str], deployment: Deployment
) -> None:
    file = remade(deployment, offered[0], None, expires_at=2**40)
    outcome = add(master, file, offered[1])
    assert (outcome.code, outcome.reason) == (6, "pair_invalid")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"kind":"agentkeys-pair","ver":1}'])
def test_files_that_are_no_offer(master: Person, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "o").write_bytes(content)
    assert add(master, tmp_path / "o", "00" * 16).reason == "bad_file"


def test_offer_of_another_version_is_refused(master: Person, offered: tuple[Path, str]) -> None:
    document = json.loads(offered[0].read_bytes())
    offered[0].write_text(json.dumps({**document, "ver": 2}))
    assert add(master, *offered).reason == "bad_file"


@pytest.mark.parametrize(
    "words", [["--label", "UPPER"], ["--service", "nonsense"], ["--generation", "-1"], ["--generation", "x"]]
)
def test_bad_words_of_agent_add(master: Person, offered: tuple[Path, str], words: list[str]) -> None:
    assert add(master, *offered, *words).code == 2


def test_pairing_twice_keeps_the_key_and_other_operators_are_refused(
    person: Callable[[str], Person], offered: tuple[Path, str], tmp_path: Path
) -> None:
    made = person("agent")
    operator = Offer.parse(offered[0].read_bytes()).pair.message.operator_omni.hex()
    first = made("whoami", "--offline").data["device"]
    words = [*made.profile_words(), "--out", tmp_path / "again.json"]
    assert made("pair", "--operator", operator, *words).data["device"] == first
    assert made("pair", "--operator", operator, *words).reason == "file_exists"
    assert made("pair", "--operator", operator, *words, "--force").code == 0
    assert made("pair", "--operator", "00" * 32, *words, "--force").reason == "already_initialised"
    assert made.init().reason == "already_initialised"


def test_master_home_makes_no_offers(master: Person, tmp_path: Path) -> None:
    operator = master("whoami", "--offline").data["operator_omni"]
    outcome = master("pair", "--operator", operator, *master.profile_words(), "--out", tmp_path / "o")
    assert outcome.reason == "already_initialised"


def test_agent_recomputes_its_actor(agent: Person, deployment: Deployment) -> None:
    operator = next(iter(deployment.states))
    state = deployment.states[operator]
    told: dict[str, Any] = state.to_json()
    for entry in told["devices"]:
        if entry["tier"] == 2:
            entry["label"] = "another"
    path = f"/v1/registry/operators/{operator.hex()}"
    for part in ("broker", "credentials"):
        deployment.hooks[part, path] = lambda _: (200, told)
    outcome = agent("whoami")
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")


def test_agents_are_named_by_label_generation_or_omni(master: Person, agent: Person) -> None:
    actor = agent("whoami").data["actor_omni"]
    for name in ("research", "research/0", "//research/0", actor):
        assert master("scope", "set", name, "--grant", f"cred:n{len(name)}").code == 0
    assert master("scope", "set", "nobody", "--grant", "cred:x").reason == "no_such_agent"
    assert master("scope", "set", "research/01", "--grant", "cred:x").code == 2
    assert master("scope", "set", "research").code == 2
    assert master("scope", "set", "research", "--grant", "cred:x", "--revoke", "cred:x").code == 2
    assert master("device", "revoke", "abc").code == 2
    assert master("device", "revoke", "0" * 12).reason == "no_such_device"


def test_agent_has_no_k11(agent: Person) -> None:
    outcome = agent("unfreeze")
    assert (outcome.code, outcome.reason) == (1, "k11_missing")


def test_pairing_hash_is_shown_in_groups() -> None:
    assert shown(bytes.fromhex("00112233445566778899aabbccddeeff")) == "0011 2233 4455 6677 8899 aabb ccdd eeff"


def test_what_is_revoked_is_said_by_name(agent: Person, master: Person) -> None:
    outcome = master("device", "revoke", agent("whoami").data["device"])
    assert outcome.code == 0
    assert "agent research/0" in outcome.err
