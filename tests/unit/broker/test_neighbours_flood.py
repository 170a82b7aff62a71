"""A neighbour behind the same address floods broker and worker: whoever is known there goes on as if nothing was."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agentkeys_core.changes import Change, Freeze, RevokeDevice, RotateKey
from agentkeys_core.errors import Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.signed_change import ChangeSignatures, K11OfDevice, SignedChange
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.registry_routes import CHANGE_PRICE
from agentkeys_runtime.web.second_look import MAX_BODY, OF_A_DEVICE
from tests.fakes.app_client import AppClient
from tests.fakes.registry_kit import DOMAIN
from tests.fakes.services_kit import Asked, Services, services_in
from tests.unit.broker.visitor import EMPTY, Visit
from tests.unit.core.material import AuditKey, SoftwareK11, envelope

#: Nothing comes back while a test runs.
BURST = 20
LIMITS = AddressLimits(per_second=1e-6, burst=BURST)
HERE, THERE = "192.0.2.1", "198.51.100.7"
JSON = {"Content-Type": "application/json"}
SERVICES = ["broker", "worker"]


class Town:
    """Both services, one user's devices, and a neighbour who has used up whatever their common address may ask for."""

    def __init__(self, services: Services, stack: ExitStack) -> None:
        self.services, self.user = services, services.world.user
        services.followed.row = AuditKey().row(envelope()).encode()
        apps = {"broker": services.broker.app, "worker": services.worker.app}
        self.here = {name: stack.enter_context(AppClient(app, HERE)) for name, app in apps.items()}
        self.visit = Visit(self.here["broker"], services.world.clock, self.user.master)

    def flood(self) -> None:
        for client in self.here.values():
            answers = [self.read(client, DeviceKey.generate().key_hash) for _ in range(BURST + 1)]
            assert reason(answers[-1]) == "rate_limited"

    def read(self, client: AppClient, key_hash: bytes) -> httpx.Response:
        return client.get(f"/v1/registry/devices/{key_hash.hex()}")

    def header(self, **bent: int) -> dict[str, int]:
        return {"incarnation": 1, "nonce": 1, "deadline": int(self.services.world.clock.now()) + 600, **bent}

    def freeze(self, **bent: int) -> Freeze:
        return Freeze(operator_omni=self.user.operator, **({"incarnation": 1, "freeze_nonce": 0} | bent))

    def revoke(self, **bent: int) -> RevokeDevice:
        return RevokeDevice(
            operator_omni=self.user.operator, device_key_hash=self.user.agent.key_hash, **self.header(**bent)
        )

    def rotate(self, new: DeviceKey) -> RotateKey:
        old = self.user.master.key_hash
        return RotateKey(
            operator_omni=self.user.operator, old_device_key_hash=old, new_device=new.address, **self.header()
        )

    def send(self, client: AppClient, change: Change, key: DeviceKey, *k11: K11OfDevice) -> httpx.Response:
        signature = key.sign_recoverable(change.digest(DOMAIN))
        body = SignedChange(change=change, signatures=ChangeSignatures(k10=signature, k11=k11)).encode()
        return client.post("/v1/registry/changes", content=body, headers=JSON)

    def touch(self, change: Change, k11: SoftwareK11) -> K11OfDevice:
        return K11OfDevice(device=self.user.master.key_hash, assertion=k11.answer(change.digest(DOMAIN)))

    def ask(self, service: str, asked: Asked) -> httpx.Response:
        """The same cap: to be co-signed, or to be answered."""
        client = self.here[service]
        if service == "worker":
            return client.post("/v1/credentials/list", json=asked.json())
        return client.post("/v1/caps", content=asked.uncosigned.encode(), headers=JSON)

    @property
    def applied(self) -> int:
        return len(self.services.followed.applied)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with services_in(tmp_path, addresses=LIMITS) as services, ExitStack() as stack:
        yield Town(services, stack)


def reason(answer: httpx.Response) -> str:
    return "ok" if answer.status_code == 200 else str(answer.json()["reason"])


def reasons(ask: Callable[[], httpx.Response], times: int) -> list[str]:
    return [reason(ask()) for _ in range(times)]


