"""One OpenID provider over HTTPS: discovery, authorisation with PKCE, token endpoint, keys. OAuthLib words OAuth."""

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote_plus

import httpx
import jwt
from oauthlib.oauth2 import OAuth2Error, WebApplicationClient

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import read_limited
from broker.identity_settings import ProviderSettings
from broker.ports import IdToken

TIMEOUT_S: Final = 10.0
MAX_ANSWER: Final = 256 * 1024  # bytes
#: A provider's metadata and keys are asked for again after this, and keys at once when a token names one we lack.
REFRESH_S: Final = 3600.0
#: But never more often than this, whatever tokens name.
PAUSE_S: Final = 10.0
MAX_AGE_S: Final = 600
SKEW_S: Final = 60
#: Asymmetric ones only: whoever knows our client secret must not be able to sign.
ALGORITHMS: Final = ("ES256", "RS256", "PS256", "EdDSA")
_SCOPE: Final = "openid email"
_CHALLENGE_METHOD: Final = "S256"
_DISCOVERY: Final = "/.well-known/openid-configuration"
_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_SECRET_LIMIT: Final = 4096
_BAD: Final = Reason.INVALID_EVIDENCE


class Provider:
    """Implements `broker.ports.OpenIdProvider`. Safe for many threads."""

    def __init__(self, settings: ProviderSettings, *, redirect_uri: str, clock: Callable[[], float]) -> None:
        """Raises ConfigError where the client secret or the roots cannot be read."""
        self._settings = settings
        self._redirect_uri = redirect_uri
        self._clock = clock
        path = settings.client_secret_file
        self._secret = None if path is None else read_limited(path, _SECRET_LIMIT, private=True).decode().strip()
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{settings.ca}: not a file of certificates") from error
        self._lock = threading.Lock()
        self._metadata: Mapping[str, str] = {}
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._asked_at = self._keys_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Provider {self._settings.issuer}>"

    @property
    def client_id(self) -> str:
        """See the port."""
        return self._settings.client_id

    def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """See the port."""
        endpoint = self._discovered()["authorization_endpoint"]
        client = WebApplicationClient(self._settings.client_id)
        url: str = client.prepare_request_uri(
            endpoint,
            redirect_uri=self._redirect_uri,
            scope=_SCOPE,
            state=state,
            nonce=nonce,
            code_challenge=client.create_code_challenge(verifier, _CHALLENGE_METHOD),
            code_challenge_method=_CHALLENGE_METHOD,
        )
        return url

    def redeem(self, code: str, *, nonce: str, verifier: str) -> IdToken:
        """See the port."""
        endpoint = self._discovered()["token_endpoint"]
        client = WebApplicationClient(self._settings.client_id)
        body = client.prepare_request_body(
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=verifier,
            include_client_id=self._secret is None,
        )
        # A confidential client authenticates by Basic (RFC 6749, 2.3.1), its two halves form-encoded.
        auth = None if self._secret is None else (quote_plus(self._settings.client_id), quote_plus(self._secret))
        answered = self._fetch(
            "POST", endpoint, content=body, auth=auth, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        try:
            answer = client.parse_request_body_response(answered)
        except (OAuth2Error, ValueError, Warning) as error:  # a scope that was not asked for is a Warning there
            raise KeyServiceError(_BAD, "the provider took no such code") from error
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise KeyServiceError(_BAD, "the provider gave no ID token")
        return self._verified(token, nonce)

    def _verified(self, token: str, nonce: str) -> IdToken:
        """OpenID Connect Core 3.1.3.7, by this program's own clock."""
        try:
            header = jwt.get_unverified_header(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key(str(header.get("kid", ""))),
                algorithms=list(ALGORITHMS),
                audience=self._settings.client_id,
                issuer=self._settings.issuer,
                options={"require": ["aud", "exp", "iat", "iss", "sub"], "verify_exp": False, "verify_iat": False},
            )
            now, issued_at, expires_at = self._clock(), int(claims["iat"]), int(claims["exp"])
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise KeyServiceError(_BAD, type(error).__name__) from error
        if claims.get("nonce") != nonce:
            raise KeyServiceError(_BAD, "the ID token has another nonce")
        if not issued_at - SKEW_S <= now < min(expires_at, issued_at + MAX_AGE_S) + SKEW_S:
            raise KeyServiceError(_BAD, "the ID token is of another time")
        audiences = claims["aud"]
        if isinstance(audiences, list) and len(audiences) > 1 and claims.get("azp") != self._settings.client_id:
            raise KeyServiceError(_BAD, "the ID token is for others as well")
        email = claims.get("email")
        return IdToken(text=token, subject=str(claims["sub"]), name=email if isinstance(email, str) else "")

    def _key(self, kid: str) -> jwt.PyJWK:
        with self._lock:
            now = time.monotonic()
            stale = now - self._keys_at > REFRESH_S or (kid not in self._keys and now - self._keys_at > PAUSE_S)
        if stale:
            document = self._get(self._discovered()["jwks_uri"])
            try:
                found = jwt.PyJWKSet.from_dict(document)
            except (jwt.PyJWTError, TypeError, ValueError) as error:
                raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "its keys cannot be read") from error
            with self._lock:
                self._keys = {key.key_id or "": key for key in found.keys}
                self._keys_at = now
        key = self._keys.get(kid)
        if key is None:
            raise KeyServiceError(_BAD, "the ID token names a key that the provider does not publish")
        return key

    def _discovered(self) -> Mapping[str, str]:
        with self._lock:
            if time.monotonic() - self._asked_at < REFRESH_S:
                return self._metadata
        issuer = self._settings.issuer
        document = self._get(issuer.rstrip("/") + _DISCOVERY)
        if document.get("issuer") != issuer:  # OpenID Connect Discovery 4.3
            raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "it names another issuer")
        metadata = {name: str(document.get(name, "")) for name in _ENDPOINTS}
        if not all(address.startswith("https://") for address in metadata.values()):
            raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "an endpoint is missing, or not https")
        with self._lock:
            self._metadata, self._asked_at = metadata, time.monotonic()
        return metadata

    def _get(self, address: str) -> dict[str, Any]:
        answer = self._fetch("GET", address, headers={"Accept": "application/json"})
        document = strict_json(answer.encode(), limit=MAX_ANSWER, reason=Reason.PROVIDER_UNREACHABLE)
        if not isinstance(document, dict):
            raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "its answer is no object")
        return document

    def _fetch(self, method: str, address: str, **given: Any) -> str:
        """The provider's answer. No redirect is followed, no proxy of the environment used, no more than 256 KiB read.

        An answer of status 400 is one of OAuth's own, and worth reading.
        """
        body = bytearray()
        try:
            with (
                httpx.Client(verify=self._tls, timeout=TIMEOUT_S, trust_env=False) as client,
                client.stream(method, address, **given) as answer,
            ):
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "its answer is too large")
                if answer.status_code not in {httpx.codes.OK, httpx.codes.BAD_REQUEST}:
                    raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, f"HTTP status {answer.status_code}")
            return body.decode()
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeDecodeError) as error:
            raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, type(error).__name__) from error
