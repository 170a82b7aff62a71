"""worker.toml as values."""

from dataclasses import dataclass
from pathlib import Path

from agentkeys_core.ops import WorkerClass
from agentkeys_runtime.config import named
from agentkeys_runtime.web.settings import SignerSettings, TlsSettings, parse_listen


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsConfig:
    """Where objects lie: a local folder, made with mode 0700 where it is missing."""

    directory: Path


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
