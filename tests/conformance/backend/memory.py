"""Everything that the backend remembers: objects with their versions, caps that were used, rows in their chains."""

import secrets
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from agentkeys_core.audit import AuditEnvelope, AuditRow, OpBody, OpResult, row_hash
from agentkeys_core.captoken import CapRequest
from agentkeys_core.errors import Reason
from agentkeys_core.ops import ObjectClass
from tests.conformance.backend.breakages import Broken
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.refused import refuse


@dataclass(slots=True, kw_only=True)
class Version:
    """One salt: for which store it was drawn, and which store that one replaces."""

    salt: bytes
    epoch: int
    store: bytes
    expect: bytes | None
    rewrapped: bool = False
    closed: bool = False


@dataclass(slots=True)
class Stored:
    """One object: versions in the order of issue; `current` is the one in force."""

    versions: list[Version] = field(default_factory=list)
    current: Version | None = None

    @property
    def store(self) -> bytes | None:
        return None if self.current is None else self.current.store

    def find(self, salt: bytes) -> Version | None:
        return next((found for found in self.versions if found.salt == salt and not found.closed), None)

    def make_current(self, version: Version) -> None:
        for older in self.versions[: self.versions.index(version)]:
            older.closed = True
        self.current = version


@dataclass(slots=True)
class Used:
    """What became of one cap digest. `row` is that of its last release."""

    spent: set[str] = field(default_factory=set)
    row: bytes | None = None
    version: Version | None = None
    outcome: int | None = None
    outcome_row: bytes | None = None


Ref = tuple[bytes, ObjectClass, str]

#: How long the session of a store or delete holds its object, in seconds.
HOLD_S: Final = 20.0


class Memory:
    """State of one backend; whoever changes it holds the backend's lock."""

    def __init__(self, keys: Keys, broken: Broken) -> None:
        self._keys = keys
        self._broken = broken
        self.objects: dict[Ref, Stored] = {}
        self.dropped: set[Ref] = set()
        self.holds: dict[Ref, tuple[bytes, float]] = {}
        self.under_way: dict[Ref, tuple[bytes, float]] = {}
        self.used: defaultdict[bytes, Used] = defaultdict(Used)
        self.chains: defaultdict[bytes, list[AuditRow]] = defaultdict(list)
        self.log: list[tuple[bytes, AuditRow]] = []

    def check_free(self, ref: Ref, digest: bytes) -> None:
        """Nobody else holds the object now."""
        holder, until = self.holds.get(ref, (digest, 0.0))
        if holder != digest and time.monotonic() < until and "hold-ignored" not in self._broken:
            refuse(Reason.OVERLOADED)

    def hold(self, ref: Ref, digest: bytes) -> None:
        """Nobody else may change the object for a while."""
        self.check_free(ref, digest)
        self.holds[ref] = (digest, time.monotonic() + HOLD_S)

    def check_nothing_under_way(self, ref: Ref, store: bytes) -> None:
        """No other store has a key and may still write."""
        digest, until = self.under_way.get(ref, (store, 0.0))
        if digest != store and time.monotonic() < until and "under-way-ignored" not in self._broken:
            refuse(Reason.OVERLOADED)

    def begin(self, ref: Ref, digest: bytes) -> None:
        """That store has its key."""
        self.under_way[ref] = (digest, time.monotonic() + HOLD_S)

    def let_go(self, ref: Ref, digest: bytes) -> None:
        """End that cap's hold, and what it had under way."""
        for kept in (self.holds, self.under_way):
            if kept.get(ref, (b"", 0.0))[0] == digest:
                del kept[ref]

    def issue(self, ref: Ref, *, store: bytes, expect: bytes | None, rewrapped: bool = False) -> Version:
        """A new version of an object."""
        salt = bytes(32) if "fixed-salt" in self._broken else secrets.token_bytes(32)
        version = Version(salt=salt, epoch=self._keys.current, store=store, expect=expect, rewrapped=rewrapped)
        self.objects.setdefault(ref, Stored()).versions.append(version)
        return version

    def record(
        self,
        request: CapRequest,
        *,
        result: OpResult = OpResult.SUCCESS,
        version: Version | None = None,
        kind: int | None = None,
        epoch: int | None = None,
        **intent: Any,
    ) -> bytes:
        """Append the row of a request."""
        body = OpBody(
            cap=request.digest,
            req=request.request_hash,
            svc=request.service.text,
            epoch=epoch if version is None else version.epoch,
            salt=None if version is None else version.salt,
        )
        kind = request.rule.kind if kind is None else kind
        assert kind is not None
        return self.append(request.actor_omni, request.operator_omni, kind, body, result, **intent)

    def append(
        self,
        actor: bytes,
        operator: bytes,
        kind: int,
        body: OpBody,
        result: OpResult = OpResult.SUCCESS,
        **intent: Any,
    ) -> bytes:
        """Append a row to an actor's chain and return its bytes."""
        envelope = AuditEnvelope.compose(
            ts_unix=int(time.time()),
            actor_omni=actor,
            operator_omni=operator,
            op_kind=kind,
            op_body=body,
            result=result,
            **intent,
        )
        chain, epoch = self.chains[actor], self._keys.current
        last = bytes(32) if not chain or "unchained-rows" in self._broken else chain[-1].row_hash
        digest = row_hash(actor, last, len(chain), envelope.hash())
        row = AuditRow(
            actor=actor,
            envelope=envelope.encode(),
            epoch=epoch,
            kid=self._keys.public(epoch, "audit").kid,
            prev=last,
            row_hash=digest,
            seq=len(chain),
            sig=bytes(64) if "unsigned-rows" in self._broken else self._keys.es256_sign(epoch, "audit", digest),
        )
        chain.append(row)
        self.log.append((operator, row))
        return row.encode()
