"""The static files that the host publishes at the issuer's origin, which no broker can write (design, section 8)."""

import os
import secrets
from pathlib import Path
from typing import Final

from agentkeys_core.encoding import canonical_json
from agentkeys_core.jwks import jwks_document
from signer.keyring import Keyring

DISCOVERY: Final = ".well-known/openid-configuration"
JWKS: Final = ".well-known/jwks.json"
AUDIT_JWKS: Final = ".well-known/agentkeys-audit-jwks.json"
_PUBLIC_MODE: Final = 0o644


def discovery_document(issuer: str) -> bytes:
    """OpenID Connect discovery of an issuer that only signs web identity tokens: it has no login of its own."""
    return canonical_json(
        {
            "authorization_endpoint": f"{issuer}/authorize",
            "claims_supported": ["aud", "exp", "iat", "iss", "jti", "nbf", "sub"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "issuer": issuer,
            "jwks_uri": f"{issuer}/{JWKS}",
            "response_types_supported": ["id_token"],
            "scopes_supported": ["openid"],
            "subject_types_supported": ["public"],
        }
    )


def documents(keyring: Keyring, issuer: str | None) -> dict[str, bytes]:
    """Each file by its path below the origin; discovery only where the issuer's origin is known."""
    files = {
        JWKS: jwks_document(keyring.public_key("oidc", epoch) for epoch in keyring.epochs),
        AUDIT_JWKS: jwks_document(keyring.public_key("audit", epoch) for epoch in keyring.epochs),
    }
    if issuer is not None:
        files[DISCOVERY] = discovery_document(issuer)
    return files


def export(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Write each file whole and durably, replacing what an earlier export wrote; readable for a web server.

    Folders that are made here are open to readers; one that was there keeps its mode.
    """
    for directory in (folder, folder / ".well-known"):
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(0o755)
    written = []
    for name in sorted(files):
        export_file(folder / name, files[name])
        written.append(folder / name)
    return written


def export_file(target: Path, content: bytes) -> None:
    """Write one public file whole and durably, mode 0644, replacing what was there."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), _PUBLIC_MODE)
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
