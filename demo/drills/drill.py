"""What a drill is: one real attempt, and the reason that it must get."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from demo.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """One attempt on a running world. It leaves the world as usable as it was, and needs no other drill before it.

    `attempt` returns what the thief got: a reason, or `LET THROUGH`. The system holds where that is `expected`.
    """

    title: str
    expected: str
    attempt: Callable[[World], str]

    @property
    def name(self) -> str:
        """The title as an identifier, for tests."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Drills by who was stolen."""

    title: str
    drills: tuple[Drill, ...]
