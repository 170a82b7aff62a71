"""What the host configured, as the values that the service decides by."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import IdentityType
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import WorkerClass
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import read_limited
from signer.admission import ServicePolicy, StsPolicy
from signer.config import EvidenceConfig, SignerConfig, StsConfig
from signer.evidence_check import EvidencePolicy, PasskeyPolicy, PinnedIssuer, VerifyToken
from signer.signing_policy import SigningPolicy

MAX_JWK: Final = 4096  # bytes


def service_policy(config: SignerConfig, *, registry_id: str) -> ServicePolicy:
    """The policy of one deployment, with the broker keys read from their files.

    Raises:
        ConfigError: no broker key, a file that is no public P-256 JWK, a signing policy that is none.
    """
    keys = [_read_jwk(path) for path in config.cosign_keys]
    if not keys:
        raise ConfigError("cosign_keys names no file: without a broker's key every request would be refused")
    return ServicePolicy(
        aud=registry_id,
        cosign_keys=MappingProxyType({key.kid: key for key in keys}),
        sts=None if config.sts is None else _sts_policy(config.sts),
        signing=SigningPolicy.load(config.signing_policy),
    )


def _sts_policy(config: StsConfig) -> StsPolicy:
    roles = {
        WorkerClass.CREDENTIALS: frozenset(config.role_arns.credentials),
        WorkerClass.MEMORY: frozenset(config.role_arns.memory),
    }
    return StsPolicy(
        issuer=config.issuer, audience=config.audience, bucket=config.bucket, role_arns=MappingProxyType(roles)
    )


def evidence_policy(config: EvidenceConfig, keys_of: Callable[[Path], VerifyToken]) -> EvidencePolicy:
    """Which evidence counts for a first bind; `keys_of` opens the keys of one issuer's file."""
    issuers = {
        entry.issuer: PinnedIssuer(
            issuer=entry.issuer,
            client_id=entry.client_id,
            kind=IdentityType(entry.identity),
            verify=keys_of(entry.jwks),
        )
        for entry in config.oidc
    }
    passkey = config.passkey
    return EvidencePolicy(
        issuers=MappingProxyType(issuers),
        passkey=None if passkey is None else PasskeyPolicy(rp_id=passkey.rp_id, origins=frozenset(passkey.origins)),
        email=config.email,
    )


def _read_jwk(path: Path) -> ES256PublicKey:
    try:
        data = read_limited(path, MAX_JWK)
        return ES256PublicKey.from_jwk(strict_json(data, limit=MAX_JWK, reason=Reason.INVALID_ENCODING))
    except KeyServiceError as exc:
        raise ConfigError(f"{path}: {exc.detail}") from exc
