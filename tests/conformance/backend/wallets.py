"""`SignSiwe` and `SignTypedData` of the backend."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from eth_account.messages import encode_typed_data
from eth_utils.address import is_checksum_address

from agentkeys.signer.v1 import signer_pb2 as pb
from agentkeys_core.captoken import Cap
from agentkeys_core.encoding import b64u_encode, canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import keccak256, sha256
from agentkeys_core.keys import eip191_digest
from agentkeys_core.ops import Effect, Op
from agentkeys_core.sealing import seal
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.checks import Asked, Checks
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.memory import Memory
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peer
from tests.conformance.backend.records import Operator
from tests.conformance.backend.refused import refuse
from tests.conformance.backend.typed import Typed, read

MAX_BODY: Final = 1024 * 1024
SKEW_S: Final = 60
_TIME: Final = r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)"
_URI: Final = r"[a-zA-Z][a-zA-Z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*"
_SIWE: Final = re.compile(
    r"(?:[a-zA-Z][a-zA-Z0-9+.-]*://)?(?P<domain>[A-Za-z0-9._~!$&'()*+,;=:@%\[\]-]+)"
    r" wants you to sign in with your Ethereum account:\n"
    r"(?P<address>0x[0-9a-fA-F]{40})\n\n(?:[A-Za-z0-9 ._~:/?#\[\]@!$&'()*+,;=-]+\n)?\n"
    rf"URI: (?P<uri>{_URI})\nVersion: 1\nChain ID: (?P<chain>0|[1-9]\d{{0,77}})\nNonce: [A-Za-z0-9]{{8,}}\n"
    rf"Issued At: (?P<issued>{_TIME})(?:\nExpiration Time: (?P<expires>{_TIME}))?(?:\nNot Before: (?P<begins>{_TIME}))?"
    rf"(?:\nRequest ID: [A-Za-z0-9._~!$&'()*+,;=:@%-]*)?(?P<resources>\nResources:(?:\n- {_URI})*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where one may sign in: on which chains, and for how long."""

    chain_ids: Sequence[int]
    max_lifetime_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Typed data that one policy allows. `most` → K11 above it, by member; `ahead_s`: how far ahead a member may be."""

    type: str
    chain_id: int
    contract: str
    only: Mapping[str, Sequence[str]]
    ahead_s: Mapping[str, int]
    most: Mapping[str, int]

    def allows(self, typed: Typed) -> bool:
        """Whether everything but K11 is as the rule wants it."""
        now, message = time.time(), typed.message
        return (
            typed.type == self.type
            and (typed.domain.get("chainId"), typed.domain.get("verifyingContract")) == (self.chain_id, self.contract)
            and all(message[name] in allowed for name, allowed in self.only.items())
            and all(message[name] <= now + ahead for name, ahead in self.ahead_s.items())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What managed wallets may sign."""

    siwe: Mapping[str, Host] = field(default_factory=dict)
    typed: Mapping[str, Rule] = field(default_factory=dict)


