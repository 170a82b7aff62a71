"""init by an address, a provider and a passkey: from the command over the broker's real desks to the real registry."""

import io
import json

import pytest

from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import Reason
from agentkeys_core.ids import IdentityType, identity_omni, passkey_value
from device.cli import run
from device.identities import ceremony
from device.identities.email import bind_by_email
from device.k11.port import K11Kind
from signer.adapters.issuer_keys import JwksFile
from signer.evidence_check import EvidencePolicy, PinnedIssuer, verifier
from tests.fakes.k11_port import k11_port
from tests.unit.device.broker_ceremonies import OneProvider
from tests.unit.device.deployment import problem
from tests.unit.device.identity_kit import (
    ADDRESS,
    ATTEST,
    ATTEST_EMAIL,
    BY_EMAIL,
    BY_OIDC,
    BY_PASSKEY,
    CLIENT,
    EMAIL,
    ISSUER,
    OIDC,
    PASSKEY,
    Named,
    World,
    device_row,
    enrolled,
    opened,
    operator_of,
    rows_lost,
)

# --- the three flows


def test_an_address_binds_with_low_assurance(world: World, person: Named) -> None:
    ada = person("ada")
    done = ada.init(*BY_EMAIL)
    identity = identity_omni(IdentityType.EMAIL, "ada.lovelace@people.test")  # A-Z lowered, and nothing else
    assert enrolled(done) == operator_of(world, identity)
    assert "rest on its word (assurance low)" in done.err
    assert world.broker.letters.sent[0][0] == ADDRESS
    me = ada("whoami").data
    assert (me["status"], me["evidence"], me["assurance"]) == ("registered", "email", "low")


def test_a_providers_identity_binds(world: World, person: Named) -> None:
    ada = person("ada")
    done = ada.init(*BY_OIDC)
    assert enrolled(done) == operator_of(world, identity_omni(IdentityType.OIDC, f"{ISSUER}|alice"))
    (_, begun) = world.begun[0]
    assert begun["page"] in done.err
    assert begun["device"] in done.err
    assert (device_row(ada)["evidence"], device_row(ada)["assurance"]) == ("oidc", "high")
    assert not sorted(path.name for path in ada.home.glob("pending*"))


def test_a_passkey_that_is_made_binds(world: World, person: Named) -> None:
    ada = person("ada")
    done = ada.init(*BY_PASSKEY)
    assert enrolled(done) == operator_of(world, identity_omni(IdentityType.PASSKEY, passkey_value(*world.passkey.xy)))
    assert [path for path, _ in world.begun] == [PASSKEY, PASSKEY]
    assert all(begun["page"] in done.err for _, begun in world.begun)
    assert (device_row(ada)["evidence"], device_row(ada)["assurance"]) == ("passkey", "high")
    assert not (ada.home / "passkey.json").exists()


def test_a_passkey_of_before_binds(world: World, person: Named) -> None:
    """Made from another machine, where the bind was given up."""
    world.deployment.hooks["broker", ATTEST] = lambda _: problem(Reason.OVERLOADED, 429)
    assert person("first").init(*BY_PASSKEY).reason == "overloaded"
    world.registry.stand_behind(world.deployment)
    operator = enrolled(person("second").init(*BY_PASSKEY, "--existing-passkey"))
    assert operator == operator_of(world, identity_omni(IdentityType.PASSKEY, passkey_value(*world.passkey.xy)))


@pytest.mark.parametrize("words", [BY_EMAIL, BY_OIDC, BY_PASSKEY], ids=["email", "oidc", "passkey"])
def test_a_second_init_is_the_same_enrolment(world: World, person: Named, words: tuple[str, ...]) -> None:
    ada = person("ada")
    operator = enrolled(ada.init(*words))
    begun = len(world.begun)
    again = ada.init(*words)
    assert (again.code, again.data["status"]) == (0, "already_enrolled")
    assert bytes.fromhex(again.data["operator_omni"]) == operator
    assert len(world.begun) == begun


# --- interrupted and run again


@pytest.mark.parametrize(
    ("words", "path"), [(BY_EMAIL, EMAIL), (BY_OIDC, OIDC), (BY_PASSKEY, PASSKEY)], ids=["email", "oidc", "passkey"]
)
def test_what_nobody_confirmed_goes_on_in_the_next_run(
    world: World, person: Named, words: tuple[str, ...], path: str
) -> None:
    world.idle = True
    ada = person("ada")
    waited = ada.init(*words)
    assert (waited.code, waited.reason) == (5, "not_confirmed")
    assert world.count(path) == 1
    key = (ada.home / "k10.json").read_bytes()
    world.confirm()
    world.idle = False
    enrolled(ada.init(*words))
    assert world.count(path) == (2 if words == BY_PASSKEY else 1)  # a passkey has a page to be made, and one to bind
    assert (ada.home / "k10.json").read_bytes() == key


