"""Composes the profile that devices are given once (design, section 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import WorkerClass
from agentkeys_core.profile import Profile
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import read_limited
from signer.config import SignerConfig

MAX_CA: Final = 65_536  # bytes


def compose(
    config: SignerConfig,
    *,
    registry_id: str,
    ca: Path | None,
    broker: str | None,
    issuer: str | None,
    workers: Mapping[str, str],
) -> Profile:
    """The profile of this deployment; what is None stands in the configuration's [profile].

    Raises:
        ConfigError: something is missing, or is no origin, certificate or worker class.
    """
    defaults = config.profile
    issuer = issuer or defaults.issuer or (config.sts.issuer if config.sts else None)
    origins = {**defaults.workers, **workers}
    wanted = {
        "ca": ca or defaults.ca,
        "broker": broker or defaults.broker,
        "issuer": issuer,
        **{f"worker {kind.value}": origins.get(kind.value) for kind in WorkerClass},
    }
    missing = [name for name, value in wanted.items() if value is None]
    unknown = sorted(set(origins) - set(WorkerClass))
    if missing or unknown:
        raise ConfigError(f"the profile lacks {', '.join(missing)}" if missing else f"no worker class {unknown[0]}")
    try:
        profile = Profile(
            aud=registry_id,
            broker=str(wanted["broker"]),
            ca=read_limited(Path(str(wanted["ca"])), MAX_CA).decode("ascii"),
            issuer=str(issuer),
            trust_domain=config.trust_domain,
            workers=MappingProxyType({kind: origins[kind.value] for kind in WorkerClass}),
        )
        return Profile.parse(profile.encode())
    except (KeyServiceError, UnicodeDecodeError) as exc:
        detail = exc.detail if isinstance(exc, KeyServiceError) else "ca is not a PEM certificate"
        raise ConfigError(f"the profile is not usable: {detail}") from exc


def parse_workers(pairs: Sequence[str]) -> dict[str, str]:
    """`class=origin` pairs as a mapping. Raises ConfigError for another form or a class named twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        kind, equals, origin = pair.partition("=")
        if not equals or kind in found:
            raise ConfigError("a worker is given once each, as class=origin")
        found[kind] = origin
    return found
