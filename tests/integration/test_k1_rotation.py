"""K1 replaced under two running brokers on one PostgreSQL: what one of them gave is good at the other all along."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.process import Service, free_port, program, run
from device.credentials import get, put
from tests.adversarial.town import Town, town_in
from tests.fakes.clock import StillClock
from tests.fakes.postgres import Postgres
from tests.unit.broker.visitor import EMPTY, Visit, reason


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with Postgres(folder=tmp_path / "postgres") as server:
        settings = {"broker": f'[store]\npostgresql = "{server.database()}"\n'}
        with town_in(tmp_path / "stack", settings=settings) as made:
            yield made


class Broker:
    """One of the brokers, asked by a device that is signed in."""

    def __init__(self, town: Town, origin: str, client: httpx.Client, visit: Visit) -> None:
        self.client, self.visit = client, visit
        self._aud = {"aud": town.stack.origin("broker")}
        self._base = origin
        visit.client = self  # type: ignore[assignment]  # what it asks of a client, this has

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.client.get(self._base + path, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        return self.client.post(self._base + path, **given)

    def nonce(self) -> str:
        return self.visit.nonce()

    def sign_in(self, nonce: str) -> httpx.Response:
        self.visit.clock.at = time.time()
        return self.visit.begin("/v1/session", EMPTY, {**self._aud, "nonce": nonce})

    def sessions(self, token: str) -> httpx.Response:
        self.visit.clock.at = time.time()
        return self.visit.sessions(token=token, spoil=self._aud)


def test_what_one_broker_gave_is_good_at_the_other_while_k1_is_replaced(town: Town, tmp_path: Path) -> None:
    stack, state = town.stack, town.stack.root / "broker"
    master = town.master()
    counts = iter((0, 1000))  # of one device: no two proofs may have the same nonce
    put(master.device, "openrouter", b"value")

    def k1(step: str) -> None:
        run([*program("broker"), "key", step, "--state-dir", state])

    def broker(origin: str) -> Broker:
        return Broker(town, origin, town.web, Visit(None, StillClock(time.time()), master.key, count=next(counts)))  # type: ignore[arg-type]

    k1("prepare")
    for part in ("signer", "credentials"):
        config, pinned = stack.config(part), f'"{state}/k1.jwk.json"'
        config.write_text(config.read_text().replace(pinned, f'{pinned}, "{state}/k1.next.jwk.json"'))
    town.restart("signer", "credentials", "broker")
    one = broker(stack.origin("broker"))
    before = one.nonce()
    k1("promote")
    port = free_port()
    config = tmp_path / "second.toml"
    text = stack.config("broker").read_text()
    config.write_text(text.replace(f'listen = "127.0.0.1:{stack.ports["broker"]}"', f'listen = "127.0.0.1:{port}"'))
    second = Service(
        name="second", command=[*program("broker"), "serve", "--config", str(config)], log=tmp_path / "second.log"
    )
    second.start()
    try:
        two = broker(f"https://127.0.0.1:{port}")
        old = two.sign_in(before)  # the challenge is of the old key, the token of the new one
        assert old.status_code == 200, old.text
        assert reason(one.sign_in(before)) == "proof_invalid"  # used up at the other one
        assert not list(state.glob("broker.db*"))  # the setting says where all of it is
        new = one.sign_in(two.nonce())
        assert new.status_code == 200, new.text
        for asked in (one, two):
            for granted in (old, new):
                assert asked.sessions(granted.json()["token"]).status_code == 200
        assert get(master.device, "openrouter").value == b"value"  # the first broker still co-signs with the old key
        stack.stop("broker")
        stack.start("broker")
        town.settle()
        assert one.sessions(new.json()["token"]).status_code == 200
        k1("forget")
    finally:
        second.stop()
    town.restart("broker")
    assert one.sessions(old.json()["token"]).status_code == 200
    assert reason(one.sessions(new.json()["token"])) == "session_invalid"  # the key of the first broker is gone
