"""The broker's real sessions, pairing and ceremonies over a small deployment's registry, for devices that ask over TLS."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.profile import Profile
from agentkeys_core.registry import OperatorState
from agentkeys_runtime.registry_client import RegistryChange, RegistryStatus
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.endpoints import Call
from broker.adapters.store.ceremony_table import SqlCeremonies
from broker.adapters.store.counters import SqlCounters, SqlRedemptions
from broker.adapters.store.engine import database_url, open_engine
from broker.adapters.store.session_table import SqlSessions
from broker.adapters.store.use_table import SqlDeviceUses
from broker.ceremonies.pairing import PairingDesk
from broker.ceremonies.steps import Steps
from broker.change_feed import ChangeFeed
from broker.keys import K1Keys
from broker.last_use import LastUse
from broker.proofs import Proofs
from broker.sessions import SessionDesk
from broker.web.device_routes import device_endpoints
from broker.web.event_routes import UserEvents, event_endpoints
from broker.web.pairing_routes import pairing_endpoints
from broker.web.session_routes import session_endpoints
from signer.adapters.registry_embedded import EmbeddedRegistry
from tests.fakes.app_client import AppClient
from tests.unit.device.broker_ceremonies import Acts, Ceremonies
from tests.unit.device.https import Reply

#: What is asked here rather than of the deployment itself.
SERVED = (
    *("/v1/session", "/v1/pairings", "/v1/devices/uses", "/v1/events"),
    *("/v1/identity", "/v1/enrolments/email"),
)
#: Streams notice soon that nobody reads them.
BEAT_S = 0.2
BEGINNINGS = ("/v1/identity/email", "/v1/identity/oidc", "/v1/identity/passkey")
OK = 200


class _States:
    """The deployment's registry, as the broker reads it; `real` where the signer's own stands behind it."""

    def __init__(self, states: Mapping[bytes, OperatorState], registry_id: str) -> None:
        self._states = states
        self._registry_id = registry_id
        self.real: EmbeddedRegistry | None = None

    def lookup_device(self, device_key_hash: bytes, *, reread: bool = False) -> OperatorState | None:
        if self.real is not None:
            return self.real.lookup_device(device_key_hash)
        return next((state for state in self._states.values() if device_key_hash in state.devices), None)

    def operator(self, operator_omni: bytes, *, reread: bool = False) -> OperatorState | None:
        return self._states.get(operator_omni) if self.real is None else self.real.operator(operator_omni)

    def seen_device(self, device_key_hash: bytes) -> OperatorState | None:
        return self.lookup_device(device_key_hash)

    def seen_operator(self, operator_omni: bytes) -> OperatorState | None:
        return self.operator(operator_omni)

    def status(self) -> RegistryStatus:
        return RegistryStatus(self._registry_id, 1, 1)

    def apply(self, change: bytes) -> bytes:
        raise KeyServiceError(Reason.NOT_IMPLEMENTED)


def _parts(events: UserEvents) -> Iterator[str]:
    with closing(asyncio.new_event_loop()) as loop, closing(events):
        parts = aiter(events)
        while True:
            try:
                yield loop.run_until_complete(anext(parts))
            except StopAsyncIteration:
                return


class BrokerIdentity:
    """Real routes, a real store, and `ahead_s`, by which the broker's clock goes before the device's."""

    def __init__(self, folder: Path, *, origin: str, states: Mapping[bytes, OperatorState], registry_id: str) -> None:
        self.ahead_s = 0
        folder.mkdir()
        self._engine = open_engine(database_url(None, folder))
        self._keys = K1Keys.of(ec.generate_private_key(ec.SECP256R1()))
        redemptions = SqlRedemptions(self._engine)
        proofs = Proofs(origin=origin, challenge_keys=(bytes(32),), redemptions=redemptions, clock=self.clock)
        self.registry = _States(states, registry_id)
        self.sessions = SessionDesk(
            keys=self._keys,
            origin=origin,
            registry=self.registry,
            sessions=SqlSessions(self._engine),
            proofs=proofs,
            counters=SqlCounters(self._engine),
            clock=self.clock,
        )
        steps = Steps(proofs=proofs, ceremonies=SqlCeremonies(self._engine), clock=self.clock)
        pairing = PairingDesk(proofs=proofs, steps=steps, counters=SqlCounters(self._engine), clock=self.clock)
        self.ceremonies = Ceremonies(self._engine, proofs, steps, origin, registry_id)
        self.last_use = LastUse(SqlDeviceUses(self._engine), self.clock)
        endpoints = (
            *session_endpoints(self.sessions),
            *device_endpoints(self.sessions, self.last_use),
            *pairing_endpoints(pairing, self.sessions),
            *self.ceremonies.endpoints,
        )
        self._client = self.ceremonies.client = AppClient(create_app("broker", endpoints, clock=self.clock))
        self.feed, self.sequence = ChangeFeed(), 1
        (self._events,) = event_endpoints(
            feed=self.feed, sessions=self.sessions, head=lambda: self.sequence, beat_s=BEAT_S
        )
        #: Somebody who is quick: acts as soon as a ceremony has begun.
        self.person: Acts = lambda *_: None
        #: May change an answer on its way: (method, path, answer).
        self.lie: Callable[[str, str, dict[str, object]], None] = lambda *_: None

    def clock(self) -> float:
        return time.time() + self.ahead_s

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        if path == "/v1/events":
            return self._stream(path, headers)
        passed = {
            name: headers[name] for name in ("AgentKeys-Proof", "Authorization", "Content-Type") if name in headers
        }
        found = self._client.request(method, path, content=body, headers=passed)
        told = found.json()
        if path in BEGINNINGS and found.status_code == OK:
            self.person(path, told)
        self.lie(method, path, told)
        return found.status_code, json.loads(json.dumps(told))

    def sessions_left(self) -> list[str]:
        """How the devices of all sessions that have not ended were signed in."""
        query = "SELECT method FROM sessions WHERE revoked_at IS NULL"
        with self._engine.connect() as connection:
            return [str(method) for (method,) in connection.exec_driver_sql(query)]

    def changed(self, operator: bytes, kind: str) -> None:
        """A change of the registry, as the follower would tell it."""
        self.sequence += 1
        self.feed.publish(RegistryChange(self.sequence, operator, bytes(32), kind))

    def _stream(self, path: str, headers: Mapping[str, str]) -> Reply:
        """The real events, in a loop of their own; the refusal where there is one."""
        lower = {name.lower(): value for name, value in headers.items()}
        call = Call(method="GET", target=path, headers=lower)
        try:
            events = self._events.handler(call)
        except KeyServiceError as error:
            return 401, {"reason": str(error.reason), "server_time": int(self.clock()), "status": 401}
        assert isinstance(events, UserEvents)
        return 200, _parts(events)

    def close(self) -> None:
        """End its threads and close its store."""
        self._client.close()
        self._engine.dispose()


@contextmanager
def broker_identity(folder: Path, profile: Profile, states: Mapping[bytes, OperatorState]) -> Iterator[BrokerIdentity]:
    """The broker of a profile."""
    made = BrokerIdentity(folder, origin=profile.broker, states=states, registry_id=profile.aud)
    try:
        yield made
    finally:
        made.close()
