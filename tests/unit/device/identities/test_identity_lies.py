"""A broker that lies or refuses while somebody proves who they are: told by name, and nothing of it is used."""

import json
from functools import partial

import pytest

from agentkeys_core.changes import parse_change
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.errors import Reason
from agentkeys_core.ids import IdentityType, identity_omni, passkey_value
from agentkeys_core.keys import DeviceKey
from device.identities import ceremony
from device.identities.email import bind_by_email
from device.k11.port import K11Kind
from tests.fakes.passkey import SoftPasskey
from tests.unit.device.broker_ceremonies import RP_ID
from tests.unit.device.deployment import problem
from tests.unit.device.https import Reply
from tests.unit.device.identity_kit import (
    ADDRESS,
    ATTEST,
    ATTEST_EMAIL,
    BY_EMAIL,
    BY_OIDC,
    BY_PASSKEY,
    CHANGES,
    CLIENT,
    EMAIL,
    ISSUER,
    OIDC,
    PASSKEY,
    Named,
    Told,
    World,
    enrolled,
    opened,
    operator_of,
)
from tests.unit.device.terminal import Terminal

# --- a broker that lies


PAGES = [
    "https://evil.example/identity/{kind}/{secret}",
    "{origin}.evil.example/identity/{kind}/{secret}",
    "{origin}@evil.example/identity/{kind}/{secret}",
    "http://127.0.0.1/identity/{kind}/{secret}",
    "{origin}/elsewhere/{secret}",
    "{origin}/identity/{kind}/../../{secret}",
    "{origin}/identity/{kind}/{secret}?next=https://evil.example",
    "{origin}/identity/{kind}/{secret}\x1b[2J",
    "javascript:alert(1)//{secret}",
    "",
]


@pytest.mark.parametrize(("words", "kind"), [(BY_OIDC, "oidc"), (BY_PASSKEY, "passkey")], ids=["oidc", "passkey"])
def test_a_page_of_another_origin_is_shown_to_nobody(
    world: World, person: Named, words: tuple[str, ...], kind: str
) -> None:
    world.idle = True
    ada = person("ada")
    for page in PAGES:
        bad = page.format(origin=world.broker.origin, kind=kind, secret="A" * 43)
        world.lie(f"/v1/identity/{kind}", page=bad)
        outcome = ada.init(*words)
        assert (outcome.code, outcome.reason) == (6, "answer_not_trusted"), bad
        assert "open this page" not in outcome.err


NO_CEREMONIES: list[Told] = [
    {"id": "../../v1/caps"},
    {"id": "00" * 16 + "/x"},
    {"device": "0000 0000 0000 0000"},
    {"state": "done"},
    {"state": 7},
    {"expires_at": "soon"},
    {"more": 1},
]


@pytest.mark.parametrize("words", [BY_EMAIL, BY_OIDC, BY_PASSKEY], ids=["email", "oidc", "passkey"])
def test_what_is_no_ceremony_of_this_device_is_not_trusted(world: World, person: Named, words: tuple[str, ...]) -> None:
    world.idle = True
    ada = person("ada")
    for number, members in enumerate(NO_CEREMONIES):
        world.lie("/v1/identity", **members)
        outcome = ada.init(*(word.replace("Ada", f"ada{number}") for word in words))  # an address gets so many mails
        assert (outcome.code, outcome.reason) == (6, "answer_not_trusted"), members


@pytest.mark.parametrize("words", [BY_EMAIL, BY_OIDC, BY_PASSKEY], ids=["email", "oidc", "passkey"])
@pytest.mark.parametrize("code", [None, "", "ABCDEF", "ABC-DEF ", "ABC-DE\x1b", 123456], ids=str)
def test_what_is_no_code_is_shown_to_nobody(world: World, person: Named, words: tuple[str, ...], code: object) -> None:
    """Where a page asks for one, a ceremony without it would lead nowhere."""

    def lie(_: str, path: str, told: Told) -> None:
        if "code" in told:
            told |= {"code": code}
            if code is None:
                del told["code"]

    world.deployment.identity.lie = lie
    ada = person("ada")
    outcome = ada.init(*words)
    assert outcome.reason == "answer_not_trusted"
    assert "Type this code" not in outcome.err


