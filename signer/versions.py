"""The version rule of design section 4, pure: which store may follow which, and which version may still be read."""

from collections.abc import Callable

from agentkeys_core.errors import KeyServiceError, Reason
from signer.ledger import IssuedSalt, Versions


def check_expect(known: Versions | None, expect: bytes | None) -> None:
    """Return when `expect` is the cap digest of the current store, None where there is none.

    Raises:
        KeyServiceError: version_not_current.
    """
    if expect != (None if known is None else known.store):
        raise _not_current("the body expects another current store than there is")


def check_acknowledgement(
    known: Versions | None, issued: IssuedSalt | None, *, digest: bytes
) -> tuple[int, IssuedSalt]:
    """The object's id, and the salt that the store with this cap digest was issued; superseded ones are closed.

    Raises:
        KeyServiceError: version_not_current.
    """
    if known is None or issued is None or issued.store != digest or issued.number < known.current:
        raise _not_current("the salt of this store is closed")
    return known.object_id, issued


def check_read(
    known: Versions | None, issued: IssuedSalt | None, *, epoch: int, holds: Callable[[int], bool], guarded: bool
) -> bool:
    """Whether releasing this read makes a newer store current.

    A salt is released only for the object that it was issued for, at its own epoch, and never below the current store.
    Where replacing is `guarded` by K11, a newer store must have been issued to replace the current one: else a first
    store that lost its race, and that K11 never approved, could supersede the winner (docs/adr/0007). So must a
    re-wrapped one of any class: it holds an older value again.

    Raises:
        KeyServiceError: version_not_current, epoch_not_held.
    """
    if known is None or issued is None or issued.number < known.current:
        raise _not_current("the salt is not that of the current version of this object")
    if not holds(epoch):
        raise KeyServiceError(Reason.EPOCH_NOT_HELD, f"epoch {epoch} is not held")
    if issued.epoch != epoch:
        raise _not_current("the salt was issued at another epoch")
    newer = issued.number > known.current
    if newer and (guarded or issued.rewrap) and issued.expect != known.store:
        raise _not_current("this store was not issued to replace the current one")
    return newer


def check_rewrap(known: Versions | None, issued: IssuedSalt | None, *, epoch: int) -> tuple[Versions, IssuedSalt]:
    """The object and the salt of an envelope that holds the current version, or a copy of it that nobody read yet.

    No store becomes current by being re-wrapped: one that was not acknowledged stays as it is.

    Raises:
        KeyServiceError: version_not_current.
    """
    if known is None or issued is None or issued.epoch != epoch:
        raise _not_current("the salt is not that of the current version of this object")
    copy = issued.rewrap and issued.number > known.current and issued.expect == known.store
    if issued.number != known.current and not copy:
        raise _not_current("another version of this object is current")
    return known, issued


def check_legacy(known: Versions | None, *, dropped: bool) -> None:
    """Return where a legacy envelope may become the first version: nothing is current under that name or ever was.

    Raises:
        KeyServiceError: version_not_current.
    """
    if dropped or (known is not None and known.store is not None):
        raise _not_current("this name was stored or deleted since")


def _not_current(detail: str) -> KeyServiceError:
    return KeyServiceError(Reason.VERSION_NOT_CURRENT, detail)
