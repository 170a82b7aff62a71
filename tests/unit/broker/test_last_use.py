"""When devices were last used: what counts as a use, who is told, and that no cap waits or fails for it."""

import dataclasses
import threading
from typing import Any

import pytest
from sqlalchemy import text

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import DeviceKey
from agentkeys_core.ops import Op
from agentkeys_core.signing_bodies import SiweBody
from broker.last_use import KEPT, LastUse
from broker.ports import DeviceUse
from tests.fakes.clock import StillClock
from tests.fakes.services_kit import Asked, Services
from tests.unit.broker.visitor import Visit, reason

PATH = "/v1/devices/uses"


class Kept:
    """Remembers what was written; may be away."""

    def __init__(self) -> None:
        self.writes: list[list[DeviceUse]] = []
        self.away = False

    def keep(self, uses: Any) -> None:
        if self.away:
            raise KeyServiceError(Reason.OVERLOADED)
        if uses:
            self.writes.append(list(uses))

    def of_operator(self, operator: bytes) -> dict[bytes, int]:
        return {use.device: use.used_at for write in self.writes for use in write if use.operator == operator}


def post(services: Services, asked: Asked, **bent: Any) -> Any:
    cap = dataclasses.replace(asked.uncosigned, **bent)
    return services.broker.post("/v1/caps", content=cap.encode(), headers={"Content-Type": "application/json"})


def visit(services: Services, key: DeviceKey) -> Visit:
    made = Visit(services.broker, services.world.clock, key)
    assert made.sign_in().status_code == 200
    return made


@pytest.fixture
def master(services: Services) -> Visit:
    return visit(services, services.world.user.master)


def told(master: Visit) -> dict[str, int]:
    answer = master.ask("request", "GET", PATH, b"")
    assert answer.status_code == 200, answer.text
    return {use["device"]: use["used_at"] for use in answer.json()["uses"]}


def minute(services: Services) -> int:
    return int(services.world.clock.now()) // 60 * 60


def test_a_co_signed_cap_is_a_use_to_the_minute(services: Services, master: Visit) -> None:
    own, agent = master.key.key_hash.hex(), services.world.user.agent.key_hash.hex()
    assert told(master) == {}
    assert post(services, services.names()).status_code == 200
    first = minute(services)
    assert told(master) == {own: first}
    services.last_use.write()
    services.world.clock.at += 300
    assert post(services, services.names(key=services.world.user.agent)).status_code == 200
    assert told(master) == {own: first, agent: minute(services)}
    services.last_use.write()
    assert told(master) == {own: first, agent: minute(services)}


def test_what_is_passed_on_to_be_signed_is_a_use(services: Services, master: Visit) -> None:
    body = SiweBody(message="not a sign-in message").encode()
    asked = services.ask(Op.SIWE_SIGN, "siwe:app.example.org", body)
    sent = {"body": b64u_encode(body), "cap": asked.uncosigned.to_json()}
    assert services.broker.post("/v1/sign/siwe", json=sent).status_code != 200  # by the signer, after it was co-signed
    assert list(told(master)) == [master.key.key_hash.hex()]


def test_whoever_names_a_device_without_its_key_is_no_use_of_it(services: Services, master: Visit) -> None:
    forged = {"device_signature": DeviceKey.generate().sign(bytes(32))}
    assert reason(post(services, services.names(), **forged)) == "device_signature_invalid"
    assert told(master) == {}


def test_what_was_refused_is_no_use(services: Services, master: Visit) -> None:
    agent = services.world.user.agent
    assert reason(post(services, services.fetch(key=agent, service="cred:other"))) == "service_not_in_scope"
    services.world.registry.bend_device(agent.key_hash, revoked=True)
    assert reason(post(services, services.names(key=agent))) == "device_revoked"
    assert told(master) == {}


def test_nobody_is_told_of_another_users_devices(services: Services, master: Visit) -> None:
    post(services, services.names())
    services.last_use.write()
    services.last_use.note(b"o" * 32, bytes(32))
    assert list(told(master)) == [master.key.key_hash.hex()]
    with services.engine.begin() as conn:
        conn.execute(text("UPDATE device_uses SET operator = :other"), {"other": bytes(32)})
    assert told(master) == {}


def test_an_agent_is_not_told(services: Services) -> None:
    found = visit(services, services.world.user.agent).ask("request", "GET", PATH, b"")
    assert reason(found) == "device_role_missing"


def test_without_a_session_nothing_is_told(master: Visit) -> None:
    assert reason(master.ask("request", "GET", PATH, b"", token="none")) == "session_invalid"


def test_a_store_that_is_away_holds_up_no_cap(services: Services) -> None:
    with services.engine.begin() as conn:
        conn.execute(text("DROP TABLE device_uses"))
    assert post(services, services.names()).status_code == 200
    services.last_use.write()  # says so in the log, and keeps it
    assert services.last_use._waiting


# The room alone.


def test_a_device_is_written_once_a_minute_at_most() -> None:
    kept, clock = Kept(), StillClock(600.0)
    uses = LastUse(kept, clock.now)
    for at in (600.0, 610.0, 659.9, 660.0, 661.0):
        clock.at = at
        uses.note(b"d", b"o")
        uses.write()
    assert kept.writes == [[DeviceUse(b"d", b"o", 600)], [DeviceUse(b"d", b"o", 660)]]


def test_what_could_not_be_written_waits_and_the_newest_wins() -> None:
    kept, clock = Kept(), StillClock(600.0)
    uses = LastUse(kept, clock.now)
    kept.away = True
    uses.note(b"d", b"o")
    uses.write()
    clock.at = 720.0
    uses.note(b"d", b"o")
    uses.write()
    kept.away = False
    assert uses.of_operator(b"o") == {b"d": 720}
    uses.write()
    uses.write()
    assert kept.writes == [[DeviceUse(b"d", b"o", 720)]]


def test_a_use_during_a_write_is_not_lost() -> None:
    clock = StillClock(600.0)

    class Slow(Kept):
        def keep(self, given: Any) -> None:
            super().keep(given)
            clock.at = 660.0
            uses.note(b"d", b"o")

    kept = Slow()
    uses = LastUse(kept, clock.now)
    uses.note(b"d", b"o")
    uses.write()
    assert uses.of_operator(b"o") == {b"d": 660}
    assert list(uses._waiting.values()) == [DeviceUse(b"d", b"o", 660)]


def test_memory_is_bounded_whatever_comes() -> None:
    kept, clock = Kept(), StillClock(600.0)
    uses = LastUse(kept, clock.now)
    kept.away = True
    for number in range(KEPT + 100):
        uses.note(number.to_bytes(32, "big"), bytes(32))
    clock.at = 660.0
    for number in range(KEPT + 100, 2 * KEPT):
        uses.note(number.to_bytes(32, "big"), bytes(32))
    assert len(uses._noted) <= KEPT
    assert len(uses._waiting) == KEPT


@pytest.mark.parametrize("every_s", [0.01, 3600.0])
def test_its_thread_writes_by_itself_and_at_the_end(every_s: float) -> None:
    written = threading.Event()

    class Told(Kept):
        def keep(self, given: Any) -> None:
            super().keep(given)
            if given:
                written.set()

    kept = Told()
    with LastUse(kept, StillClock(600.0).now, every_s=every_s) as uses:
        uses.note(b"d", b"o")
        assert every_s > 1 or written.wait(10)
    assert kept.writes == [[DeviceUse(b"d", b"o", 600)]]