def test_somebody_elses_ceremony_is_not_taken_for_ones_own(world: World, person: Named) -> None:
    """The broker answers with the state of a ceremony that another device began, and that was confirmed."""
    enrolled(person("mallory").init(*BY_OIDC))
    (_, hers) = world.begun[0]
    world.idle = True
    world.lie("/v1/identity/ceremonies", id=hers["id"], state="confirmed")
    outcome = person("ada").init(*BY_OIDC)
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")


def test_a_ceremony_tells_its_state_to_its_device_alone(world: World, person: Named) -> None:
    """Whoever learns the id of somebody's ceremony learns nothing from the broker by it."""
    world.idle = True
    assert person("ada").init(*BY_OIDC).reason == "not_confirmed"
    (_, hers) = world.begun[0]
    mallory = person("mallory")
    assert mallory.init(*BY_OIDC).reason == "not_confirmed"
    kept = mallory.home / "pending-ceremony.json"
    kept.write_text(kept.read_text().replace(world.begun[1][1]["id"], hers["id"]))
    assert mallory.init(*BY_OIDC).reason == "not_confirmed"
    assert world.count(OIDC) == 3  # not found there, so begun anew


@pytest.mark.parametrize(
    "spoil",
    [{"nonce": b64u_encode(bytes(32))}, {"aud": "another-client"}, {"aud": [CLIENT, "another-client"]},
     {"iss": "https://other.example.com"}, {"sub": ""}, {"nonce": 7}],
    ids=["another device's", "another client's", "also another client's", "another provider's", "nobody's", "no nonce"],
)  # fmt: skip
def test_a_token_for_something_else_binds_nothing(world: World, person: Named, spoil: Told) -> None:
    """What the broker hands on was issued for other keys, another client or another provider."""
    world.provider.spoil = spoil
    ada = person("ada")
    outcome = ada.init(*BY_OIDC)
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")
    assert ("broker", ATTEST) not in world.deployment.seen
    world.provider.spoil = {}
    enrolled(ada.init(*BY_OIDC))  # with a ceremony of its own


@pytest.mark.parametrize("token", ["", "a.b.c", "e30.e30.", 7, None])
def test_what_is_no_token_is_not_trusted(world: World, person: Named, token: object) -> None:
    world.lie("/v1/identity/ceremonies", id_token=token)
    outcome = person("ada").init(*BY_OIDC)
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")


def test_a_broker_that_swaps_the_client_gets_a_token_that_counts_nowhere(world: World, person: Named) -> None:
    """Told consistently, the device cannot see it; the signer pins the client, and the nonce names it."""
    world.provider.client_id = "the broker's own"
    outcome = person("ada").init(*BY_OIDC)
    assert outcome.reason == "invalid_evidence"

    told = {"issuers": [{"client_id": "yet another", "issuer": ISSUER}]}
    world.provider.client_id = CLIENT
    world.deployment.hooks["broker", OIDC + "/issuers"] = lambda _: (200, told)
    outcome = person("bob").init(*BY_OIDC)
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")


@pytest.mark.parametrize("mode", [(), ("--json",)], ids=["words", "json"])
def test_who_would_be_bound_is_told_before_anybody_agrees(world: World, person: Named, mode: tuple[str, ...]) -> None:
    """In every mode: beside JSON too, the name is what the person agrees to."""
    ada = person("ada")
    words = [str(word) for word in ada.profile_words()]
    with Terminal(ada, *mode, "init", *words, "--k11", "software", *BY_OIDC) as terminal:
        asked = terminal.until(r"\[y/N\]")
        terminal.write(b"n\n")
        assert terminal.end()[0] == 1
    assert f"{ISSUER} says that you are alice" in asked


