"""Requests that a real device signed, about anything: genuine bodies, bodies with a member bent, and mere noise."""

import json
import random
import re
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from agentkeys_core.bodies import EMPTY_BODY, AuditListBody, ListBody, StoreBody
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.ops import OPS, Effect, Op
from demo.attacker import cosign
from tests.adversarial.town import OPENROUTER, Member

#: What members are taken for now and then.
NASTY: tuple[Any, ...] = (None, True, -1, 0, 2**53, 1.5, "", "é", "\x00", "A" * 5000, [], {}, [[[]]], "null", "../x")
#: Each path's well-shaped requests get in turn a genuine body, a bent one, their own, and this: nothing at all.
LEFT_ALONE = 3
_B64U = re.compile(r"[A-Za-z0-9_-]*")
_CAP = {"device_public_key", "device_signature", "k11", "request"}
_SIGNS = {"/v1/sign/siwe": Op.SIWE_SIGN, "/v1/sign/typed-data": Op.TYPED_DATA_SIGN}
OP_OF = {
    f"/v1/{rule.worker_class}/{op.value.partition('-')[2]}": op for op, rule in OPS.items() if rule.worker_class
} | _SIGNS


@dataclass
class Genuine:
    """Puts what these two devices sign in the place of what has its shape. `texts` are bodies made beforehand."""

    master: Member
    agent: Member
    texts: Mapping[str, Any]
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self._turns: Counter[str] = Counter()
        self._ops, self._changes = cycle(OPS), cycle(self.texts["changes"])

    def in_place_of(self, path: str, body: bytes) -> bytes:
        """The same body with a genuine cap where there is a well-shaped one; what breaks its shape stays as it is."""
        try:
            value = json.loads(body)
        except ValueError:
            return body
        if path == "/v1/registry/changes" and isinstance(value, dict) and set(value) == {"change", "signatures"}:
            return self._bent(next(self._changes).encode())
        if path == "/v1/caps" and _is_cap(value, _CAP):
            return json.dumps(self._cap(next(self._ops), EMPTY_BODY, cosigned=False)).encode()
        if path not in OP_OF or not isinstance(value, dict) or not _is_b64u(value.get("body")):
            return body
        names = _CAP if path in _SIGNS else _CAP | {"cosign", "kid"}
        return self._capped(path, value) if _is_cap(value.get("cap"), names) else body

    def _capped(self, path: str, value: dict[str, Any]) -> bytes:
        op, turn = OP_OF[path], self._turns[path]
        self._turns[path] += 1
        if turn % 4 == LEFT_ALONE:
            return json.dumps(value).encode()
        genuine = self._genuine(op)
        content = (genuine, self._bent(genuine), _bytes_of(value["body"]))[turn % 4]
        cap = self._cap(op, content, cosigned=path not in _SIGNS)
        return json.dumps(value | {"body": b64u_encode(content), "cap": cap}).encode()

    def _cap(self, op: Op, body: bytes, *, cosigned: bool) -> dict[str, Any]:
        member, service = self._asker(op)
        asked = member.asked(op, service, body, k11=op is Op.CRED_DELETE)
        found = cosign(member.town.stack, asked.cap).to_json() if cosigned else json.loads(asked.cap.encode())
        return dict(found)

    def _asker(self, op: Op) -> tuple[Member, str]:
        rule = OPS[op]
        if rule.effect is Effect.SIGN:
            return self.agent, self.texts[op.value]["service"]
        if rule.effect is Effect.LIST:
            return self.master, f"{rule.prefix}:list"
        if rule.effect is Effect.AUDIT:
            return self.master, self.dice.choice(["audit:own", "audit:tree"])
        if op is Op.CRED_FETCH:
            return self.agent, OPENROUTER
        names = {Effect.WRITE: f"x{secrets.token_hex(4)}", Effect.READ: "kept", Effect.DELETE: "doomed"}
        return self.master, f"{rule.prefix}:{names[rule.effect]}"

    def _genuine(self, op: Op) -> bytes:
        rule, limit = OPS[op], self.dice.randint(1, 1000)
        if rule.effect is Effect.WRITE:
            value = secrets.token_bytes(self.dice.choice([1, 32, 4096]))
            return StoreBody(blind=secrets.token_bytes(32), expect=None, value=value).encode()
        if rule.effect is Effect.LIST:
            return ListBody(after=self.dice.choice([None, "m"]), limit=limit).encode()
        if rule.effect is Effect.AUDIT:
            return AuditListBody(after=self.dice.choice([None, 0]), limit=limit).encode()
        if rule.effect is Effect.SIGN:
            return str(self.texts[op.value]["body"]).encode()
        return EMPTY_BODY

    def _bent(self, body: bytes) -> bytes:
        """One member, at any depth, taken for something else."""
        value = json.loads(body)
        places = list(_places(value))
        if places:
            place, name = self.dice.choice(places)
            place[name] = self.dice.choice(NASTY)
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _places(value: Any) -> Any:
    """Every member of every object and list."""
    if isinstance(value, dict | list):
        for name in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, name
            yield from _places(value[name])


def _is_b64u(value: object) -> bool:
    return isinstance(value, str) and _B64U.fullmatch(value) is not None


def _bytes_of(text: str) -> bytes:
    try:
        return b64u_decode(text)
    except KeyServiceError:
        return text.encode()


def _is_cap(value: object, names: set[str]) -> bool:
    """Whether the document's schema takes it for a cap."""
    if not isinstance(value, dict) or set(value) != names:
        return False
    k11 = value["k11"]
    if k11 is not None:
        members = {"authenticator_data", "client_data_json", "credential_id", "signature"}
        if not isinstance(k11, dict) or set(k11) != members or not all(map(_is_b64u, k11.values())):
            return False
    plain = names - {"k11", "kid"}
    return all(_is_b64u(value[name]) for name in plain) and isinstance(value.get("kid", ""), str)
