"""worker.toml as values."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentkeys_core.ops import WorkerClass
from agentkeys_runtime.config import named
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.settings import SignerSettings, TlsSettings, parse_listen

_ENDPOINT: Final = re.compile(r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+)(:[0-9]{1,5})?/?")
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost"})
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION: Final = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """A bucket, opened by a cloud session of `role_arn` a request. `ca` is trusted beside the system's roots."""

    endpoint: str
    bucket: str
    role_arn: str
    region: str = "us-east-1"
    ca: Path | None = None

    def __post_init__(self) -> None:
        match = _ENDPOINT.fullmatch(self.endpoint)
        if match is None or (match["scheme"] == "http" and match["host"] not in _LOOPBACK):
            raise ValueError("endpoint must be an https origin (http only on loopback)")
        if not _BUCKET.fullmatch(self.bucket):
            raise ValueError("bucket is not a bucket name")
        if not _REGION.fullmatch(self.region):
            raise ValueError("region is not a region's name")
        if not self.role_arn or not self.role_arn.isascii():
            raise ValueError("role_arn must be ASCII text")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsConfig:
    """Where objects lie: a local folder, made with mode 0700 where it is missing, or a bucket. One of the two."""

    directory: Path | None = None
    s3: S3Config | None = None

    def __post_init__(self) -> None:
        if (self.directory is None) == (self.s3 is None):
            raise ValueError("name either a directory or a table s3")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsConfig:
    """Where the audit worker keeps the tree of all rows, and how often it has a checkpoint signed, in seconds."""

    directory: Path
    every_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise ValueError("every_s must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """The whole file. `cosign_keys` are the brokers' public JWK files; `registry_id` is the only `aud` served here."""

    worker_class: WorkerClass = named("class")  # noqa: RUF009 - it returns a field
    trust_domain: str
    listen: str
    registry_id: str
    cosign_keys: tuple[Path, ...]
    tls: TlsSettings
    signer: SignerSettings
    objects: ObjectsConfig | None = None
    checkpoints: CheckpointsConfig | None = None
    addresses: AddressLimits = field(default_factory=AddressLimits)

    def __post_init__(self) -> None:
        parse_listen(self.listen)
        if not self.registry_id or not self.registry_id.isascii():
            raise ValueError("registry_id must be ASCII text")
        if not self.cosign_keys:
            raise ValueError("cosign_keys names no broker key: every cap would be refused")
        if (self.worker_class is not WorkerClass.AUDIT) != (self.objects is not None):
            raise ValueError("[objects] belongs to the workers that keep objects, and they need it")
        if self.checkpoints is not None and self.worker_class is not WorkerClass.AUDIT:
            raise ValueError("[checkpoints] belongs to the audit worker")
