"""A target as the suite reaches it: channels with each client certificate, the broker's key, and what GetStatus says."""

import json
import time
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Self

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agentkeys.signer.v1 import registry_pb2, registry_pb2_grpc, signer_pb2_grpc
from agentkeys_core.audit import AuditEnvelope, AuditRow
from agentkeys_core.eip712 import Domain
from agentkeys_core.keys import ES256PublicKey, parse_jwks
from tests.conformance.manifest import Manifest

#: No call of the suite takes longer, in seconds; a target that hangs fails the case.
PATIENCE_S: Final = 20.0
#: Callers: the broker, one worker of each class.
BROKER, CREDENTIALS, MEMORY, AUDIT = "broker", "credentials", "memory", "audit"


class Site:
    """One target for one run. Cases that need a user make a fresh one, so that runs do not meet."""

    def __init__(self, target: str, manifest: Manifest) -> None:
        self.target = target
        self.manifest = manifest
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            channel.close()

    def channel(self, client: str) -> grpc.Channel:
        """The channel of the client whose folder is named so, opened at first use."""
        if client not in self._channels:
            folder = self.manifest.folder / client
            credentials = grpc.ssl_channel_credentials(
                self.authority, (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
            )
            self._channels[client] = grpc.secure_channel(self.target, credentials, self.options)
        return self._channels[client]

    @property
    def authority(self) -> bytes:
        """The roots under which the target's certificate stands."""
        return (self.manifest.folder / "ca.pem").read_bytes()

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """Channel options: the server's pinned name, no proxy."""
        pinned = ("grpc.ssl_target_name_override", self.manifest.server_name)
        return (pinned, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))

    def signer(self, client: str = CREDENTIALS) -> "Calls":
        """The Signer service as that client calls it."""
        return Calls(signer_pb2_grpc.SignerStub(self.channel(client)))

    def registry(self, client: str = BROKER) -> "Calls":
        """The Registry service as that client calls it."""
        return Calls(registry_pb2_grpc.RegistryStub(self.channel(client)))

    @cached_property
    def status(self) -> registry_pb2.GetStatusResponse:
        """What the registry said of itself when it was first asked."""
        found: registry_pb2.GetStatusResponse = self.registry().GetStatus(registry_pb2.GetStatusRequest())
        return found

    @property
    def registry_id(self) -> str:
        """The `aud` of caps for this target."""
        return self.status.registry_id

    @property
    def epoch(self) -> int:
        """The current K3 epoch."""
        return self.status.k3_epoch

    @cached_property
    def domain(self) -> Domain:
        """The EIP-712 domain of registry changes."""
        return Domain.of(self.registry_id)

    @cached_property
    def _ahead_s(self) -> int:
        return int(self.status.server_time - time.time())

    @property
    def now(self) -> int:
        """The target's own time, in Unix seconds."""
        return int(time.time()) + (self._ahead_s if abs(self._ahead_s) > 1 else 0)

    @cached_property
    def k1(self) -> ec.EllipticCurvePrivateKey:
        """The broker's key, for co-signing."""
        key = load_pem_private_key((self.manifest.folder / self.manifest.k1).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("k1 is no EC key")
        return key

    @cached_property
    def kid(self) -> str:
        """The name of the broker's key."""
        return ES256PublicKey.of(self.k1.public_key()).kid

    @cached_property
    def audit_keys(self) -> dict[str, ES256PublicKey]:
        """The published audit keys, by kid."""
        return parse_jwks((self.manifest.folder / self.manifest.audit_jwks).read_bytes())

    def row(self, data: bytes) -> tuple[AuditRow, AuditEnvelope]:
        """A signed row and its content, once signature, hash and canonical form are proven."""
        row = AuditRow.parse(data)
        if row.encode() != data or json.loads(data)["epoch"] not in self.manifest.held_epochs:
            raise ValueError("the row is not canonical, or of an epoch that is not held")
        return row, row.verify(self.audit_keys)


class Calls:
    """A generated stub whose calls all end in time."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        return lambda request, timeout=PATIENCE_S: method(request, timeout=timeout)
