"""What the console's own page sends: names with lists of text, and nothing else."""

from collections.abc import Mapping
from typing import Self

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.shapes import sequence, text
from device.errors import DeviceError, Trouble
from device.local_web import MAX_POST_BYTES


class Form:
    """One submitted form."""

    __slots__ = ("_members",)

    def __init__(self, members: Mapping[str, tuple[str, ...]]) -> None:
        self._members = members

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Raises `usage`."""
        try:
            found = strict_json(body, limit=MAX_POST_BYTES, reason=Reason.INVALID_BODY)
            if not isinstance(found, dict):
                raise DeviceError(Trouble.USAGE, "not a form")
            return cls(
                {
                    str(name): tuple(
                        text(value, "value", reason=Reason.INVALID_BODY)
                        for value in sequence(values, "values", reason=Reason.INVALID_BODY)
                    )
                    for name, values in found.items()
                }
            )
        except KeyServiceError as exc:
            raise DeviceError(Trouble.USAGE, "not a form") from exc

    def one(self, name: str) -> str:
        """The value of a field, without blanks around it; empty where there is none. Raises `usage` for several."""
        values = self._members.get(name, ())
        if len(values) > 1:
            raise DeviceError(Trouble.USAGE, f"{name} was given more than once")
        return values[0].strip() if values else ""

    def number(self, name: str, *, low: int, high: int) -> int:
        """A whole number. Raises `usage`."""
        text = self.one(name)
        if not text.isascii() or not text.isdigit() or len(text) > len(str(high)) or not low <= int(text) <= high:
            raise DeviceError(Trouble.USAGE, f"{name} is a number from {low} to {high}")
        return int(text)

    def many(self, name: str) -> tuple[str, ...]:
        """All values of a field."""
        return self._members.get(name, ())

    def words(self, name: str) -> tuple[str, ...]:
        """The words in a field, apart by blanks or commas."""
        return tuple(self.one(name).replace(",", " ").split())