class Wallets:
    """Signs with K4."""

    def __init__(
        self,
        *,
        keys: Keys,
        memory: Memory,
        operators: Operators,
        checks: Checks,
        policy: Policy,
        broken: Broken,
    ) -> None:
        self._operators = operators
        self._keys = keys
        self._memory = memory
        self._checks = checks
        self._policy = policy
        self._broken = broken

    def siwe(self, asked: pb.SignSiweRequest, peer: Peer) -> pb.SignSiweResponse:
        """EIP-191 over a sign-in message."""
        cap = self._parse(asked.cap, peer, Op.SIWE_SIGN)
        if cap.request.request_hash != sha256(canonical_json({"message": asked.message})):
            refuse(Reason.INVALID_BODY)
        found = self._read_siwe(asked.message)
        admitted = self._checks.admit(cap, replacing=False)
        self._allow_siwe(cap.request.service.name, found)
        omni, epoch, address = self._wallet(admitted)
        if bytes.fromhex(found["address"][2:]) != address:
            refuse(Reason.POLICY_REFUSED)
        digest = eip191_digest(asked.message.encode())
        sealed, row = self._sign(
            admitted,
            digest,
            words=f"Sign in to {found['domain']} as {found['address']}",
            answer=lambda signature: {"address": "0x" + address.hex(), "signature": b64u_encode(signature)},
            omni=omni,
            epoch=epoch,
        )
        return pb.SignSiweResponse(sealed=sealed, row=row)

    def _parse(self, data: bytes, peer: Peer, op: Op) -> Cap:
        cap = self._checks.parse(data, peer, frozenset({Effect.SIGN}))
        if cap.request.op is not op:
            refuse(Reason.INVALID_CAP)
        return cap

    def _read_siwe(self, message: str) -> Mapping[str, str]:
        found = _SIWE.fullmatch(message)
        if found is None and "sign-free-text" in self._broken:
            return {"domain": "", "address": "0x" + bytes(20).hex()}
        if found is None or not is_checksum_address(found["address"]):
            refuse(Reason.INVALID_SIWE)
        try:
            for name in ("issued", "expires", "begins"):
                _unix(found[name])
        except ValueError:
            refuse(Reason.INVALID_SIWE)
        return found.groupdict()

    def _allow_siwe(self, name: str, found: Mapping[str, str]) -> None:
        host, now = self._policy.siwe.get(name), time.time()
        if host is None or found["domain"] != name or int(found["chain"]) not in host.chain_ids:
            refuse(Reason.POLICY_REFUSED)
        ends, begins, issued = (_unix(found[part]) for part in ("expires", "begins", "issued"))
        if ends is None or not now < ends <= now + host.max_lifetime_s or issued is None or issued > now + SKEW_S:
            refuse(Reason.POLICY_REFUSED)
        ours = "agentkeys:" in (found["uri"] + (found["resources"] or "")).lower()
        if ours or (begins is not None and begins > now):
            refuse(Reason.POLICY_REFUSED)

    def typed(self, asked: pb.SignTypedDataRequest, peer: Peer) -> pb.SignTypedDataResponse:
        """EIP-712 over typed data that policy allows."""
        cap = self._parse(asked.cap, peer, Op.TYPED_DATA_SIGN)
        document, wanted = self._body(cap, asked.typed_data)
        typed = read(document)
        rule = self._policy.typed.get(cap.request.service.name)
        allowed = rule is not None and rule.allows(typed)
        above = rule is not None and any(typed.message[name] > most for name, most in rule.most.items())
        k11 = allowed and above and "policy-without-k11" not in self._broken
        admitted = self._checks.admit(cap, replacing=False, k11=k11)
        if not allowed:
            refuse(Reason.POLICY_REFUSED)
        omni, epoch, address = self._wallet(admitted, wanted)
        digest, separator, type_hash = _hashes(document, typed)
        hashes = {"digest": digest.hex(), "domain_separator": separator.hex(), "type_hash": type_hash.hex()}
        sealed, row = self._sign(
            admitted,
            digest,
            words=None,  # no descriptors here
            answer=lambda signature: {
                "address": "0x" + address.hex(),
                "intent": None,
                "signature": b64u_encode(signature),
                **hashes,
            },
            omni=omni,
            epoch=epoch,
        )
        return pb.SignTypedDataResponse(
            sealed=sealed, digest=digest, domain_separator=separator, type_hash=type_hash, row=row
        )

    def _body(self, cap: Cap, body: bytes) -> tuple[Any, int | None]:
        if sha256(body) != cap.request.request_hash or len(body) > MAX_BODY:
            refuse(Reason.INVALID_BODY)
        try:
            members = json.loads(body)
            canonical = canonical_json(members) == body
        except (ValueError, KeyServiceError):
            refuse(Reason.INVALID_BODY)
        if not canonical or not isinstance(members, dict) or set(members) != {"typed_data", "wallet_epoch"}:
            refuse(Reason.INVALID_BODY)
        wanted = members["wallet_epoch"]
        if wanted is not None and (type(wanted) is not int or wanted < 1):
            refuse(Reason.INVALID_BODY)
        return members["typed_data"], wanted

    def address(self, actor: bytes) -> tuple[int, bytes]:
        """Epoch and address of an actor's wallet."""
        operator = self._operators.of_actor(actor)
        if operator is None:
            refuse(Reason.ACTOR_BINDING_MISMATCH)
        omni, epoch = self._of(operator, actor)
        return epoch, self._keys.address(epoch, omni)

    def _of(self, operator: Operator, actor: bytes) -> tuple[bytes, int]:
        """What the wallet's K4 comes from; a user who enrolled with a wallet of their own has none here."""
        if actor != operator.omni:
            return actor, operator.wallet_epochs[actor]
        if not operator.wallet_epoch:
            refuse(Reason.POLICY_REFUSED)
        return operator.identity, operator.wallet_epoch

    def _wallet(self, admitted: Asked, wanted: int | None = None) -> tuple[bytes, int, bytes]:
        """Omni, epoch and address of the wallet that is to sign."""
        omni, epoch = self._of(admitted.operator, admitted.request.actor_omni)
        if wanted is not None and wanted > self._keys.current:
            refuse(Reason.FUTURE_EPOCH, current_epoch=self._keys.current, server_time=int(time.time()))
        epoch = wanted or epoch
        if not self._keys.holds(epoch):
            refuse(Reason.EPOCH_NOT_HELD)
        return omni, epoch, self._keys.address(epoch, omni)

    def _sign(
        self,
        admitted: Asked,
        digest: bytes,
        *,
        words: str | None,
        answer: Callable[[bytes], Mapping[str, object]],
        omni: bytes,
        epoch: int,
    ) -> tuple[bytes, bytes]:
        """The sealed answer, and the row."""
        request = admitted.request
        used = self._memory.used[request.digest]
        if "sign" in used.spent and "no-burn" not in self._broken:
            raise KeyServiceError(Reason.CAP_REPLAYED)
        used.spent.add("sign")
        used.row = self._memory.record(request, intent_text=words, payload_digest=digest, epoch=epoch)
        signature = self._keys.wallet_sign(epoch, omni, digest)
        plain = canonical_json(dict(answer(signature)))
        bound = bytes(32) if "answer-unbound" in self._broken else request.digest
        return seal(request.reply_key, bound, plain), used.row


def _unix(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text.upper()).timestamp()


def _hashes(document: dict[str, Any], typed: Typed) -> tuple[bytes, bytes, bytes]:
    try:
        made = encode_typed_data(full_message=document)
    except Exception:  # whatever the library says of what it does not take
        refuse(Reason.INVALID_TYPED_DATA)
    return (
        keccak256(b"\x19" + made.version + made.header + made.body),
        bytes(made.header),
        keccak256(typed.type.encode()),
    )
