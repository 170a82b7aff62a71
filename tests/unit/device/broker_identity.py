"""The broker's real sessions, pairing and ceremonies over a small deployment's registry, for devices that ask over TLS."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.profile import Profile
from agentkeys_core.registry import OperatorState
from agentkeys_runtime.registry_client import RegistryStatus
from agentkeys_runtime.web.app import create_app
from broker.adapters.store.ceremony_table import SqlCeremonies
from broker.adapters.store.counters import SqlCounters, SqlRedemptions
from broker.adapters.store.engine import database_url, open_engine
from broker.adapters.store.session_table import SqlSessions
from broker.ceremonies.pairing import PairingDesk
from broker.ceremonies.steps import Steps
from broker.keys import K1Keys
from broker.proofs import Proofs
from broker.sessions import SessionDesk
from broker.web.pairing_routes import pairing_endpoints
from broker.web.session_routes import session_endpoints
from tests.fakes.app_client import AppClient
from tests.unit.device.broker_ceremonies import Acts, Ceremonies
from tests.unit.device.https import Reply

BEGINNINGS = ("/v1/identity/email", "/v1/identity/oidc", "/v1/identity/passkey")
OK = 200


class _States:
    """The deployment's registry, as the broker reads it."""

    def __init__(self, states: Mapping[bytes, OperatorState], registry_id: str) -> None:
        self._states = states
        self._registry_id = registry_id

    def lookup_device(self, device_key_hash: bytes, *, reread: bool = False) -> OperatorState | None:
        return next((state for state in self._states.values() if device_key_hash in state.devices), None)

    def operator(self, operator_omni: bytes, *, reread: bool = False) -> OperatorState | None:
        return self._states.get(operator_omni)

    def status(self) -> RegistryStatus:
        return RegistryStatus(self._registry_id, 1, 1)

    def apply(self, change: bytes) -> bytes:
        raise KeyServiceError(Reason.NOT_IMPLEMENTED)


class BrokerIdentity:
    """Real routes, a real store, and `ahead_s`, by which the broker's clock goes before the device's."""

    def __init__(self, folder: Path, *, origin: str, states: Mapping[bytes, OperatorState], registry_id: str) -> None:
        self.ahead_s = 0
        folder.mkdir()
        self._engine = open_engine(database_url(None, folder))
        self._keys = K1Keys.of(ec.generate_private_key(ec.SECP256R1()))
        redemptions = SqlRedemptions(self._engine)
        proofs = Proofs(origin=origin, challenge_key=bytes(32), redemptions=redemptions, clock=self.clock)
        self.sessions = SessionDesk(
            keys=self._keys,
            origin=origin,
            registry=_States(states, registry_id),
            sessions=SqlSessions(self._engine),
            proofs=proofs,
            clock=self.clock,
        )
        steps = Steps(proofs=proofs, ceremonies=SqlCeremonies(self._engine), clock=self.clock)
        pairing = PairingDesk(proofs=proofs, steps=steps, counters=SqlCounters(self._engine), clock=self.clock)
        self.ceremonies = Ceremonies(self._engine, proofs, steps, origin, registry_id)
        endpoints = (
            *session_endpoints(self.sessions),
            *pairing_endpoints(pairing, self.sessions),
            *self.ceremonies.endpoints,
        )
        self._client = self.ceremonies.client = AppClient(create_app("broker", endpoints, clock=self.clock))
        #: Somebody who is quick: acts as soon as a ceremony has begun.
        self.person: Acts = lambda *_: None
        #: May change an answer on its way: (method, path, answer).
        self.lie: Callable[[str, str, dict[str, object]], None] = lambda *_: None

    def clock(self) -> float:
        return time.time() + self.ahead_s

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        passed = {
            name: headers[name] for name in ("AgentKeys-Proof", "Authorization", "Content-Type") if name in headers
        }
        found = self._client.request(method, path, content=body, headers=passed)
        told = found.json()
        if path in BEGINNINGS and found.status_code == OK:
            self.person(path, told)
        self.lie(method, path, told)
        return found.status_code, json.loads(json.dumps(told))

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
