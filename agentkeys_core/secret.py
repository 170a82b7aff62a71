"""The type of key material in memory."""

from types import TracebackType
from typing import Final, Never, Self

_REFUSAL: Final = "a Secret is never serialised, copied or compared"


class Secret:
    """Owns one buffer of key material, wiped at the end of its `with` block (at the latest when it is collected).

    It never prints, pickles, copies or compares itself. Wiping is best effort: Python may have copied the bytes before
    they came here, and `reveal` makes a copy that nothing wipes; prefer `view`, which many libraries read in place.
    """

    __slots__ = ("_buffer", "_wiped")

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._wiped = False

    @classmethod
    def take(cls, buffer: bytearray) -> Self:
        """Own `buffer` itself, not a copy: the caller must not keep using it."""
        return cls(buffer)

    @classmethod
    def copy_of(cls, material: bytes) -> Self:
        """Own a copy of `material`, for sources that only give immutable bytes; those bytes are not wiped."""
        return cls(bytearray(material))

    def view(self) -> memoryview:
        """A read-only view of the living bytes.

        It shows zeros after `wipe`; release it, or let it go out of scope, before then.

        Raises:
            ValueError: the secret was wiped, so that nothing is ever encrypted under a key of zeros.
        """
        if self._wiped:
            raise ValueError("this Secret was wiped")
        return memoryview(self._buffer).toreadonly()

    def reveal(self) -> bytes:
        """A copy as immutable bytes, for libraries that take nothing else. Nothing wipes it.

        Raises:
            ValueError: the secret was wiped.
        """
        return bytes(self.view())

    def wipe(self) -> None:
        """Overwrite the bytes with zeros; a second call changes nothing."""
        self._buffer[:] = bytes(len(self._buffer))
        self._wiped = True

    @property
    def wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._wiped

    def __len__(self) -> int:
        return len(self._buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __del__(self) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "<Secret>"

    def __eq__(self, other: object) -> Never:
        raise TypeError(_REFUSAL)

    def __hash__(self) -> Never:
        raise TypeError(_REFUSAL)

    def __copy__(self) -> Never:
        raise TypeError(_REFUSAL)

    def __deepcopy__(self, memo: object) -> Never:
        raise TypeError(_REFUSAL)

    def __reduce__(self) -> Never:  # slots alone still pickle
        raise TypeError(_REFUSAL)
