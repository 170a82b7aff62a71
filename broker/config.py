"""broker.toml as values."""

from dataclasses import dataclass, field
from pathlib import Path

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.profile import check_origin
from agentkeys_runtime.web.addresses import AddressLimits
from agentkeys_runtime.web.settings import SignerSettings, TlsSettings, parse_listen
from broker.identity_settings import MailSettings, ProviderSettings
from broker.quota import QuotaLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where the state lives: by default in `broker.db` in `state_dir`, a SQLite file.

    `postgresql` is an address as libpq writes it; a password belongs into a PGPASSFILE rather than in here.
    """

    postgresql: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.postgresql is not None and not self.postgresql.startswith("postgresql://"):
            raise ValueError("postgresql is not an address that begins with postgresql://")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """The whole file.

    `listen` is host:port (0 takes a free port), `origin` the https:// address at which devices reach it, as in their
    profile; `registry_id` is the only `aud` co-signed here. Without `mail` no address is confirmed, without `providers`
    nobody signs in at one. `profile` is the file that devices are given, to be served at /v1/profile as well.
    """

    trust_domain: str
    listen: str
    origin: str
    registry_id: str
    state_dir: Path
    tls: TlsSettings
    signer: SignerSettings
    quota: QuotaLimits = field(default_factory=QuotaLimits)
    addresses: AddressLimits = field(default_factory=AddressLimits)
    store: StoreSettings = field(default_factory=StoreSettings)
    mail: MailSettings | None = None
    providers: tuple[ProviderSettings, ...] = ()
    profile: Path | None = None

    def __post_init__(self) -> None:
        parse_listen(self.listen)
        try:
            check_origin(self.origin, "origin")
        except KeyServiceError as error:
            raise ValueError(error.detail) from error
        if not self.registry_id or not self.registry_id.isascii():
            raise ValueError("registry_id must be ASCII text")
        if len({provider.issuer for provider in self.providers}) != len(self.providers):
            raise ValueError("providers names an issuer twice")
