"""What this device asks the broker with its own signature: alone before it is registered, in a session afterwards.

A session serves pages and ceremonies; what releases anything is signed apart and needs none. Tokens stay in memory.
"""

import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from agentkeys_core.encoding import b64u_encode, canonical_json, fields
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.proof import PROOF_HEADER, SESSION_WINDOW_S, SessionProof
from agentkeys_core.shapes import integer, text
from device.errors import DeviceError, Trouble
from device.problems import check_refusal
from device.registry import TIMEOUT_S
from device.session import Device
from device.transport import Stream

_NONCE_BYTES: Final = 16
#: A token that ends so soon is exchanged before it is used.
_MARGIN_S: Final = 30
# Both come from the broker, and go into headers or under our signature: nothing but what they may consist of.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_.-]{1,4096}")
_CHALLENGE: Final = re.compile(r"[0-9a-f]{112}")
_BAD: Final = Reason.INVALID_ENCODING
_EMPTY: Final[Mapping[str, object]] = {}

Method = Literal["GET", "POST"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    token: str = field(repr=False)
    expires_at: int

    @classmethod
    def parse(cls, answer: object) -> Self:
        """Raises `answer_not_trusted`."""
        try:
            members = fields(answer, required=("session", "token", "token_expires_at"), reason=_BAD)
            token = text(members["token"], "token", reason=_BAD)
            expires_at = integer(members["token_expires_at"], "token_expires_at", reason=_BAD)
        except KeyServiceError as exc:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"no session in the broker's answer: {exc}") from exc
        if not _TOKEN.fullmatch(token):
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker's token is none")
        return cls(token=token, expires_at=expires_at)


class Prover:
    """Requests to the broker, each with a proof by K10 over just that request."""

    __slots__ = ("_device",)

    def __init__(self, device: Device) -> None:
        self._device = device

    def begin(self, path: str, members: Mapping[str, object]) -> object:
        """POST with a proof over a fresh challenge (purpose sign-in) and return the parsed answer.

        Raises:
            KeyServiceError: the broker's refusal.
            DeviceError: `answer_not_trusted`, `unreachable`, `peer_not_trusted`.
        """
        told = check_refusal(self._device.channel(None).get("/v1/session/challenge", timeout_s=TIMEOUT_S)).json()
        nonce = told.get("nonce") if isinstance(told, dict) else None
        if not isinstance(nonce, str) or not _CHALLENGE.fullmatch(nonce):
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the broker's challenge is none")
        return self.ask("sign-in", "POST", path, members, nonce=nonce)

    def ask(
        self,
        purpose: str,
        method: Method,
        path: str,
        members: Mapping[str, object] = _EMPTY,
        *,
        nonce: str = "",
        token: str = "",
    ) -> object:
        """Send one request with its proof and return the parsed answer. Raises as `begin`."""
        channel = self._device.channel(None)
        body = canonical_json(members) if method == "POST" else b""
        headers = self.headers(purpose, method, path, body, nonce=nonce, token=token)
        if method == "GET":
            answer = channel.get(path, timeout_s=TIMEOUT_S, headers=headers)
        else:
            answer = channel.post(path, body, timeout_s=TIMEOUT_S, headers=headers)
        return check_refusal(answer).json()

    def headers(
        self, purpose: str, method: Method, path: str, body: bytes, *, nonce: str = "", token: str = ""
    ) -> dict[str, str]:
        """What makes one request this device's: a fresh proof over it, and the token where there is one."""
        device = self._device
        now = device.now()
        proof = SessionProof(
            aud=device.profile.broker,
            body_hash=sha256(body),
            device=device.k10.key_hash,
            expires_at=now + SESSION_WINDOW_S,
            issued_at=now,
            method=method,
            nonce=nonce or b64u_encode(secrets.token_bytes(_NONCE_BYTES)),
            path=path,
            public_key=device.k10.public_key,
            purpose=purpose,
        )
        headers = {PROOF_HEADER: device.k10.sign_proof(proof)}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers


class BrokerSession:
    """A registered device's session at the broker: begun when first needed, kept fresh, begun anew where it ended.

    Safe for a few threads: they share one session.
    """

    __slots__ = ("_device", "_grant", "_lock", "_prover")

    def __init__(self, device: Device) -> None:
        self._device = device
        self._prover = Prover(device)
        self._grant: _Grant | None = None
        self._lock = threading.Lock()

    def ask(self, method: Method, path: str, members: Mapping[str, object] = _EMPTY) -> object:
        """Send one request in the session and return the parsed answer.

        A request that was refused because the session is over is sent once more in a new one: nothing was done yet.

        Raises:
            KeyServiceError, DeviceError: as `Prover.begin`.
        """
        try:
            return self._ask(method, path, members)
        except KeyServiceError as exc:
            if exc.reason is not Reason.SESSION_INVALID:
                raise
        self.forget()
        return self._ask(method, path, members)

    def forget(self) -> None:
        """Begin a new session when the next request needs one."""
        with self._lock:
            self._grant = None

    @contextmanager
    def stream(self, path: str, *, silence_s: float, headers: Mapping[str, str]) -> Iterator[Stream]:
        """GET a path of this session whose answer goes on.

        Raises:
            KeyServiceError: the broker's refusal; after `session_invalid` the next attempt begins a new session.
            DeviceError: as `Channel.stream`.
        """
        own = self._prover.headers("request", "GET", path, b"", token=self._fresh().token)
        with self._device.channel(None).stream(path, silence_s=silence_s, headers={**headers, **own}) as found:
            if isinstance(found, Stream):
                yield found
                return
            try:
                check_refusal(found)
            except KeyServiceError as exc:
                if exc.reason is Reason.SESSION_INVALID:
                    self.forget()
                raise
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"the broker answered with status {found.status}")

    def _ask(self, method: Method, path: str, members: Mapping[str, object]) -> object:
        return self._prover.ask("request", method, path, members, token=self._fresh().token)

    def _fresh(self) -> _Grant:
        with self._lock:
            grant = self._grant
            if grant is None:
                grant = _Grant.parse(self._prover.begin("/v1/session", {}))
            elif self._device.now() >= grant.expires_at - _MARGIN_S:
                grant = _Grant.parse(self._prover.ask("refresh", "POST", "/v1/session/refresh", token=grant.token))
            self._grant = grant
            return grant
