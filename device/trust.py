"""What makes an answer true: a row signed by an audit key of the issuer, about this very request or change."""

import hmac
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from agentkeys_core.audit import AuditEnvelope, AuditError, AuditRow, OpKind, OpResult
from agentkeys_core.audit_envelope import intent_commitment
from agentkeys_core.caprequest import CapRequest
from agentkeys_core.changes import (
    AddAgent,
    AddMaster,
    Change,
    Enrol,
    Freeze,
    RevokeDevice,
    RotateKey,
    SetRoles,
    SetScope,
    SetThreshold,
    Teardown,
    Unfreeze,
)
from agentkeys_core.checkpoint import Checkpoint
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.hashes import sha256
from agentkeys_core.keys import ES256PublicKey, parse_jwks
from agentkeys_core.ops import ObjectClass
from device.errors import DeviceError, Trouble
from device.home import Home

KEYS_FILE: Final = "audit-keys.json"
KEYS_PATH: Final = "/.well-known/agentkeys-audit-jwks.json"

_KINDS: Final[Mapping[type[Change], OpKind]] = {
    Enrol: OpKind.DEVICE_ADD,
    AddMaster: OpKind.DEVICE_ADD,
    AddAgent: OpKind.DEVICE_ADD,
    RotateKey: OpKind.K10_ROTATE,
    SetRoles: OpKind.ROLES_OR_THRESHOLD,
    SetThreshold: OpKind.ROLES_OR_THRESHOLD,
    RevokeDevice: OpKind.DEVICE_REVOKE,
    Freeze: OpKind.FREEZE,
    Unfreeze: OpKind.UNFREEZE,
}


def _not_trusted(why: str) -> DeviceError:
    return DeviceError(Trouble.ROW_NOT_TRUSTED, why)


def read_keys(data: bytes) -> dict[str, ES256PublicKey]:
    """Read a JWKS. Raises `keys_not_trusted` for anything else, and for an empty one."""
    try:
        keys = parse_jwks(data)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.KEYS_NOT_TRUSTED, f"the audit keys cannot be read: {exc}") from exc
    if not keys:
        raise DeviceError(Trouble.KEYS_NOT_TRUSTED, "there is no audit key")
    return keys


class AuditKeys:
    """The deployment's audit keys: kept here, fetched from the issuer at first use and for a key not seen yet."""

    __slots__ = ("_fetch", "_home", "_keys", "_missed")

    def __init__(self, home: Home, fetch: Callable[[], bytes]) -> None:
        self._home = home
        self._fetch = fetch
        self._missed: frozenset[str] = frozenset()
        stored = home.read(KEYS_FILE)
        try:
            self._keys = {} if stored is None else read_keys(stored)
        except DeviceError:
            self._keys = {}  # a damaged copy costs one more fetch and nothing else

    def refresh(self) -> None:
        """Fetch the keys anew and keep them. Raises `keys_not_trusted`, `peer_not_trusted` or `unreachable`."""
        data = self._fetch()
        self._keys = read_keys(data)
        self._home.write(KEYS_FILE, data)

    def verify(self, row: AuditRow) -> AuditEnvelope:
        """Return what a row says, once an audit key is proven to have signed it.

        Raises `row_not_trusted`, or as `refresh`.
        """
        try:
            return row.verify(self.all_for(row))
        except AuditError as exc:
            raise _not_trusted(f"a row is not signed as it should be ({exc.fault})") from exc
        except KeyServiceError as exc:
            raise _not_trusted(f"a row is malformed ({exc.reason})") from exc

    def all_for(self, *rows: AuditRow) -> Mapping[str, ES256PublicKey]:
        """Return the keys by kid, fetched anew where one of the rows names a key that is not here.

        Each rotation brings such a key. One that the issuer did not have when it was asked last is not asked for again.
        """
        unknown = {row.kid for row in rows} - self._keys.keys()
        if unknown - self._missed:
            self.refresh()
            self._missed = frozenset(unknown - self._keys.keys())
        return self._keys

    def verify_checkpoint(self, note: bytes, registry_id: str) -> Checkpoint:
        """Return the checkpoint of a note, once an audit key is proven to have signed it.

        Raises:
            KeyServiceError: as `Checkpoint.verify`; DeviceError as `refresh`.
        """
        with suppress(KeyServiceError):
            return Checkpoint.verify(note, registry_id, self._keys.values())
        self.refresh()  # a key of a new epoch may have signed it
        return Checkpoint.verify(note, registry_id, self._keys.values())


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise _not_trusted(f"the row is about another {what}")