# --- who is known -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_a_neighbour_floods_and_a_master_freezes(town: Town, service: str) -> None:
    town.flood()
    client = town.here[service]
    assert reason(client.get(f"/v1/registry/operators/{town.user.operator.hex()}")) == "ok"
    assert reason(town.send(client, town.freeze(), town.user.master)) == "ok"
    assert reason(town.send(client, town.revoke(), town.user.second)) == "ok"
    assert [SignedChange.parse(body).change for body in town.services.followed.applied] == [
        town.freeze(),
        town.revoke(),
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_a_freeze_passes_while_the_registry_is_silent(town: Town, service: str) -> None:
    town.flood()
    town.services.followed.failing = Reason.REGISTRY_STALE
    assert reason(town.send(town.here[service], town.freeze(), town.user.master)) == "ok"


@pytest.mark.parametrize("service", SERVICES)
def test_a_rotation_without_the_old_key_is_known_by_k11(town: Town, service: str) -> None:
    """Whoever holds the old key has used up what that key may ask for: it is another bucket."""
    town.flood()
    client, new = town.here[service], DeviceKey.generate()
    for number in range(int(OF_A_DEVICE.burst / CHANGE_PRICE)):
        assert reason(town.send(client, town.revoke(deadline=int(2e9) + number), town.user.master)) == "ok"
    assert reason(town.send(client, town.freeze(), town.user.master)) == "rate_limited"
    change = town.rotate(new)
    assert reason(town.send(client, change, new, town.touch(change, town.user.k11))) == "ok"


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("who", ["master", "agent"])
def test_the_caps_of_a_known_device_go_through(town: Town, service: str, who: str) -> None:
    town.flood()
    asked = town.services.names(key=getattr(town.user, who))
    assert reason(town.ask(service, asked)) == "ok"


def test_a_session_goes_on_and_one_can_begin(town: Town) -> None:
    assert reason(town.visit.sign_in()) == "ok"
    nonce = town.visit.nonce()
    town.flood()
    assert reason(town.visit.sessions()) == "ok"
    assert reason(town.visit.ask("refresh", "POST", "/v1/session/refresh")) == "ok"
    assert reason(town.visit.ask("request", "GET", "/v1/devices/uses", b"")) == "ok"
    assert reason(town.visit.ask("request", "POST", "/v1/pairings/claim", b'{"code":"ABCD-EFGH"}')) == "ceremony_ended"
    assert reason(town.visit.ask("sign-in", "POST", "/v1/session", EMPTY, spoil={"nonce": nonce}, token="")) == "ok"


@pytest.mark.parametrize("service", SERVICES)
def test_reads_of_what_is_registered_are_never_short(town: Town, service: str) -> None:
    """An answer from the cache costs no more than a refusal, and nobody can use up somebody else's."""
    town.flood()
    client = town.here[service]
    assert reasons(lambda: town.read(client, town.user.agent.key_hash), 5 * BURST) == ["ok"] * 5 * BURST


# --- who is not -------------------------------------------------------------------------------------------------------

NOBODYS_CHANGES: dict[str, Callable[[Town, AppClient], httpx.Response]] = {
    "an old nonce": lambda t, c: t.send(c, t.revoke(nonce=0), t.user.master),
    "a nonce to come": lambda t, c: t.send(c, t.revoke(nonce=2), t.user.master),
    "an old freeze": lambda t, c: t.send(c, t.freeze(freeze_nonce=1), t.user.master),
    "another incarnation": lambda t, c: t.send(c, t.revoke(incarnation=2), t.user.master),
    "a freeze of another incarnation": lambda t, c: t.send(c, t.freeze(incarnation=2), t.user.master),
    "a deadline that has passed": lambda t, c: t.send(c, t.revoke(deadline=1), t.user.master),
    "an agent's": lambda t, c: t.send(c, t.freeze(), t.user.agent),
    "a stranger's": lambda t, c: t.send(c, t.freeze(), DeviceKey.generate()),
    "of nobody": lambda t, c: t.send(c, replace(t.freeze(), operator_omni=bytes(32)), t.user.master),
    "no JSON": lambda _, c: c.post("/v1/registry/changes", content=b"{", headers=JSON),
    "a rotation by another K11": lambda t, c: rotated_by(t, c, SoftwareK11()),
    "a rotation without K11": lambda t, c: rotated_by(t, c, None),
}


def rotated_by(town: Town, client: AppClient, k11: SoftwareK11 | None) -> httpx.Response:
    new = DeviceKey.generate()
    change = town.rotate(new)
    return town.send(client, change, new, *([] if k11 is None else [town.touch(change, k11)]))


@pytest.mark.parametrize("service", SERVICES)
def test_a_change_that_nobody_known_sent_is_refused(town: Town, service: str) -> None:
    town.flood()
    found = {what: reason(send(town, town.here[service])) for what, send in NOBODYS_CHANGES.items()}
    assert found == dict.fromkeys(NOBODYS_CHANGES, "rate_limited")
    assert town.applied == 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_revoked_device_is_a_stranger(town: Town, service: str) -> None:
    assert reason(town.visit.sign_in()) == "ok"
    town.flood()
    town.services.world.registry.bend_device(town.user.master.key_hash, revoked=True)
    assert reason(town.send(town.here[service], town.freeze(), town.user.master)) == "rate_limited"
    assert reason(town.ask(service, town.services.names())) == "rate_limited"
    assert reason(town.visit.sessions()) == "rate_limited"


@pytest.mark.parametrize("service", SERVICES)
def test_what_was_seen_does_not_outlive_a_revocation(town: Town, service: str) -> None:
    """The state that is remembered is an older one: who signed is held against the one that counts."""
    town.flood()
    town.services.followed.remembered = town.user.state()
    town.services.world.registry.bend_device(town.user.master.key_hash, revoked=True)
    assert reason(town.send(town.here[service], town.freeze(), town.user.master)) == "rate_limited"
    assert reason(town.ask(service, town.services.names())) == "rate_limited"


@pytest.mark.parametrize("service", SERVICES)
def test_strangers_are_refused_and_the_signer_is_not_asked_about_them(town: Town, service: str) -> None:
    town.flood()
    lookups = town.services.followed.lookups
    stranger = DeviceKey.generate()
    assert reason(town.ask(service, town.services.names(key=stranger))) == "rate_limited"
    assert reason(town.read(town.here[service], stranger.key_hash)) == "rate_limited"
    bad = replace(town.services.names().uncosigned, device_signature=bytes(64))
    assert reason(town.here["broker"].post("/v1/caps", content=bad.encode(), headers=JSON)) == "rate_limited"
    town.services.followed.unseen = True
    assert reason(town.ask(service, town.services.names())) == "rate_limited"
    assert reason(town.send(town.here[service], town.freeze(), town.user.master)) == "rate_limited"
    assert town.services.followed.lookups == lookups


def test_a_worker_does_not_know_who_has_no_cosignature(town: Town) -> None:
    town.flood()
    forged = town.services.names().json()
    forged["cap"]["cosign"] = "A" * 86
    assert reason(town.here["worker"].post("/v1/credentials/list", json=forged)) == "rate_limited"


SPOILT: dict[str, Callable[[Visit], httpx.Response]] = {
    "no token": lambda v: v.sessions(token="x.y.z"),
    "a proof for another request": lambda v: v.sessions(spoil={"path": "/v1/other"}),
    "a proof that is too old": lambda v: v.sessions(spoil={"issued_at": v.now - 300, "expires_at": v.now - 250}),
    "a challenge that is none": lambda v: v.ask("sign-in", "POST", "/v1/session", spoil={"nonce": "00"}, token=""),
    "no proof": lambda v: v.client.get("/v1/sessions"),
    "another device's proof": lambda v: Visit(v.client, v.clock, DeviceKey.generate(), v.token).sessions(),
}


def test_a_session_is_known_by_its_devices_proof_alone(town: Town) -> None:
    assert reason(town.visit.sign_in()) == "ok"
    town.flood()
    found = {what: reason(ask(town.visit)) for what, ask in SPOILT.items()}
    assert found == dict.fromkeys(SPOILT, "rate_limited")


def test_a_token_of_another_device_knows_nobody(town: Town) -> None:
    assert reason(town.visit.sign_in()) == "ok"
    other = Visit(town.visit.client, town.visit.clock, town.user.second, town.visit.token)
    town.flood()
    assert reason(other.sessions()) == "rate_limited"


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_whoever_sends_a_copy_takes_nothing_from_its_signer(town: Town, service: str) -> None:
    town.flood()
    client = town.here[service]
    once = ["ok"] + ["rate_limited"] * 99
    assert reasons(lambda: town.send(client, town.freeze(), town.user.master), 100) == once
    copied = town.services.names()
    assert reasons(lambda: town.ask(service, copied), 100) == once
    assert reason(town.ask(service, town.services.names())) == "ok"
    assert reason(town.send(client, town.revoke(), town.user.master)) == "ok"


def test_a_copied_proof_takes_nothing_from_its_device(town: Town) -> None:
    assert reason(town.visit.sign_in()) == "ok"
    town.flood()
    proof = town.visit.proof("request", "GET", "/v1/sessions", b"")
    assert reasons(lambda: town.visit.sessions(proof=proof), 100) == ["ok"] + ["rate_limited"] * 99
    assert reason(town.visit.sessions()) == "ok"


@pytest.mark.parametrize("service", SERVICES)
def test_a_device_has_so_much_and_no_other_pays_for_it(town: Town, service: str) -> None:
    town.flood()
    burst = int(OF_A_DEVICE.burst)
    found = reasons(lambda: town.ask(service, town.services.names(key=town.user.agent)), burst + 5)
    assert found[: burst - 1] == ["ok"] * (burst - 1)
    assert found[-1] == "rate_limited"
    assert reason(town.ask(service, town.services.names())) == "ok"


def test_only_short_bodies_are_looked_at(town: Town) -> None:
    town.flood()
    body = town.services.names().uncosigned.encode()
    client = town.here["broker"]
    spaced = body + b" " * (MAX_BODY - len(body))
    assert reason(client.post("/v1/caps", content=spaced, headers=JSON)) == "ok"
    long = town.services.names().uncosigned.encode() + b" " * MAX_BODY
    assert reason(client.post("/v1/caps", content=long, headers=JSON)) == "rate_limited"
    gzipped = {**JSON, "Content-Encoding": "gzip"}
    assert reason(client.post("/v1/caps", content=body, headers=gzipped)) == "rate_limited"


def test_nobody_is_looked_at_while_the_address_has_tokens(town: Town) -> None:
    """What passes costs nothing more than before: a copy that the second look would refuse is let through."""
    copied = town.services.names()
    assert reasons(lambda: town.ask("broker", copied), 3 * BURST) == ["ok"] * 3 * BURST
