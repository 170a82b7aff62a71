"""Reads what the issuer's origin really serves, as any relying party would."""

import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import MAX_JWKS_BYTES, ES256PublicKey, parse_jwks
from agentkeys_runtime.deadline import connected
from signer.rotation import RotationError, RotationProblem

TIMEOUT_S: Final = 5.0  # for each step
EXCHANGE_S: Final = 8.0  # from the connection to the last byte


class IssuerReader:
    """GET below one https origin, whose certificate `ca` (by default the system's roots) must have issued.

    No redirect is followed, no proxy asked, no more than 1 MiB read.
    """

    def __init__(self, origin: str | None, ca: Path | None) -> None:
        self._origin = origin
        self._ca = ca

    def keys(self, path: str) -> Mapping[str, ES256PublicKey]:
        """The JWKS at `path` below the origin, keys by kid.

        Raises:
            RotationError: no_issuer; issuer_unreachable, whatever went wrong.
        """
        if self._origin is None:
            raise RotationError(RotationProblem.NO_ISSUER, "no issuer's origin is configured")
        parts = urlsplit(self._origin)
        try:
            context = ssl.create_default_context(cafile=self._ca)
            connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=context
            )
            with connected(connection, EXCHANGE_S):
                connection.request("GET", f"/{path}", headers={"Accept": "application/json"})
                response = connection.getresponse()
                answer = response.read(MAX_JWKS_BYTES + 1)
        except (OSError, http.client.HTTPException) as exc:  # ssl.SSLError and timeouts are OSErrors
            raise _unreachable(type(exc).__name__) from exc
        if response.status != http.client.OK:
            raise _unreachable(f"HTTP status {response.status} for {path}")
        try:
            return parse_jwks(answer)
        except KeyServiceError as exc:
            raise _unreachable(f"{path} is no key set: {exc.reason}") from exc


def _unreachable(detail: str) -> RotationError:
    return RotationError(RotationProblem.ISSUER_UNREACHABLE, detail)
