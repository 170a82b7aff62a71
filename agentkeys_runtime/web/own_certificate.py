"""A service looks at its own certificate before it serves: a wrong one would be refused by everybody later."""

import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import WorkerClass
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.identity import CallerIdentity, CallerRole, identify
from agentkeys_runtime.mtls import load_pem


def check_own_certificate(
    path: Path, *, trust_domain: str, role: CallerRole, worker_class: WorkerClass | None = None
) -> CallerIdentity:
    """Return the identity of our leaf (the first certificate in the file).

    Raises:
        ConfigError: unusable, expired, or of another role, class or trust domain.
    """
    chain = load_pem(path)
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.PEM)
        found = identify(leaf, trust_domain=trust_domain, now=time.time())
    except (ValueError, KeyServiceError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if (found.role, found.worker_class) != (role, worker_class):
        wanted = role if worker_class is None else f"{role}/{worker_class}"
        raise ConfigError(f"{path}: is the certificate of {found.spiffe_id}, not of a {wanted}")
    return found
