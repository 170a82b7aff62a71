"""Objects of a user as workers ask for them; the other groups build on these steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.ops import Op
from tests.conformance.people import Device, MadeCap
from tests.conformance.site import CREDENTIALS, MEMORY, Site

#: What writes and what reads, by the class of the worker.
WRITES = {CREDENTIALS: Op.CRED_STORE, MEMORY: Op.MEMORY_PUT}
READS = {CREDENTIALS: Op.CRED_FETCH, MEMORY: Op.MEMORY_GET}
LISTS = {CREDENTIALS: (Op.CRED_LIST, "cred:list"), MEMORY: (Op.MEMORY_LIST, "memory:list")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A store: its cap, what was released for it, and the row that acknowledged it (empty: none did)."""

    cap: MadeCap
    released: signer_pb2.DeriveCredKekResponse
    row: bytes = b""


def released(site: Site, cap: MadeCap, client: str = CREDENTIALS, **more: Any) -> signer_pb2.DeriveCredKekResponse:
    """What the target releases for this cap."""
    found: signer_pb2.DeriveCredKekResponse = release(site, cap, client, **more)()
    return found


def release(site: Site, cap: MadeCap, client: str = CREDENTIALS, **more: Any) -> Callable[[], Any]:
    """The call that asks for a key."""
    request = signer_pb2.DeriveCredKekRequest(cap=cap.data, **more)
    return lambda: site.signer(client).DeriveCredKek(request)


def acknowledge(site: Site, cap: MadeCap, result: int = 0, client: str = CREDENTIALS) -> Callable[[], bytes]:
    """The call that records how it ended; returns the row."""
    request = signer_pb2.SignAuditRowRequest(cap=cap.data, result=result)
    return lambda: site.signer(client).SignAuditRow(request).row


def store(
    site: Site,
    user: Device,
    service: str = "cred:kept",
    *,
    client: str = CREDENTIALS,
    expect: bytes = b"",
    done: bool = True,
    touch: bool | None = None,
) -> Stored:
    """A new version of an object, acknowledged unless `done` is false; K11 approves where it replaces one."""
    cap = user.cap(WRITES[client], service, touch=bool(expect) if touch is None else touch)
    found = released(site, cap, client, expect=expect)
    row = acknowledge(site, cap, client=client)() if done else b""
    return Stored(cap=cap, released=found, row=row)


def fetch(
    site: Site, user: Device, stored: Stored, service: str = "cred:kept", *, client: str = CREDENTIALS, **more: Any
) -> Callable[[], Any]:
    """The call that asks for the key of a version that is stored."""
    fields = {"epoch": stored.released.epoch, "salt": stored.released.salt, **more}
    return release(site, user.cap(READS[client], service), client, **fields)


def delete(site: Site, user: Device, service: str = "cred:kept", *, client: str = CREDENTIALS) -> MadeCap:
    """A cap that deletes, not yet authorised."""
    return user.cap(Op.CRED_DELETE if client == CREDENTIALS else Op.MEMORY_DELETE, service)
