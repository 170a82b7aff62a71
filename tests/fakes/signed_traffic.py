"""Hooks of the fuzzer in tests/integration/test_openapi.py: its requests are signed as a real device signs them.

So they reach what lies behind proofs, sessions and caps. What breaks its description on purpose is signed as it is and
never mended: it must be refused for what it is. TRAFFIC names a file with what these hooks need to know.
"""

import json
import os
import re
import secrets
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
import schemathesis
from requests.auth import AuthBase
from schemathesis.core.parameters import ParameterLocation

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.hashes import sha256
from agentkeys_core.proof import PROOF_HEADER, SESSION_WINDOW_S, SessionProof
from demo.attacker import Who
from device.home import Home
from device.session import Device
from device.show import Show
from tests.adversarial.town import Member, QuickStack, Town, stolen_key
from tests.fakes import traffic_log
from tests.fakes.genuine_bodies import Genuine

#: Registers itself where it is imported; whoever loads these hooks wants both.
__all__ = ["Provider", "traffic_log"]
TOLD: dict[str, Any] = json.loads(Path(os.environ["TRAFFIC"]).read_text())
EVENTS = "/v1/events"
#: Where it is asked what became of something begun elsewhere: after that, about nothing else.
FOLLOWED = {"/v1/pairings": "/v1/pairings/{id}", "/v1/identity/oidc": "/v1/identity/ceremonies/{id}"}
BEGUN: dict[str, str] = {}
ID = re.compile(r"/[0-9a-f]{32}$")
#: How long a stream is listened to before its session ends, and the stream with it.
LISTENING_S = 0.3


def member(name: str, town: Town) -> Member:
    """One of the people, by the copy of their device's folder."""
    told = TOLD[name]
    device = Device.open(Home.open(Path(told["home"])).__enter__(), Show(as_json=True, yes=True)).__enter__()
    who = Who(operator=bytes.fromhex(told["operator"]), actor=bytes.fromhex(told["actor"]))
    return Member(town=town, device=device, key=stolen_key(device), who=who)


class Master:
    """The master at the broker: proofs, and a session where one is needed."""

    def __init__(self, found: Member) -> None:
        self._k10 = found.device.k10
        self._token = ""

    def sign(self, request: requests.PreparedRequest, purpose: str, *, token: str = "") -> None:
        """Give the request its proof, over exactly what is sent, and a session's token where it needs one."""
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        body, now = request.body or b"", int(time.time())
        assert isinstance(body, bytes | str)
        proof = SessionProof(
            aud=TOLD["origin"],
            body_hash=sha256(body.encode() if isinstance(body, str) else body),
            device=self._k10.key_hash,
            expires_at=now + SESSION_WINDOW_S,
            issued_at=now,
            method=str(request.method),
            nonce=self._nonce(purpose),
            path=request.path_url,
            public_key=self._k10.public_key,
            purpose=purpose,
        )
        request.headers[PROOF_HEADER] = self._k10.sign_proof(proof)

    @property
    def token(self) -> str:
        """Of a session that lasts."""
        if not self._token:
            self._token = self._post("/v1/session", {}, "sign-in")["token"]
        return self._token

    def passing_token(self) -> str:
        """Of a session that soon ends: nobody waits for the end of a stream that has none."""
        begun = self._post("/v1/session", {}, "sign-in")
        ending = {"id": begun["session"]["id"]}
        threading.Timer(LISTENING_S, lambda: self._post("/v1/session/end", ending, "request", self.token)).start()
        return str(begun["token"])

    def _nonce(self, purpose: str) -> str:
        if purpose != "sign-in":
            return b64u_encode(secrets.token_bytes(16))
        return str(requests.get(TOLD["address"] + "/v1/session/challenge", timeout=10).json()["nonce"])

    def _post(self, path: str, members: dict[str, Any], purpose: str, token: str = "") -> dict[str, Any]:
        request = requests.Request("POST", TOLD["address"] + path, json=members).prepare()
        self.sign(request, purpose, token=token)
        answer = requests.Session().send(request, timeout=10)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


class Signed(AuthBase):
    """What one operation's requests carry."""

    def __init__(self, path: str, security: list[dict[str, Any]]) -> None:
        self._path = path
        self._session = any("session" in one for one in security)
        self._purposes = [name.removeprefix("proof-") for one in security for name in one if name != "session"]

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign the request as it is about to be sent."""
        if self._path in BEGUN:
            request.url = ID.sub("/" + BEGUN[self._path], str(request.url))
        if isinstance(request.body, bytes):
            request.prepare_body(GENUINE.in_place_of(self._path, request.body), None)
        for purpose in self._purposes:
            MASTER.sign(request, purpose, token=self._token())
        return request

    def _token(self) -> str:
        if not self._session:
            return ""
        return MASTER.passing_token() if self._path == EVENTS else MASTER.token


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Remember what was begun."""
    path = FOLLOWED.get(case.operation.path)
    if path is not None and response.status_code == HTTPStatus.OK:
        BEGUN[path] = json.loads(response.content)["id"]


TOWN = Town(stack=QuickStack(root=Path(TOLD["root"]), registry_id=TOLD["registry_id"]))
GENUINE = Genuine(master=member("master", TOWN), agent=member("agent", TOWN), texts=TOLD["texts"])
MASTER = Master(GENUINE.master)


@schemathesis.auth(refresh_interval=None)
class Provider:
    """How the fuzzer gets at the above."""

    def get(self, case: Any, context: Any) -> AuthBase | None:
        """By operation; none where the header of the proof itself is what is spoilt."""
        if case.meta is not None and case.meta.is_negative_at(ParameterLocation.HEADER):
            return None
        return Signed(context.operation.path, context.operation.definition.raw.get("security", []))

    def set(self, case: Any, data: AuthBase, context: Any) -> None:
        """As `schemathesis.auth.set_from_requests` does, which knows no operation."""
        case._auth = data