def check_request_row(
    keys: AuditKeys, row: AuditRow, request: CapRequest, *, result: OpResult = OpResult.SUCCESS
) -> None:
    """Raise `row_not_trusted` unless the row is signed and records this request of ours, with this result."""
    content = keys.verify(row)
    body = content.op_body
    _expect(content.op_kind == request.rule.kind, "operation")
    _expect(body.cap is not None and hmac.compare_digest(body.cap, request.digest), "request")
    _expect(body.req == request.request_hash, "request body")
    _expect(body.svc == request.service.text, "service")
    _expect(content.actor_omni == request.actor_omni, "actor")
    _expect(content.operator_omni == request.operator_omni, "operator")
    _expect(content.result == result, "result")


def check_signing_row(keys: AuditKeys, row: AuditRow, *, intent: str | None, digest: bytes) -> None:
    """Raise `row_not_trusted` unless the row says these words of what was signed, and commits to both."""
    content = keys.verify(row)
    _expect(content.intent_text == intent, "meaning")
    commitment = None if intent is None else intent_commitment(intent, digest)
    _expect(content.intent_commitment == commitment, "payload")


#: What may have put a value where it is: a store, or for a credential the signer itself, from a legacy envelope.
_STORED_BY: Final[Mapping[ObjectClass, frozenset[int]]] = {
    ObjectClass.CREDENTIALS: frozenset({OpKind.CRED_STORE, OpKind.CRED_REWRAP}),
    ObjectClass.MEMORY: frozenset({OpKind.MEMORY_PUT}),
}


def check_stored_row(
    keys: AuditKeys, row: AuditRow, request: CapRequest, *, owner: bytes, body: bytes
) -> AuditEnvelope:
    """Return what the row says of the store that a read of ours gave: exactly these body bytes, stored for this owner.

    Only a row of `CRED_REWRAP` that names the value (`req`) counts: the signer writes `req` where it has opened a
    legacy envelope itself, never where it re-wrapped what a worker had sealed (docs/adr/0025).

    Raises:
        DeviceError: `row_not_trusted`.
    """
    content = keys.verify(row)
    kinds = frozenset() if request.rule.object_class is None else _STORED_BY[request.rule.object_class]
    _expect(content.op_kind in kinds, "operation than a store")
    _expect(content.op_body.svc == request.service.text, "service")
    _expect(content.operator_omni == request.operator_omni and content.actor_omni == owner, "owner")
    _expect(content.op_body.req == sha256(body), "value")
    _expect(content.result == OpResult.SUCCESS, "result")
    return content


def check_released(store: AuditRow, release: AuditRow) -> None:
    """Raise `row_not_trusted` unless the key that was released for a read is that of this very store.

    Both rows are verified already. The signer releases the current version's key only, and its row names the salt; so a
    genuine value that another store replaced, kept by a worker, is none of this read. Only a key of a later epoch may
    have another salt: what the store had sealed was re-wrapped since.
    """
    stored, released = store.content().op_body, release.content().op_body
    same = (stored.epoch, stored.salt) == (released.epoch, released.salt) and stored.salt is not None
    _expect(same or (stored.epoch or 0) < (released.epoch or 0), "version")


def change_kind(change: Change) -> OpKind:
    """The kind of row that a registry writes for a change of this command."""
    if isinstance(change, SetScope):
        return OpKind.SCOPE_GRANT if change.grant else OpKind.SCOPE_REVOKE
    if isinstance(change, Teardown):
        return OpKind.CRED_TEARDOWN if change.classes & ObjectClass.CREDENTIALS else OpKind.MEMORY_TEARDOWN
    return _KINDS[type(change)]


def check_change_row(keys: AuditKeys, row: AuditRow, change: Change, digest: bytes) -> None:
    """Raise `row_not_trusted` unless the row is signed and records this very change as applied."""
    content = keys.verify(row)
    _expect(content.op_kind == change_kind(change), "kind of change")
    _expect(content.op_body.change is not None and hmac.compare_digest(content.op_body.change, digest), "change")
    _expect(content.actor_omni == change.operator_omni == content.operator_omni, "operator")
    _expect(content.result == OpResult.SUCCESS, "result")
