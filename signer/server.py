"""Wires the adapters into one serving process. The only module that knows them all.

Imported after a fork, never before: grpc does not survive one.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, cast

from agentkeys_runtime import tls13  # noqa: F401 - before grpc is imported anywhere

# isort: split
import grpc

from agentkeys_core.eip712 import Domain
from agentkeys_core.errors import KeyServiceError
from agentkeys_runtime.mtls import server_credentials
from agentkeys_runtime.revocation import RevocationList
from signer.adapters.committer import Committer
from signer.adapters.database import free_bytes_of, open_state
from signer.adapters.journal_watch import JournalWatch
from signer.adapters.registry_embedded import EmbeddedRegistry
from signer.attesting import Attesting
from signer.config import SignerConfig
from signer.epoch_board import EpochKeeper
from signer.evidence_check import VerifyToken, verifier
from signer.gate import Gate
from signer.keyring import Keyring
from signer.limits import Limits, Rate
from signer.policy import evidence_policy, service_policy
from signer.ports import Clock, StsExchange
from signer.refusals import Refusals
from signer.rpc.callers import Callers
from signer.rpc.guard import Guard, GuardLimits
from signer.rpc.open_calls import OpenCalls
from signer.rpc.pools import CountingPool, ElasticPool
from signer.rpc.registry_servicer import RegistryServicer
from signer.rpc.servicer import SignerServicer
from signer.rpc.services import Health, handlers
from signer.service import SignerService

STOP_GRACE_S: Final = 5.0
_WATCH_S: Final = 0.1
#: Calls beyond this are refused by gRPC itself, without a reason; the guard's own bound is far lower.
_HARD_BOUND: Final = 8_192
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 3 * 1024 * 1024),  # above the guard's bounds, whose reason callers shall see
    ("grpc.max_send_message_length", -1),  # a page of audit rows is as long as it is
    ("grpc.max_connection_age_ms", 3_600_000),  # bounds how long a replaced root or certificate lives on
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_allowed_incoming_connections", 4_096),  # with those that are still in their handshake
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),  # a peer that is gone holds nothing, be it idle or not
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 256),  # of one connection
    # gRPC would drop calls at random from 1,000 on, those of every caller; whom to refuse is the guard's to say.
    ("grpc.server.max_pending_requests", _HARD_BOUND),
    ("grpc.server.max_pending_requests_hard_limit", 2 * _HARD_BOUND),
    ("grpc.max_metadata_size", 8_192),
    ("grpc.absolute_max_metadata_size", 16_384),
)


class BindError(OSError):
    """The port cannot be served on."""


class SignerServer:
    """One serving process, from the state file to the port. `start` once, then `stop`; `stop` also without a start."""

    def __init__(
        self,
        config: SignerConfig,
        *,
        keyring: Keyring,
        gate: Gate,
        epochs: EpochKeeper,
        clock: Clock,
        allow_software_k11: bool,
        shared_port: bool = False,
    ) -> None:
        """Open everything but the port, which several processes of one signer may share.

        Raises:
            Exception: what `open_state`, the files of the configuration and the registry raise.
        """
        self._config = config
        self._keyring = keyring
        self._gate = gate
        self._epochs = epochs
        self._clock = clock
        self._software_k11 = allow_software_k11
        self._health = Health()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gate", daemon=True)
        self._settler = threading.Thread(target=self._settle, name="settler", daemon=True)
        with ExitStack() as opening:
            self.database = open_state(config.database, keyring)
            opening.callback(self.database.close)
            self.committer = opening.enter_context(Committer(self.database, keyring, clock))
            registry = self._registry = EmbeddedRegistry(
                self.database, self.committer, keyring, clock, allow_software_k11, seal_all=gate.seal
            )
            opening.callback(registry.close)
            self._journal = opening.enter_context(JournalWatch(self.database, keyring, roll_back=registry.roll_back))
            refusals = self._refusals()
            opening.callback(refusals.close)
            self._server = self._grpc_server(registry, refusals, shared_port=shared_port)
            self._open = opening.pop_all()

    def start(self, address: str) -> int:
        """Serve at `address` (host:port) and return the port.

        Raises:
            BindError: the address is taken or none of this machine's.
            ConfigError: unusable certificate files.
        """
        tls = self._config.tls
        try:
            port = self._server.add_secure_port(address, server_credentials(tls.certificate, tls.key, tls.client_ca))
        except RuntimeError as exc:
            raise BindError(f"cannot listen on {address}") from exc
        self._server.start()
        self._health.set(serving=True)
        self._watcher.start()
        self._settler.start()
        return port

    def stop(self) -> None:
        """Let running calls end for up to 5 s, write what is counted, close the state file, wipe the keys."""
        self._health.set(serving=False)
        self._stopping.set()
        self._server.stop(STOP_GRACE_S).wait()
        self._open_calls.close()
        for thread in (self._settler, self._watcher):
            if thread.is_alive():
                thread.join()
        self._open.close()
        self._keyring.seal()

    def _refusals(self) -> Refusals:
        free_bytes = free_bytes_of(self._config.state_dir)
        refusals = Refusals(self.committer, self._clock, free_bytes=free_bytes, monotonic=time.monotonic)
        refusals.start()
        return refusals

    def _grpc_server(self, registry: EmbeddedRegistry, refusals: Refusals, *, shared_port: bool) -> grpc.Server:
        config = self._config
        callers = Callers(
            trust_domain=config.trust_domain,
            revocations=RevocationList.load(config.tls.revocation_list),
            clock=self._clock,
        )
        limits = GuardLimits(max_in_flight=config.limits.max_in_flight)
        calls = ElasticPool(config.threads, name="rpc")
        streams = CountingPool(limits.max_streams + 1, name="stream")  # one more, to refuse on
        open_calls = OpenCalls(calls)
        open_calls.start()
        self._open_calls = open_calls
        buckets = self._limits()
        guard = Guard(
            callers=callers,
            gate=self._gate,
            refusals=refusals,
            calls=calls,
            slow=CountingPool(config.threads, name="slow"),
            streams=streams,
            open_calls=open_calls,
            charge=buckets.charge_certificate,
            limits=limits,
        )
        services = handlers(
            guard,
            SignerServicer(self._service(registry, refusals, buckets)),
            RegistryServicer(registry, self._journal, self._clock, refusals),
            self._health,
            reflection=config.reflection,
        )
        return grpc.server(
            cast("ThreadPoolExecutor", calls),  # gRPC only submits to it
            handlers=services,
            options=(*_OPTIONS, ("grpc.so_reuseport", int(shared_port))),
            maximum_concurrent_rpcs=_HARD_BOUND,
            compression=grpc.Compression.NoCompression,
        )

    def _limits(self) -> Limits:
        bounds = self._config.limits
        return Limits(
            certificate=Rate(per_s=bounds.certificate_per_s, burst=bounds.certificate_burst),
            device=Rate(per_s=bounds.device_per_s, burst=bounds.device_burst),
            monotonic=time.monotonic,
        )

    def _service(self, registry: EmbeddedRegistry, refusals: Refusals, limits: Limits) -> SignerService:
        return SignerService(
            keyring=self._keyring,
            journalist=self.committer,
            snapshot=self.database.snapshot,
            glance=self.database.glance,
            registry=registry,
            clock=self._clock,
            policy=service_policy(self._config, registry_id=registry.status().registry_id),
            limits=limits,
            refusals=refusals,
            sts=self._sts(),
            gate=self._gate,
            attesting=self._attesting(registry),
        )

    def _attesting(self, registry: EmbeddedRegistry) -> Attesting:
        policy = evidence_policy(self._config.evidence, _issuer_keys)
        return Attesting(
            keyring=self._keyring,
            registry=registry,
            clock=self._clock,
            verify=verifier(policy),
            domain=Domain.embedded(registry.status().registry_id),
            allow_software_k11=self._software_k11,
        )

    def _sts(self) -> StsExchange | None:
        config = self._config.sts
        if config is None:
            return None
        from signer.adapters.sts import StsClient  # noqa: PLC0415  # an HTTP client is memory that few signers need

        return StsClient(endpoint=config.endpoint, ca=config.ca, clock=self._clock)

    def _watch(self) -> None:
        """Carry a seal from this process to the others and back, take up new epochs, note how far the journal is."""
        while not self._stopping.wait(_WATCH_S):
            if self._gate.sealed or self._keyring.sealed:
                self._gate.seal()
                self._keyring.seal()
                self._health.set(serving=False)
                return
            self._epochs.look()
            with suppress(KeyServiceError):  # a rollback seals by itself; what cannot be read is looked at again
                self._journal.look()

    def _settle(self) -> None:
        """Carry out key rotations that are due; apart from `_watch`, since a seal must not wait for the disk."""
        while not self._stopping.wait(_WATCH_S):
            self._registry.settle()


def _issuer_keys(path: Path) -> VerifyToken:
    from signer.adapters.issuer_keys import JwksFile  # noqa: PLC0415  # a token library is memory that few signers need

    return JwksFile(path).verify
