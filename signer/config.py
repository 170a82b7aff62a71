"""signer.toml as values. `agentkeys_runtime.config.load_config` fills them and refuses what it does not know."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from agentkeys_core.profile import check_origin
from signer.tokens import is_bucket_name

_LISTEN: Final = re.compile(r"(?P<host>[^:\s\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
_ENDPOINT: Final = re.compile(r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+)(:[0-9]{1,5})?/?")
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost"})
_MAX_PORT: Final = 65_535
_MAX_PROCESSES: Final = 256
_MAX_THREADS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Files of the signer's port. All but the key may be read by others; each is taken up anew when it changes."""

    certificate: Path
    key: Path
    client_ca: Path
    revocation_list: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsealConfig:
    """How the vault is opened. Without `passphrase_file` the passphrase is asked for, or comes on a descriptor."""

    method: Literal["passphrase", "key-file"] = "passphrase"
    passphrase_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.method == "key-file") != (self.key_file is not None):
            raise ValueError("key_file belongs to the method key-file")
        if self.method != "passphrase" and self.passphrase_file is not None:
            raise ValueError("passphrase_file belongs to the method passphrase")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """The embedded registry. `allow_software_k11` is for development: it lets software authenticators be enrolled."""

    allow_software_k11: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleArns:
    """The roles that a worker of each class may ask a session for."""

    credentials: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StsConfig:
    """Where web identity tokens are exchanged. `ca` holds the roots of `endpoint`, by default the system's."""

    endpoint: str
    audience: str
    issuer: str
    bucket: str
    ca: Path | None = None
    role_arns: RoleArns = field(default_factory=RoleArns)

    def __post_init__(self) -> None:
        match = _ENDPOINT.fullmatch(self.endpoint)
        if match is None or (match["scheme"] == "http" and match["host"] not in _LOOPBACK):
            raise ValueError("endpoint must be an https origin (http only on loopback)")
        if not is_bucket_name(self.bucket):
            raise ValueError("bucket is not a bucket name")
        if not self.audience:
            raise ValueError("audience is empty")
        origin_or_value_error(self.issuer, "issuer")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """An issuer of ID tokens that count as evidence for a first bind. `jwks` holds its keys; the host keeps it current.

    `identity` is `oidc` (named by issuer and subject), or `oauth2_google` (by subject alone) for Google only.
    """

    issuer: str
    client_id: str
    jwks: Path
    identity: Literal["oidc", "oauth2_google"] = "oidc"

    def __post_init__(self) -> None:
        if "|" in self.issuer or not self.issuer or not self.client_id:
            raise ValueError("an issuer has a name without a bar, and a client_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class PasskeyConfig:
    """The relying party of users' passkeys, the broker's domain, and the origins of its pages."""

    rp_id: str
    origins: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.rp_id or not self.origins:
            raise ValueError("passkeys need rp_id and origins")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceConfig:
    """Which first binds `AttestEnrol` takes, beside those of an own wallet: nothing that is not named here.

    `email` rests on the broker's word alone; such binds are marked `low`.
    """

    oidc: tuple[IssuerConfig, ...] = ()
    passkey: PasskeyConfig | None = None
    email: bool = False

    def __post_init__(self) -> None:
        if len({entry.issuer for entry in self.oidc}) != len(self.oidc):
            raise ValueError("an issuer is named twice")
        if sum(entry.identity == "oauth2_google" for entry in self.oidc) > 1:
            raise ValueError("oauth2_google names subjects of one issuer only")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOriginConfig:
    """How a rotation reads what the issuer's origin serves. `ca` holds its roots, by default the system's."""

    origin: str | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if self.origin is not None:
            origin_or_value_error(self.origin, "origin")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Rates in calls a second, bursts and calls in flight as counts; each process counts by itself."""

    certificate_per_s: float = 20_000.0
    certificate_burst: float = 40_000.0
    device_per_s: float = 50.0
    device_burst: float = 500.0
    max_in_flight: int = 256

    def __post_init__(self) -> None:
        rates = (self.certificate_per_s, self.certificate_burst, self.device_per_s, self.device_burst)
        if min(*rates, self.max_in_flight) <= 0:
            raise ValueError("limits must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileConfig:
    """What `agentkeys-signer profile` writes where its options do not say otherwise."""

    ca: Path | None = None
    broker: str | None = None
    issuer: str | None = None
    workers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerConfig:
    """The whole file. `listen` is host:port; port 0 takes a free one. Times in seconds, sizes as counts.

    Without a `signing_policy` no wallet signs anything.
    """

    trust_domain: str
    listen: str
    state_dir: Path
    vault: Path
    tls: TlsConfig
    cosign_keys: tuple[Path, ...] = ()
    unseal: UnsealConfig = field(default_factory=UnsealConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    issuer: KeyOriginConfig = field(default_factory=KeyOriginConfig)
    sts: StsConfig | None = None
    signing_policy: Path | None = None
    reflection: bool = True
    processes: int = 1
    threads: int = 16

    def __post_init__(self) -> None:
        match = _LISTEN.fullmatch(self.listen)
        if match is None or int(match["port"]) > _MAX_PORT:
            raise ValueError("listen must be host:port")
        if not 1 <= self.processes <= _MAX_PROCESSES or not 1 <= self.threads <= _MAX_THREADS:
            raise ValueError("processes and threads must be 1 to 256")

    @property
    def host(self) -> str:
        """Host part of `listen`, an IPv6 address in brackets."""
        return self.listen.rpartition(":")[0]

    @property
    def port(self) -> int:
        """Port part of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @property
    def issuer_origin(self) -> str | None:
        """Where the host publishes the public keys, as the first of the tables that names it says."""
        return self.issuer.origin or (self.sts.issuer if self.sts else None) or self.profile.issuer

    @property
    def database(self) -> Path:
        """The signer's state file."""
        return self.state_dir / "state.db"

    @property
    def host_socket(self) -> Path:
        """The Unix socket of host actions."""
        return self.state_dir / "host.sock"

    @property
    def lock_file(self) -> Path:
        """Held by the one signer that serves from this folder."""
        return self.state_dir / "lock"


def origin_or_value_error(text: str, name: str) -> str:
    """`text` if it is a bare https origin; ValueError, as `load_config` wants it, otherwise."""
    try:
        return check_origin(text, name)
    except Exception as exc:
        raise ValueError(f"{name} is not an https origin") from exc