@pytest.mark.parametrize("words", [BY_EMAIL, BY_OIDC, BY_PASSKEY], ids=["email", "oidc", "passkey"])
def test_a_ceremony_that_is_over_is_begun_anew(world: World, person: Named, words: tuple[str, ...]) -> None:
    world.idle = True
    ada = person("ada")
    assert ada.init(*words).reason == "not_confirmed"
    (kept,) = ada.home.glob("pending-ceremony.json")
    told = json.loads(kept.read_bytes())
    world.deployment.hooks["broker", f"/v1/identity/ceremonies/{told['id']}"] = lambda _: problem(
        Reason.CEREMONY_ENDED, 409
    )
    world.idle = False
    enrolled(ada.init(*words))


def test_a_page_that_leads_on_no_more_is_followed_by_another(world: World, person: Named) -> None:
    """The person signed in at the provider and closed the page that asks once more: its address is used up."""
    world.idle = True
    ada = person("ada")
    assert ada.init(*BY_OIDC).reason == "not_confirmed"
    world.broker.sign_in(world.begun[0][1]["page"], "", agree=False)
    world.idle = False
    enrolled(ada.init(*BY_OIDC))
    assert world.count(OIDC) == 2


def test_another_address_is_another_mail(world: World, person: Named) -> None:
    world.idle = True
    ada = person("ada")
    assert ada.init(*BY_EMAIL).reason == "not_confirmed"
    assert ada.init("--identity", "email", "--email", "other@people.test").reason == "not_confirmed"
    assert [to for to, _ in world.broker.letters.sent] == [ADDRESS, "other@people.test"]


@pytest.mark.parametrize(
    ("words", "path"),
    [(BY_EMAIL, ATTEST_EMAIL), (BY_OIDC, ATTEST), (BY_PASSKEY, ATTEST)],
    ids=["email", "oidc", "passkey"],
)
def test_a_lost_signature_is_asked_for_again_for_the_same_enrol(
    world: World, person: Named, words: tuple[str, ...], path: str
) -> None:
    asked: list[bytes] = []

    def lose(body: bytes) -> tuple[int, object]:
        change = json.loads(body)["change"]
        asked.append(json.dumps(change, sort_keys=True).encode())
        if path == ATTEST:
            world.registry.attest(body)
        return problem(Reason.SIGNER_UNREACHABLE, 503)

    world.deployment.hooks["broker", path] = lose
    ada = person("ada")
    assert ada.init(*words).reason == "signer_unreachable"
    assert ada.init(*words).reason == "signer_unreachable"
    assert len(asked) == 2
    assert asked[0] == asked[1]
    begun = len(world.begun)
    del world.deployment.hooks["broker", path]
    world.registry.stand_behind(world.deployment)
    enrolled(ada.init(*words))
    assert len(world.begun) == begun


@pytest.mark.parametrize("words", [BY_EMAIL, BY_OIDC, BY_PASSKEY], ids=["email", "oidc", "passkey"])
def test_an_enrol_whose_row_was_lost_is_finished_first(world: World, person: Named, words: tuple[str, ...]) -> None:
    ada = person("ada")
    with rows_lost(world):
        assert ada.init(*words).reason == "unreachable"
    begun = len(world.begun)
    enrolled(ada.init(*words))
    assert len(world.begun) == begun
    assert device_row(ada)["device"] == ada("whoami", "--offline").data["device"]


def test_an_enrol_that_went_through_is_not_taken_for_another_identity(world: World, person: Named) -> None:
    ada = person("ada")
    with rows_lost(world):
        assert ada.init(*BY_EMAIL).reason == "unreachable"
    other = ada.init("--identity", "email", "--email", "other@people.test")
    assert (other.code, other.reason) == (7, "already_initialised")
    assert len(world.broker.letters.sent) == 1
    assert ada("whoami").data["status"] == "registered"


def test_an_enrol_that_went_through_is_not_taken_for_a_wallets(world: World, person: Named) -> None:
    ada = person("ada")
    with rows_lost(world):
        assert ada.init(*BY_EMAIL).reason == "unreachable"
    wallet = ada.init()
    assert (wallet.code, wallet.reason) == (7, "already_initialised")
    assert ada("whoami").data["status"] == "registered"


