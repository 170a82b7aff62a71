"""Holds, pure: which cap has an object of the object store for itself (docs/adr/0008).

Workers share nothing but the signer, and a cloud session opens no lock and no read beside its one verb. So the session
of a store or delete is the lock: it holds its object until the cap's `SignAuditRow`, or for `HOLD_S`. A store without a
session, whose worker has a lock of its own, holds it against reads alone: they must not make an earlier, unacknowledged
store current that this one is about to overwrite.
"""

from dataclasses import dataclass

from agentkeys_core.errors import KeyServiceError, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The cap digest that holds an object, and until when, in Unix seconds."""

    digest: bytes
    until: float


def check_free(hold: Hold | None, digest: bytes, *, now: float) -> None:
    """Return unless another cap holds the object now.

    Raises:
        KeyServiceError: overloaded.
    """
    if hold is not None and hold.digest != digest and now < hold.until:
        raise KeyServiceError(Reason.OVERLOADED, "another request holds this object")


def check_still_held(hold: Hold | None, digest: bytes) -> None:
    """Return unless another cap took the object over: what it wrote may have replaced what this one wrote.

    Raises:
        KeyServiceError: version_not_current.
    """
    if hold is not None and hold.digest != digest:
        raise KeyServiceError(Reason.VERSION_NOT_CURRENT, "another request has held this object since")
