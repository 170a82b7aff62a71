"""Sessions: who gets one, what its token is worth, and how it ends. Through the routes, as a device would."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import address_of, device_key_hash
from agentkeys_core.keys import DeviceKey, ES256PublicKey
from agentkeys_core.proof import PROOF_HEADER
from broker import session_tokens
from broker.keys import K1Keys
from broker.sessions import PER_DEVICE, REQUESTS_PER_DEVICE, SESSION_S
from tests.fakes.services_kit import BROKER_ORIGIN, Services
from tests.unit.broker.test_store import session
from tests.unit.broker.visitor import EMPTY, Visit, reason


@pytest.fixture
def visit(services: Services) -> Visit:
    return visitor(services, services.world.user.master)


def visitor(services: Services, key: DeviceKey) -> Visit:
    return Visit(services.broker, services.world.clock, key)


def test_a_registered_device_signs_in_and_is_known_by_its_token(services: Services, visit: Visit) -> None:
    answer = visit.sign_in()
    assert answer.status_code == 200
    granted = answer.json()
    assert granted["session"]["operator_omni"] == services.world.user.operator.hex()
    assert granted["session"]["expires_at"] == visit.now + SESSION_S
    assert granted["token_expires_at"] == visit.now + session_tokens.TOKEN_TTL_S
    listed = visit.sessions()
    assert [found["id"] for found in listed.json()["sessions"]] == [granted["session"]["id"]]


def test_a_token_is_an_es256_jwt_that_names_key_and_device(services: Services, visit: Visit) -> None:
    visit.sign_in()
    key = services.world.k1_public
    header = jwt.get_unverified_header(visit.token)
    assert (header["alg"], header["kid"], header["typ"]) == ("ES256", key.kid, "at+jwt")
    found = jwt.decode(
        visit.token,
        jwt.PyJWK(key.jwk()),
        algorithms=["ES256"],
        audience=BROKER_ORIGIN,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert found["cnf"] == {"kid": device_key_hash(address_of(visit.key.public_key)).hex()}


@pytest.mark.parametrize(
    "spoil",
    [
        {"aud": "https://elsewhere.test"},
        {"method": "GET"},
        {"path": "/v1/caps"},
        {"body_hash": sha256(b"another body")},
        {"purpose": "request"},
        {"nonce": "00" * 56},
        {"nonce": "zz"},
        {"nonce": "AB" * 56},
        {"issued_at": 1, "expires_at": 60},
    ],
)
def test_a_proof_for_something_else_signs_nobody_in(visit: Visit, spoil: Mapping[str, Any]) -> None:
    assert reason(visit.sign_in(**spoil)) == "proof_invalid"


def test_a_proof_of_another_time_tells_the_servers(visit: Visit) -> None:
    answer = visit.sign_in(issued_at=visit.now + 61, expires_at=visit.now + 62)
    assert reason(answer) == "proof_invalid"
    assert answer.json()["server_time"] == visit.now


def test_a_request_without_a_proof_is_refused(visit: Visit) -> None:
    assert reason(visit.ask("sign-in", "POST", "/v1/session", proof="")) == "proof_invalid"
    assert reason(visit.ask("sign-in", "POST", "/v1/session", proof="x.y")) == "proof_invalid"


def test_a_signature_of_another_key_signs_nobody_in(visit: Visit) -> None:
    other = DeviceKey.generate()
    honest = visit.proof("sign-in", "POST", "/v1/session", EMPTY, {"nonce": visit.nonce()})
    document, _, _ = honest.partition(".")
    _, _, signature = visit.proof("sign-in", "POST", "/v1/session", EMPTY, {"nonce": visit.nonce()}).partition(".")
    forged = f"{document}.{signature}"
    assert reason(visit.ask("sign-in", "POST", "/v1/session", proof=forged)) == "device_signature_invalid"
    assert reason(visit.sign_in(public_key=other.public_key)) == "device_signature_invalid"


def test_unknown_and_revoked_devices_get_no_session(services: Services, visit: Visit) -> None:
    assert reason(visitor(services, DeviceKey.generate()).sign_in()) == "device_unknown"
    visit.sign_in()
    services.world.registry.bend_device(visit.key.key_hash, revoked=True)
    assert reason(visit.sign_in()) == "device_revoked"
    assert reason(visit.sessions()) == "device_revoked"  # at once, whatever the token says
    assert reason(visit.ask("refresh", "POST", "/v1/session/refresh")) == "device_revoked"


def test_a_challenge_is_good_for_one_sign_in(visit: Visit) -> None:
    nonce = visit.nonce()
    assert visit.sign_in(nonce=nonce).status_code == 200
    assert reason(visit.sign_in(nonce=nonce)) == "proof_invalid"


def test_a_challenge_grows_old(services: Services, visit: Visit) -> None:
    nonce = visit.nonce()
    services.world.clock.forward(300)
    assert reason(visit.sign_in(nonce=nonce)) == "proof_invalid"


def test_a_challenge_that_a_stranger_saw_stays_good(services: Services, visit: Visit) -> None:
    nonce = visit.nonce()
    assert reason(visitor(services, DeviceKey.generate()).sign_in(nonce=nonce)) == "device_unknown"
    assert visit.sign_in(nonce=nonce).status_code == 200


def test_asking_for_challenges_keeps_nothing(services: Services, visit: Visit) -> None:
    for _ in range(50):
        visit.nonce()
    with services.engine.connect() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM redeemed").scalar() == 0


def test_a_proof_is_good_for_one_request(visit: Visit) -> None:
    visit.sign_in()
    proof = visit.proof("request", "GET", "/v1/sessions", b"")
    assert visit.sessions(proof=proof).status_code == 200
    assert reason(visit.sessions(proof=proof)) == "proof_invalid"


def test_a_stolen_token_opens_nothing(services: Services, visit: Visit) -> None:
    visit.sign_in()
    thief = visitor(services, services.world.user.agent)
    assert thief.sign_in().status_code == 200
    assert reason(thief.sessions(token=visit.token)) == "session_invalid"


def test_a_sign_in_proof_opens_no_request_and_none_is_taken_without_a_token(visit: Visit) -> None:
    visit.sign_in()
    assert reason(visit.ask("sign-in", "GET", "/v1/sessions", b"", spoil={"nonce": visit.nonce()})) == "proof_invalid"
    visit.token = ""
    assert reason(visit.sessions()) == "session_invalid"


def test_another_kind_of_authorization_is_refused(services: Services, visit: Visit) -> None:
    headers = {PROOF_HEADER: visit.proof("request", "GET", "/v1/sessions", b""), "Authorization": "Basic eDp5"}
    assert reason(services.broker.get("/v1/sessions", headers=headers)) == "session_invalid"


def test_a_token_ends_and_is_refreshed_by_the_devices_signature_alone(services: Services, visit: Visit) -> None:
    visit.sign_in()
    services.world.clock.forward(session_tokens.TOKEN_TTL_S)
    assert reason(visit.sessions()) == "session_invalid"
    refreshed = visit.ask("refresh", "POST", "/v1/session/refresh")
    assert refreshed.status_code == 200
    visit.token = refreshed.json()["token"]
    assert visit.sessions().status_code == 200


def test_no_refresh_outlives_the_session(services: Services, visit: Visit) -> None:
    visit.sign_in()
    services.world.clock.forward(SESSION_S - 1)
    refreshed = visit.ask("refresh", "POST", "/v1/session/refresh").json()
    assert refreshed["token_expires_at"] == refreshed["session"]["expires_at"]
    services.world.clock.forward(1)
    assert reason(visit.ask("refresh", "POST", "/v1/session/refresh")) == "session_invalid"


def end(visit: Visit, session_id: str) -> bool:
    found: bool = visit.ask("request", "POST", "/v1/session/end", json.dumps({"id": session_id}).encode()).json()[
        "ended"
    ]
    return found


def listed(visit: Visit) -> set[str]:
    return {found["id"] for found in visit.sessions().json()["sessions"]}


def test_a_session_is_ended_at_once(services: Services, visit: Visit) -> None:
    agent = visitor(services, services.world.user.agent)
    ended = agent.sign_in().json()["session"]["id"]
    visit.sign_in()
    assert end(visit, ended)  # a master ends any session of its user
    assert reason(agent.sessions()) == "session_invalid"
    assert reason(agent.ask("refresh", "POST", "/v1/session/refresh")) == "session_invalid"
    assert not end(visit, ended)


def test_an_agent_sees_and_ends_its_own_sessions_alone(services: Services, visit: Visit) -> None:
    masters = visit.sign_in().json()["session"]["id"]
    agent = visitor(services, services.world.user.agent)
    own = [agent.sign_in().json()["session"]["id"] for _ in range(2)]
    assert listed(visit) == {masters, *own}
    assert listed(agent) == set(own)
    assert not end(agent, masters)
    assert listed(visit) == {masters, *own}
    assert end(agent, own[0])
    assert listed(agent) == {own[1]}


def test_a_device_has_few_sessions_and_its_oldest_gives_way(services: Services, visit: Visit) -> None:
    visit.sign_in()
    agent = visitor(services, services.world.user.agent)
    made = []
    for _ in range(PER_DEVICE + 2):
        made.append((agent.sign_in().json()["session"]["id"], agent.token))
        services.world.clock.forward(1)
    assert listed(agent) == {session_id for session_id, _ in made[2:]}
    assert reason(agent.sessions(token=made[0][1])) == "session_invalid"
    assert agent.sessions(token=made[2][1]).status_code == 200
    assert visit.sessions().status_code == 200  # nobody else's gave way


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.test"},
        {"aud": "https://elsewhere.test"},
        {"sid": "00" * 16},
        {"sid": "zz"},
        {"cnf": {}},
        {"cnf": "x"},
        {"exp": "soon"},
        {"sub": None},
    ],
)
def test_a_token_that_says_anything_else_is_none(services: Services, visit: Visit, claims: Mapping[str, Any]) -> None:
    visit.sign_in()
    key, world = services.world.k1_public, services.world
    honest = jwt.decode(visit.token, options={"verify_signature": False})
    forged = {name: value for name, value in {**honest, **claims}.items() if value is not None}
    token = jwt.encode(forged, world.k1, algorithm="ES256", headers={"kid": key.kid, "typ": "at+jwt"})
    assert reason(visit.sessions(token=token)) == "session_invalid"


@pytest.mark.parametrize("header", [{"kid": "unknown"}, {"kid": None}, {"typ": "JWT"}, {"alg": "none"}])
def test_a_token_with_another_header_is_none(services: Services, visit: Visit, header: Mapping[str, Any]) -> None:
    visit.sign_in()
    key, world = services.world.k1_public, services.world
    honest = jwt.decode(visit.token, options={"verify_signature": False})
    names = {"kid": key.kid, "typ": "at+jwt", **header}
    algorithm = names.pop("alg", "ES256")
    headers = {name: value for name, value in names.items() if value is not None}
    signing = "" if algorithm == "none" else world.k1
    token = jwt.encode(honest, signing, algorithm=algorithm, headers=headers)
    assert reason(visit.sessions(token=token)) == "session_invalid"


def test_a_token_of_another_k1_is_none_and_that_of_the_replaced_one_is_good() -> None:
    old, new, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    made = replace(session(1), expires_at=10_000)
    token, _ = session_tokens.mint(K1Keys.of(old), made, origin=BROKER_ORIGIN, now=100)
    found = session_tokens.verify(token, K1Keys.of(new, old), origin=BROKER_ORIGIN, now=100)
    assert (found.session, found.device) == (made.id, made.device)
    for keys in (K1Keys.of(new), K1Keys.of(new, other)):
        with pytest.raises(KeyServiceError) as caught:
            session_tokens.verify(token, keys, origin=BROKER_ORIGIN, now=100)
        assert caught.value.reason is Reason.SESSION_INVALID


def test_keys_never_print() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    keys = K1Keys.of(key)
    assert repr(key) not in repr(keys)
    assert ES256PublicKey.of(key.public_key()).kid in repr(keys)


def test_a_session_is_worth_nothing_where_caps_are_co_signed(visit: Visit) -> None:
    visit.sign_in()
    answer = visit.ask("request", "POST", "/v1/caps")
    assert reason(answer) == "invalid_cap"


def test_a_device_has_so_many_requests_a_minute(services: Services) -> None:
    """Each writes that its proof is used up; a copy of a proof counts for nobody, another device is not held up."""
    visit = Visit(services.broker, services.world.clock, services.world.user.master)
    assert visit.sign_in().status_code == 200
    proof = visit.proof("request", "GET", "/v1/sessions", b"")
    assert visit.sessions(proof=proof).status_code == 200
    for _ in range(REQUESTS_PER_DEVICE):
        assert reason(visit.sessions(proof=proof)) == "proof_invalid"
    for _ in range(REQUESTS_PER_DEVICE - 2):
        assert visit.sessions().status_code == 200
    refused = [
        visit.sessions(),
        visit.sign_in(),
        visit.ask("refresh", "POST", "/v1/session/refresh"),
        visit.ask("request", "GET", "/v1/devices/uses", b""),
    ]
    assert [reason(answer) for answer in refused] == ["rate_limited"] * 4
    assert int(refused[0].headers["retry-after"]) > 0
    assert Visit(services.broker, services.world.clock, services.world.user.second).sign_in().status_code == 200
    services.world.clock.forward(60)
    assert visit.sessions().status_code == 200