def test_no_wallet_of_ones_own_is_asked_to_sign_for_another_identity(
    world: World, person: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is for a wallet that the signer holds: init for an own wallet asks which one, on its page."""
    monkeypatch.setattr("device.wallet_page.sitting.TIMEOUT_S", 0.01)
    world.deployment.hooks["broker", ATTEST_EMAIL] = lambda _: problem(Reason.SIGNER_UNREACHABLE, 503)
    ada = person("ada")
    assert ada.init(*BY_EMAIL).reason == "signer_unreachable"
    with k11_port():
        unnamed = ada.init("--identity", "evm")
    assert unnamed.reason == "k11_timeout"
    assert "Open this page in the browser that has your wallet" in unnamed.err
    wallet = json.loads((ada.home / "pending-enrol.json").read_bytes())["signed"]["change"]["message"]["wallet"]
    assert ada.init("--wallet", wallet).data["typed_data"]["message"]["walletEpoch"] == 0


def test_an_enrol_that_was_refused_for_good_stands_in_nobodys_way(world: World, person: Named) -> None:
    """Somebody else was first with that address; another identity binds in the same folder."""
    enrolled(person("mallory").init(*BY_EMAIL))
    ada = person("ada")
    assert ada.init(*BY_EMAIL).reason == "already_bound"
    assert ada.init(*BY_EMAIL).reason == "already_bound"
    enrolled(ada.init("--identity", "email", "--email", "other@people.test"))


def test_another_identitys_enrol_is_not_taken(world: World, person: Named) -> None:
    """It was signed, and its wallet is told for the next one: a broker cannot have it sent for somebody else."""
    world.deployment.hooks["broker", ATTEST_EMAIL] = lambda _: problem(Reason.SIGNER_UNREACHABLE, 503)
    ada = person("ada")
    assert ada.init(*BY_EMAIL).reason == "signer_unreachable"
    first = (ada.home / "pending-enrol.json").read_bytes()
    wallet = json.loads(first)["signed"]["change"]["message"]["wallet"]
    world.deployment.hooks["broker", "/v1/derive-address"] = lambda _: (200, {"address": wallet, "epoch": 1})
    assert ada.init("--identity", "email", "--email", "other@people.test").reason == "signer_unreachable"
    second = (ada.home / "pending-enrol.json").read_bytes()
    told = json.loads(second)["signed"]["change"]["message"]["identityOmni"]
    assert told.removeprefix("0x") == identity_omni(IdentityType.EMAIL, "other@people.test").hex()


def test_a_refused_token_is_followed_by_a_new_nonce(world: World, person: Named) -> None:
    """A nonce counts once: with the old one the signer would refuse for ever."""
    world.provider.spoil = {"iat": 1}
    ada = person("ada")
    assert ada.init(*BY_OIDC).reason == "invalid_evidence"
    world.provider.spoil = {}
    enrolled(ada.init(*BY_OIDC))
    assert world.count(OIDC) == 2


def test_a_ctrl_c_leaves_what_the_next_run_needs(world: World, person: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    world.idle = True
    monkeypatch.setattr(ceremony, "WAIT_S", 60.0)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    ada = person("ada")
    with opened(world, ada) as device, pytest.raises(KeyboardInterrupt):
        bind_by_email(device, ADDRESS, kind=K11Kind.SOFTWARE, pause=interrupt)
    world.confirm()
    enrolled(ada.init(*BY_EMAIL))
    assert len(world.broker.letters.sent) == 1


def test_a_damaged_file_of_a_ceremony_is_told_by_name(world: World, person: Named) -> None:
    world.idle = True
    ada = person("ada")
    assert ada.init(*BY_EMAIL).reason == "not_confirmed"
    kept = ada.home / "pending-ceremony.json"
    for content in (b"", b"{}", kept.read_bytes().replace(b'"ver":2', b'"ver":3')):
        kept.write_bytes(content)
        outcome = ada.init(*BY_EMAIL)
        assert (outcome.code, outcome.reason) == (2, "bad_file")
        assert "pending-ceremony.json" in outcome.err


def test_a_ceremony_of_a_version_before_codes_is_begun_anew(world: World, person: Named) -> None:
    world.idle = True
    ada = person("ada")
    assert ada.init(*BY_EMAIL).reason == "not_confirmed"
    kept = ada.home / "pending-ceremony.json"
    members = json.loads(kept.read_bytes())
    del members["code"]
    kept.write_bytes(canonical_json({**members, "ver": 1}))
    world.idle = False
    enrolled(ada.init(*BY_EMAIL))
    assert world.count(EMAIL) == 2


def test_the_code_is_shown_again_by_a_run_that_goes_on(world: World, person: Named) -> None:
    world.idle = True
    ada = person("ada")
    runs = [ada.init(*BY_EMAIL), ada.init(*BY_EMAIL)]
    assert [one.reason for one in runs] == ["not_confirmed"] * 2
    ((_, begun),) = world.begun
    for one in runs:
        assert begun["code"] in one.err
        assert begun["code"] not in one.out
    assert begun["code"] not in world.broker.letters.sent[0][1]
    world.confirm()
    enrolled(ada.init(*BY_EMAIL))


# --- which provider


def test_one_of_several_providers_must_be_named(world: World, person: Named) -> None:
    world.broker.providers["https://other.example.com"] = OneProvider("https://other.example.com", "other")
    unnamed = person("ada").init(*BY_OIDC)
    assert (unnamed.code, unnamed.reason) == (2, "ambiguous")
    assert ISSUER in unnamed.err
    assert "https://other.example.com" in unnamed.err
    enrolled(person("ada").init(*BY_OIDC, "--issuer", ISSUER))


@pytest.mark.parametrize("words", [(*BY_OIDC, "--issuer", "https://else.where"), ("--identity", "oauth2_google")])
def test_a_provider_that_the_broker_lacks_is_not_offered(world: World, person: Named, words: tuple[str, ...]) -> None:
    outcome = person("ada").init(*words)
    assert (outcome.code, outcome.reason) == (4, "identity_not_offered")
    assert ISSUER in outcome.err
    assert not world.begun


def test_google_is_named_by_its_subject_alone(world: World, person: Named) -> None:
    google = "https://accounts.google.com"
    provider = OneProvider(google, CLIENT, key=world.provider.key)
    world.broker.providers[google] = provider
    pinned = PinnedIssuer(
        issuer=google,
        client_id=CLIENT,
        kind=IdentityType.OAUTH2_GOOGLE,
        verify=JwksFile(world.registry.issuer.path).verify,
    )
    world.registry.desk._verify = verifier(EvidencePolicy(issuers={google: pinned}))
    operator = enrolled(person("ada").init("--identity", "oauth2_google"))
    assert operator == operator_of(world, identity_omni(IdentityType.OAUTH2_GOOGLE, "alice"))


@pytest.mark.parametrize(
    ("words", "path"),
    [(BY_EMAIL, EMAIL), (BY_OIDC, OIDC + "/issuers"), (BY_PASSKEY, PASSKEY)],
    ids=["email", "oidc", "passkey"],
)
def test_an_identity_that_the_broker_lacks_is_not_offered(
    world: World, person: Named, words: tuple[str, ...], path: str
) -> None:
    world.deployment.hooks["broker", path] = lambda _: problem(Reason.NOT_FOUND, 404)
    outcome = person("ada").init(*words)
    assert (outcome.code, outcome.reason) == (4, "identity_not_offered")


@pytest.mark.parametrize(
    "told",
    [[], {}, {"issuers": {}}, {"issuers": ["https://a"]}, {"issuers": [{"issuer": ISSUER, "client_id": ""}]},
     {"issuers": [{"issuer": f"https://a{number}", "client_id": "c"} for number in range(65)]},
     {"issuers": [{"issuer": "https://a\x1b[2J", "client_id": "c"}]}, {"issuers": [{"issuer": 7, "client_id": "c"}]}],
)  # fmt: skip
def test_what_is_no_list_of_providers_is_not_trusted(world: World, person: Named, told: object) -> None:
    world.deployment.hooks["broker", OIDC + "/issuers"] = lambda _: (200, told)
    outcome = person("ada").init(*BY_OIDC)
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")


# --- arguments


@pytest.mark.parametrize(
    "words",
    [("--identity", "email"), ("--identity", "email", "--email", "nobody"), ("--identity", "email", "--email", "a b@c"),
     (*BY_OIDC, "--email", ADDRESS), (*BY_EMAIL, "--wallet", "0x" + "00" * 20), (*BY_PASSKEY, "--issuer", ISSUER),
     (*BY_OIDC, "--id-token-file", "token"), (*BY_OIDC, "--issuer", ISSUER, "--client-id", CLIENT),
     ("--identity", "oauth2_google", "--issuer", ISSUER), (*BY_OIDC, "--existing-passkey"), ("--existing-passkey",)],
)  # fmt: skip
def test_options_of_another_identity_are_a_mistake(world: World, person: Named, words: tuple[str, ...]) -> None:
    ada = person("ada")
    outcome = ada.init(*words)
    assert (outcome.code, outcome.reason) == (2, "usage")
    assert not world.deployment.seen


@pytest.mark.parametrize("words", [BY_EMAIL, BY_OIDC, BY_PASSKEY], ids=["email", "oidc", "passkey"])
def test_where_nobody_can_agree_nothing_is_begun(
    world: World, person: Named, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    ada = person("ada")
    home = ["--home", str(ada.home), "--json"]
    profile = [str(word) for word in ada.profile_words()]
    assert run([*home, "init", *profile, "--k11", "software", *words]) == 2
    assert not world.begun