@pytest.mark.parametrize("part", ["credential_id", "x", "y"])
def test_what_is_no_passkey_is_not_kept(world: World, person: Named, part: str) -> None:
    x, y = world.passkey.xy
    public = {"credential_id": world.passkey.credential_id, "x": x, "y": y, part: b""}
    world.lie("/v1/identity/ceremonies", passkey={name: b64u_encode(value) for name, value in public.items()})
    ada = person("ada")
    outcome = ada.init(*BY_PASSKEY)
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")
    assert not (ada.home / "passkey.json").exists()


class Swapped:
    """What a broker could hand back instead of the passkey's own word on this Enrol."""

    @staticmethod
    def key(world: World, told: Told) -> None:
        """Another passkey's signature, under the credential id of ours."""
        other = SoftPasskey(rp_id=RP_ID, origin=world.broker.origin)
        Swapped._sign(world, told, other, RP_ID)

    @staticmethod
    def site(world: World, told: Told) -> None:
        """Our passkey's, for the pages of another relying party."""
        Swapped._sign(world, told, world.passkey, "evil.example")

    @staticmethod
    def digest(world: World, told: Told) -> None:
        """Our passkey's, over another challenge."""
        answer = json.loads(world.passkey.asserted(bytes(32)))
        Swapped._put(told, answer)

    @staticmethod
    def origin(world: World, told: Told) -> None:
        """Our passkey's, from another origin of that domain."""
        challenge = Swapped._challenge(told)
        Swapped._put(told, json.loads(world.passkey.asserted(challenge, origin="https://127.0.0.1:1")))

    @staticmethod
    def unverified(world: World, told: Told) -> None:
        """Our passkey's, where nobody gave a PIN or a finger."""
        Swapped._put(told, json.loads(world.passkey.asserted(Swapped._challenge(told), flags=1)))

    @staticmethod
    def nothing(world: World, told: Told) -> None:
        """No evidence at all."""
        del told["evidence"]

    @staticmethod
    def _sign(world: World, told: Told, passkey: SoftPasskey, rp_id: str) -> None:
        answer = json.loads(passkey.asserted(Swapped._challenge(told), rp_id=rp_id))
        answer["rawId"] = b64u_encode(world.passkey.credential_id)
        Swapped._put(told, answer)

    @staticmethod
    def _challenge(told: Told) -> bytes:
        data = json.loads(b64u_decode(told["evidence"]["assertion"]["client_data_json"]))
        return b64u_decode(data["challenge"])

    @staticmethod
    def _put(told: Told, answer: Told) -> None:
        response = answer["response"]
        told["evidence"]["assertion"] = {
            "authenticator_data": response["authenticatorData"],
            "client_data_json": response["clientDataJSON"],
            "credential_id": answer["rawId"],
            "signature": response["signature"],
        }


@pytest.mark.parametrize("swap", ["key", "site", "digest", "origin", "unverified", "nothing"])
def test_evidence_that_is_not_this_passkeys_word_on_this_enrol_goes_nowhere(
    world: World, person: Named, swap: str
) -> None:
    def lie(_: str, path: str, told: Told) -> None:
        if "evidence" in told and "ceremonies" in path:
            getattr(Swapped, swap)(world, told)

    world.deployment.identity.lie = lie
    ada = person("ada")
    outcome = ada.init(*BY_PASSKEY)
    assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")
    assert ("broker", ATTEST) not in world.deployment.seen
    world.deployment.identity.lie = lambda *_: None
    enrolled(ada.init(*BY_PASSKEY))  # with the same passkey
    assert world.count(PASSKEY) == 3


def answered(told: object, _: bytes) -> Reply:
    return 200, told


