"""A device that asks the broker with its proof, as every test of sessions and ceremonies needs it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import httpx

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.hashes import sha256
from agentkeys_core.ids import address_of, device_key_hash
from agentkeys_core.keys import DeviceKey
from agentkeys_core.proof import PROOF_HEADER, SessionProof
from tests.fakes.app_client import AppClient
from tests.fakes.clock import StillClock
from tests.fakes.services_kit import BROKER_ORIGIN

EMPTY = b"{}"


@dataclass
class Visit:
    """One device at the broker that `client` asks."""

    client: AppClient
    clock: StillClock
    key: DeviceKey
    token: str = ""
    count: int = 0

    @property
    def now(self) -> int:
        return int(self.clock.now())

    def nonce(self) -> str:
        answer = self.client.get("/v1/session/challenge")
        assert answer.status_code == 200
        found: str = answer.json()["nonce"]
        return found

    def proof(self, purpose: str, method: str, path: str, body: bytes, spoil: Mapping[str, Any] | None = None) -> str:
        self.count += 1
        proof = SessionProof(
            aud=BROKER_ORIGIN,
            body_hash=sha256(body),
            device=device_key_hash(address_of(self.key.public_key)),
            expires_at=self.now + 60,
            issued_at=self.now,
            method=method,
            nonce=b64u_encode(self.count.to_bytes(16, "big")),
            path=path,
            public_key=self.key.public_key,
            purpose=purpose,
        )
        return replace(proof, **(spoil or {})).sign(self.key)

    def ask(
        self,
        purpose: str,
        method: str,
        path: str,
        body: bytes = EMPTY,
        *,
        proof: str | None = None,
        token: str | None = None,
        spoil: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """`spoil` changes what the proof says before it is signed."""
        headers = {PROOF_HEADER: self.proof(purpose, method, path, body, spoil) if proof is None else proof}
        token = self.token if token is None else token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if method == "GET":
            return self.client.get(path, headers=headers)
        return self.client.post(path, content=body, headers={**headers, "Content-Type": "application/json"})

    def begin(self, path: str, body: bytes, spoil: Mapping[str, Any] | None = None) -> httpx.Response:
        """Ask with a proof of purpose sign-in over a fresh challenge."""
        return self.ask("sign-in", "POST", path, body, spoil={"nonce": self.nonce(), **(spoil or {})})

    def sign_in(self, **spoil: Any) -> httpx.Response:
        answer = self.begin("/v1/session", EMPTY, spoil)
        if answer.status_code == 200:
            self.token = answer.json()["token"]
        return answer

    def sessions(self, **given: Any) -> httpx.Response:
        return self.ask("request", "GET", "/v1/sessions", b"", **given)


def reason(answer: httpx.Response) -> str:
    """The reason of a refusal."""
    assert answer.status_code != 200, answer.text
    found: str = answer.json()["reason"]
    return found


def typed(begun: httpx.Response, **more: str) -> str:
    """The form of somebody whose own terminal shows the code of this ceremony, if its page asks for one."""
    return urlencode({**more, **{name: value for name, value in begun.json().items() if name == "code"}})
