"""Brings every stored object under the current key epoch: a host's command, beside a worker that goes on serving.

Each object is read, re-wrapped by the signer, written durably, and shown to the signer again, which then closes what
came before. A crash anywhere leaves an object that opens; run again, the walk goes on where something is left to do.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import OPS, ObjectClass, object_place

#: Pauses in seconds before the signer is asked again; whoever walks has time.
PAUSES_S: Final = (0.2, 1.0, 3.0)
_AGAIN: Final = frozenset(
    {Reason.RATE_LIMITED, Reason.OVERLOADED, Reason.SIGNER_UNREACHABLE, Reason.JOURNAL_UNAVAILABLE}
)
#: What speaks against one object; whatever else is refused speaks against all of them, and ends the walk.
_OF_THE_OBJECT: Final = frozenset(
    {
        Reason.CLASS_MISMATCH,
        Reason.EPOCH_NOT_HELD,
        Reason.INVALID_ENVELOPE,
        Reason.INVALID_OMNI,
        Reason.OBJECT_STORE_UNAVAILABLE,
        Reason.OPERATOR_FROZEN,
        Reason.TOO_LARGE,
        Reason.UNSUPPORTED_VERSION,
        Reason.VERSION_NOT_CURRENT,
    }
)


class Rewrapper(Protocol):
    """The signer, as far as the walk needs it."""

    def rewrap(self, *, object_class: ObjectClass, owner: bytes, service: str, envelope: bytes) -> bytes:
        """The envelope under the current epoch; the very same bytes where it is there already."""


class WalkedObjects(Protocol):
    """Objects of a folder, which the host itself may walk. Failures are `object_store_unavailable`."""

    def lock(self, path: str) -> AbstractContextManager[None]:
        """Keep every other writer of this object out, in this process and in others."""

    def read(self, path: str) -> bytes | None:
        """The object, None where there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Replace the object durably: after a crash it is the old one or the new one."""

    def paths(self, object_class: ObjectClass) -> Iterator[str]:
        """The path of every object of a class; those that appear or go meanwhile may be missed."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a walk did: counts, and why an object was left as it is, by path."""

    rewrapped: int = 0
    current: int = 0
    refused: dict[str, Reason] = field(default_factory=dict)


def rewrap_all(
    objects: WalkedObjects,
    signer: Rewrapper,
    object_class: ObjectClass,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Walk all objects of a class.

    Raises:
        KeyServiceError: window_closed and whatever else the rest of the walk would meet as well.
    """
    report = Report()
    for path in objects.paths(object_class):
        try:
            changed = _one(objects, signer, object_class, path, sleep)
        except KeyServiceError as error:
            if error.reason not in _OF_THE_OBJECT:
                raise
            report.refused[path] = error.reason
        else:
            report.rewrapped += changed
            report.current += not changed
    return report


def _one(
    objects: WalkedObjects, signer: Rewrapper, object_class: ObjectClass, path: str, sleep: Callable[[float], None]
) -> bool:
    """Whether the object had to be written anew. One that is gone meanwhile is as good as current."""
    owner, name = object_place(path)
    service = f"{_PREFIXES[object_class]}:{name}"

    def ask(envelope: bytes) -> bytes:
        for pause in PAUSES_S:
            try:
                return signer.rewrap(object_class=object_class, owner=owner, service=service, envelope=envelope)
            except KeyServiceError as error:
                if error.reason not in _AGAIN:
                    raise
            sleep(pause)
        return signer.rewrap(object_class=object_class, owner=owner, service=service, envelope=envelope)

    with objects.lock(path):
        before = objects.read(path)
        if before is None:
            return False
        wrapped = ask(before)
        if wrapped == before:
            return False
        objects.write(path, wrapped)
        try:
            ask(wrapped)  # closes what came before; until now that opens as well
        except KeyServiceError as error:
            if error.reason in _OF_THE_OBJECT:
                objects.write(path, before)
            raise
    return True


_PREFIXES: Final = {rule.object_class: rule.prefix for rule in OPS.values() if rule.object_class is not None}
