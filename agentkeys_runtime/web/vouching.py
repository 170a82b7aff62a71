"""Refusals that nobody hears but a registered device: said where that is known, as a reason alone does not tell it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason

#: What gives nobody a price back: a revoked device is a stranger, what was sent before may be anybody's copy, and who
#: asked too much has had their share.
_NEVER: Final = frozenset(
    {
        Reason.CAP_REPLAYED,
        Reason.DEVICE_REVOKED,
        Reason.DEVICE_UNKNOWN,
        Reason.OVERLOADED,
        Reason.RATE_LIMITED,
    }
)


@contextmanager
def vouching() -> Iterator[None]:
    """For what is done once a device's signature was verified: what it is refused here gives its price back."""
    try:
        yield
    except KeyServiceError as error:
        error.vouched = error.reason not in _NEVER
        raise
