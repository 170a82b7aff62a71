"""broker.toml as values."""

from dataclasses import dataclass, field
from pathlib import Path

from agentkeys_runtime.web.settings import SignerSettings, TlsSettings, parse_listen
from broker.quota import QuotaLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """The whole file. `listen` is host:port (0 takes a free port); `registry_id` is the only `aud` co-signed here."""

    trust_domain: str
    listen: str
    registry_id: str
    state_dir: Path
    tls: TlsSettings
    signer: SignerSettings
    quota: QuotaLimits = field(default_factory=QuotaLimits)

    def __post_init__(self) -> None:
        parse_listen(self.listen)
        if not self.registry_id or not self.registry_id.isascii():
            raise ValueError("registry_id must be ASCII text")

    @property
    def database(self) -> Path:
        """The broker's counters."""
        return self.state_dir / "broker.db"
