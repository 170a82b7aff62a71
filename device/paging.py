"""Answers that come in pages. Who sends them chooses how many there are, so they are bounded here."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from device.errors import DeviceError, Trouble

#: Half a million entries in pages of 500, which is about as many rows as an export may hold.
MAX_PAGES: Final = 1_000

Entry = TypeVar("Entry")
Cursor = TypeVar("Cursor", int, str)


def paged(
    ask: Callable[[Cursor | None], tuple[Sequence[Entry], Cursor | None]], *, limit: int
) -> Iterator[Sequence[Entry]]:
    """Yield page after page: `ask` is given where the one before ended, and returns entries and where these end.

    Every page but the last brings something and ends further on; none has more than `limit` entries.

    Raises:
        DeviceError: `answer_not_trusted` for any other, and for more than `MAX_PAGES` pages.
    """
    after: Cursor | None = None
    for _ in range(MAX_PAGES):
        entries, following = ask(after)
        if len(entries) > limit:
            raise _not_trusted(f"a page has more than the {limit} entries that were asked for")
        yield entries
        if following is None:
            return
        if not entries:
            raise _not_trusted("a page without entries is not the last one")
        if after is not None and following <= after:
            raise _not_trusted("the pages do not go forward")
        after = following
    raise _not_trusted(f"there are more than {MAX_PAGES} pages")


def _not_trusted(why: str) -> DeviceError:
    return DeviceError(Trouble.ANSWER_NOT_TRUSTED, why)