@pytest.mark.parametrize(
    ("words", "path"),
    [(BY_EMAIL, ATTEST_EMAIL), (BY_OIDC, ATTEST), (BY_PASSKEY, ATTEST)],
    ids=["email", "oidc", "passkey"],
)
def test_another_wallets_signature_is_not_used(world: World, person: Named, words: tuple[str, ...], path: str) -> None:
    signature = DeviceKey.generate().sign_recoverable(bytes(32))
    for told in ({"signature": b64u_encode(signature)}, {"signature": b64u_encode(bytes(65))}, {"signature": ""}, {}):
        world.deployment.hooks["broker", path] = partial(answered, told)
        ada = person("ada")
        outcome = ada.init(*words)
        assert (outcome.code, outcome.reason) == (6, "answer_not_trusted")
        assert not any(seen == CHANGES for _, seen in world.deployment.seen)
        assert ada("whoami", "--offline").data["status"] == "not_enrolled"


def test_a_wallet_that_the_broker_made_up_registers_nothing(world: World, person: Named) -> None:
    """It names a wallet of its own, and signs with it: the signer has attested no such Enrol."""
    own = DeviceKey.generate()
    told = {"address": "0x" + own.address.hex(), "epoch": 1}
    world.deployment.hooks["broker", "/v1/derive-address"] = lambda _: (200, told)
    domain = world.deployment.profile.domain

    def sign(body: bytes) -> tuple[int, object]:
        change = json.loads(body)["change"]
        enrol = parse_change(change["type"], change["message"])
        return 200, {"signature": b64u_encode(own.sign_recoverable(enrol.digest(domain)))}

    world.deployment.hooks["broker", ATTEST] = sign
    ada = person("ada")
    outcome = ada.init(*BY_OIDC)
    assert outcome.reason == "invalid_evidence"
    assert ada("whoami", "--offline").data["status"] == "not_enrolled"


# --- refusals of the broker


def test_a_passkey_that_the_broker_has_forgotten_is_made_anew(world: World, person: Named) -> None:
    def forget(path: str, told: Told) -> None:
        world.act(path, told)
        world.deployment.hooks["broker", PASSKEY] = lambda _: problem(Reason.INVALID_BODY, 400)

    world.deployment.identity.person = forget
    ada = person("ada")
    assert ada.init(*BY_PASSKEY).reason == "invalid_body"
    del world.deployment.hooks["broker", PASSKEY]
    world.deployment.identity.person = world.act
    world.passkey = SoftPasskey(rp_id=RP_ID, origin=world.broker.origin)
    operator = enrolled(ada.init(*BY_PASSKEY))
    assert operator == operator_of(world, identity_omni(IdentityType.PASSKEY, passkey_value(*world.passkey.xy)))


def test_a_busy_broker_is_asked_again(world: World, person: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceremony, "WAIT_S", 60.0)
    refusals = [problem(Reason.RATE_LIMITED, 429), problem(Reason.REGISTRY_UNREACHABLE, 503)]

    def act(path: str, told: Told) -> None:
        world.act(path, told)
        at = f"/v1/identity/ceremonies/{told['id']}"
        world.deployment.hooks["broker", at] = lambda _: refusals.pop() if refusals else None

    world.deployment.identity.person = act
    paused: list[float] = []
    with opened(world, person("ada")) as device:
        assert bind_by_email(device, ADDRESS, kind=K11Kind.SOFTWARE, pause=paused.append).receipt
    assert len(paused) == 2


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [(Reason.CEREMONY_ENDED, 409, 1), (Reason.PROOF_INVALID, 401, 3), (Reason.INTERNAL, 500, 5)],
)
def test_a_refusal_while_waiting_is_told_by_name(
    world: World, person: Named, reason: Reason, status: int, code: int
) -> None:
    world.idle = True

    def act(path: str, told: Told) -> None:
        world.deployment.hooks["broker", f"/v1/identity/ceremonies/{told['id']}"] = lambda _: problem(reason, status)

    world.deployment.identity.person = act
    outcome = person("ada").init(*BY_EMAIL)
    assert (outcome.code, outcome.reason) == (code, str(reason))


def test_too_many_mails_are_refused_by_name(world: World, person: Named) -> None:
    world.deployment.hooks["broker", EMAIL] = lambda _: problem(Reason.RATE_LIMITED, 429)
    outcome = person("ada").init(*BY_EMAIL)
    assert (outcome.code, outcome.reason) == (5, "rate_limited")
