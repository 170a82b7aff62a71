"""One OpenID provider over HTTPS: discovery, authorisation with PKCE, token endpoint, keys. OAuthLib words OAuth."""

import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus

import jwt
from oauthlib.oauth2 import OAuth2Error, WebApplicationClient

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import read_limited
from broker.adapters.openid_http import MAX_ANSWER, Ask, exchange
from broker.id_tokens import key_id, verified
from broker.identity_settings import ProviderSettings
from broker.ports import IdToken

#: Exchanges with one provider that are under way at once: twice what one sender may have (`web.gate`), so that nobody
#: has all of them, and less than half of what may wait, so that a slow provider keeps no other one's visitors waiting.
PLACES: Final = 6
#: A provider's metadata and keys are asked for again after this, and keys at once when a token names one we lack.
REFRESH_S: Final = 3600.0
#: But never more often than this, whatever tokens name; nor is one that failed asked again sooner.
PAUSE_S: Final = 10.0
_SCOPE: Final = "openid email"
_CHALLENGE_METHOD: Final = "S256"
_DISCOVERY: Final = "/.well-known/openid-configuration"
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_SECRET_LIMIT: Final = 4096
_BAD: Final = Reason.INVALID_EVIDENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a provider says of itself; `names_itself`: whether its answers carry `iss` (RFC 9207)."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    names_itself: bool

    @classmethod
    def parse(cls, document: Mapping[str, Any], issuer: str) -> "Metadata":
        """Raises `provider_unreachable` for another issuer's, or an endpoint that is missing or not https."""
        if document.get("issuer") != issuer:  # OpenID Connect Discovery 4.3
            raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "it names another issuer")
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        found = {name: str(document.get(name, "")) for name in names}
        if not all(address.startswith("https://") for address in found.values()):
            raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "an endpoint is missing, or not https")
        return cls(**found, names_itself=document.get("authorization_response_iss_parameter_supported") is True)


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
        self._places = threading.BoundedSemaphore(PLACES)
        self._metadata: Metadata | None = None
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._asked_at = self._failed_at = self._keys_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Provider {self._settings.issuer}>"

    @property
    def client_id(self) -> str:
        """See the port."""
        return self._settings.client_id

    def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """See the port."""
        endpoint = self._discovered().authorization_endpoint
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

    def names_itself(self) -> bool:
        """See the port."""
        return self._discovered().names_itself

    def redeem(self, code: str, *, nonce: str, verifier: str) -> IdToken:
        """See the port."""
        endpoint = self._discovered().token_endpoint
        client = WebApplicationClient(self._settings.client_id)
        body = client.prepare_request_body(
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=verifier,
            include_client_id=self._secret is None,
        )
        headers = {"Accept": _JSON, "Content-Type": _FORM, **self._authorization()}
        answered = self._fetch(Ask(address=endpoint, headers=headers, body=body))
        strict_json(answered, limit=MAX_ANSWER, reason=_BAD)  # what nests without end must not reach the library
        try:
            answer = client.parse_request_body_response(answered.decode())
        except OAuth2Error as error:
            raise KeyServiceError(_BAD, "the provider took no such code") from error
        except Exception as error:  # hostile bytes make the parser raise almost anything: fail closed
            raise KeyServiceError(_BAD, f"the provider's answer: {type(error).__name__}") from error
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise KeyServiceError(_BAD, "the provider gave no ID token")
        return verified(
            token,
            self._key(key_id(token)),
            issuer=self._settings.issuer,
            client_id=self._settings.client_id,
            nonce=nonce,
            now=self._clock(),
        )

    def _authorization(self) -> dict[str, str]:
        """A confidential client authenticates by Basic (RFC 6749, 2.3.1), its two halves form-encoded."""
        if self._secret is None:
            return {}
        pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(self._secret)}"
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}

    def _key(self, kid: str) -> jwt.PyJWK:
        with self._lock:
            now = time.monotonic()
            stale = now - self._keys_at > REFRESH_S or (kid not in self._keys and now - self._keys_at > PAUSE_S)
        if stale:
            document = self._get(self._discovered().jwks_uri)
            try:
                found = jwt.PyJWKSet.from_dict(document)
            except Exception as error:  # as above
                raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "its keys cannot be read") from error
            with self._lock:
                self._keys = {key.key_id or "": key for key in found.keys}
                self._keys_at = now
        key = self._keys.get(kid)
        if key is None:
            raise KeyServiceError(_BAD, "the ID token names a key that the provider does not publish")
        return key

    def _discovered(self) -> Metadata:
        with self._lock:
            now = time.monotonic()
            if self._metadata is not None and now - self._asked_at < REFRESH_S:
                return self._metadata
            if now - self._failed_at < PAUSE_S:
                raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "it did not answer a moment ago")
        issuer = self._settings.issuer
        try:
            metadata = Metadata.parse(self._get(issuer.rstrip("/") + _DISCOVERY), issuer)
        except KeyServiceError as error:
            if error.reason is Reason.PROVIDER_UNREACHABLE:
                with self._lock:
                    self._failed_at = time.monotonic()
            raise
        with self._lock:
            self._metadata, self._asked_at = metadata, time.monotonic()
        return metadata

    def _get(self, address: str) -> dict[str, Any]:
        answer = self._fetch(Ask(address=address, headers={"Accept": _JSON}))
        document = strict_json(answer, limit=MAX_ANSWER, reason=Reason.PROVIDER_UNREACHABLE)
        if not isinstance(document, dict):
            raise KeyServiceError(Reason.PROVIDER_UNREACHABLE, "its answer is no object")
        return document

    def _fetch(self, ask: Ask) -> bytes:
        """The answer of one exchange, of which there are so few at once."""
        if not self._places.acquire(blocking=False):
            raise KeyServiceError(Reason.OVERLOADED, "too many wait for this provider")
        try:
            return exchange(ask, self._tls)
        finally:
            self._places.release()
