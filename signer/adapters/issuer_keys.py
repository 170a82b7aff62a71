"""Keys of pinned issuers, from a JWKS file that the host keeps up to date; the last good content stays in force."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import ID_TOKEN_ALGORITHMS
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import Watched, read_limited

MAX_JWKS_BYTES: Final = 256 * 1024
_BAD: Final = Reason.INVALID_EVIDENCE
_JWS: Final = jwt.PyJWS(options={"enforce_minimum_key_length": True})


class JwksFile:
    """Verifies tokens under the keys of one file, which is read again when it changes: so an issuer's keys rotate.

    Raises `ConfigError` where its first content is no key set.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = Watched([path], self._load)

    def verify(self, token: str) -> bytes:
        """The payload of a compact JWS that a key of the file has signed.

        Raises:
            KeyServiceError: invalid_evidence: no key id, an unknown one, another algorithm, a wrong signature.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get().get(kid) if isinstance(kid, str) else None
            if key is None:
                raise KeyServiceError(_BAD, "the token's key is not among those of its issuer")
            payload = _JWS.decode_complete(token, key=key, algorithms=ID_TOKEN_ALGORITHMS)["payload"]
        except jwt.PyJWTError as exc:
            raise KeyServiceError(_BAD, f"token: {type(exc).__name__}") from exc
        except (ValueError, TypeError) as exc:  # what hostile headers make the library raise besides its own
            raise KeyServiceError(_BAD, "token") from exc
        if not isinstance(payload, bytes):
            raise KeyServiceError(_BAD, "token")
        return payload

    def _load(self) -> Mapping[str, jwt.PyJWK]:
        data = read_limited(self._path, MAX_JWKS_BYTES)
        try:
            document = strict_json(data, limit=MAX_JWKS_BYTES, reason=Reason.INVALID_ENCODING)
        except KeyServiceError as exc:
            raise ConfigError(f"{self._path}: not JSON") from exc
        entries = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise ConfigError(f"{self._path}: no JWKS")
        found = {entry["kid"]: key for entry in entries if (key := _key(entry)) is not None}
        if not found:
            raise ConfigError(f"{self._path}: no signing key of {', '.join(ID_TOKEN_ALGORITHMS)} with a kid")
        return found


def _key(entry: Any) -> jwt.PyJWK | None:
    """A public signing key of an algorithm that we take; None for what else an issuer publishes there."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or "d" in entry:
        return None
    if entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(entry)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return key if key.algorithm_name in ID_TOKEN_ALGORITHMS else None
