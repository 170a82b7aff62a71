"""Nothing that strangers may ask tells by the time it takes whom we know: the same work is done whatever the answer is.

No clock is read here. Counted is what takes time: statements at the database and reads of the registry. That no answer waits for
the mail server: test_outbox.py.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from sqlalchemy import Engine, event

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.keys import DeviceKey
from broker.ceremonies.steps import LIFETIME_S
from tests.fakes.mail_server import MailServer
from tests.fakes.services_kit import Services
from tests.unit.broker.identity_world import IdentityWorld
from tests.unit.broker.test_email import ADDRESS, FORM, begin, path_of, status
from tests.unit.broker.visitor import Visit, reason, typed


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What is asked of the database meanwhile, without what it is asked about."""
    found: list[str] = []

    def note(conn: object, cursor: object, statement: str, *rest: object) -> None:
        if not statement.startswith("DELETE"):  # old rows go now and then, whoever asks
            found.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def work(engine: Engine, ask: Callable[[], httpx.Response]) -> tuple[str, list[str]]:
    """The reason that was heard, and what was asked of the database for it."""
    with statements(engine) as found:
        answer = ask()
    said = answer.json().get("reason", "ok") if "json" in answer.headers["content-type"] else str(answer.status_code)
    return said, found


def test_an_address_that_was_confirmed_before_is_any_address(world: IdentityWorld, server: MailServer) -> None:
    confirmed = typed(begin(world.visit()))
    assert world.client.post(path_of(server.mailbox.link()), content=confirmed, headers=FORM).status_code == 200
    visits = [world.visit(), world.visit()]
    known, unknown = (
        work(world.engine, lambda visit=visit, address=address: begin(visit, address))  # type: ignore[misc]
        for visit, address in zip(visits, (ADDRESS, "nobody@people.test"), strict=True)
    )
    assert known == unknown
    assert known[0] == "ok"
    assert known[1]


def test_another_devices_ceremony_is_none(world: IdentityWorld) -> None:
    theirs = begin(world.visit()).json()["id"]
    visit = world.visit()
    known, unknown = (work(world.engine, lambda name=name: status(visit, name)) for name in (theirs, "00" * 16))  # type: ignore[misc]
    assert known == unknown
    assert known[0] == "not_found"


def test_a_link_that_is_over_was_used_or_never_was(world: IdentityWorld, server: MailServer) -> None:
    form = typed(begin(world.visit()))
    used = path_of(server.mailbox.link())
    assert world.client.post(used, content=form, headers=FORM).status_code == 200
    begin(world.visit())
    over = path_of(server.mailbox.link(2))
    world.clock.forward(LIFETIME_S)
    never = "/identity/email/" + b64u_encode(bytes(32))
    for ask in (world.client.get, lambda path: world.client.post(path, content=form, headers=FORM)):
        found = [work(world.engine, lambda ask=ask, path=path: ask(path)) for path in (used, over, never)]  # type: ignore[misc]
        assert found == [found[0]] * 3
        assert found[0][0] == "409"


def test_a_code_that_was_used_is_over_or_never_was(services: Services) -> None:
    clock, master = services.world.clock, services.world.user.master
    machine = Visit(services.broker, clock, DeviceKey.generate())
    body = json.dumps({"label": None, "profile_hash": b64u_encode(bytes(32)), "services": []}).encode()
    over = machine.begin("/v1/pairings", body).json()["code"]
    clock.forward(LIFETIME_S - 1)
    used = machine.begin("/v1/pairings", body).json()["code"]
    visit = Visit(services.broker, clock, master)
    assert visit.sign_in().status_code == 200

    def claim(code: str) -> httpx.Response:
        return visit.ask("request", "POST", "/v1/pairings/claim", json.dumps({"code": code}).encode())

    assert claim(used).status_code == 200
    clock.forward(1)
    found = [work(services.engine, lambda code=code: claim(code)) for code in (used, over, "0000-0000")]  # type: ignore[misc]
    assert found == [found[0]] * 3
    assert found[0][0] == "ceremony_ended"


def test_unknown_and_known_devices_are_refused_before_anything_is_looked_up(services: Services) -> None:
    """Without its key nobody learns whether a device is registered, be it by the answer or by what is done for it."""
    visit = Visit(services.broker, services.world.clock, services.world.user.master)
    for named in (services.world.user.agent.key_hash, DeviceKey.generate().key_hash):
        looked = services.followed.lookups
        refused = work(services.engine, lambda named=named: visit.sign_in(device=named))  # type: ignore[misc]
        assert refused == ("device_signature_invalid", [])
        assert services.followed.lookups == looked
    with_key = Visit(services.broker, services.world.clock, DeviceKey.generate())
    assert reason(with_key.sign_in()) == "device_unknown"
    assert services.followed.lookups == looked + 1
