"""Gathers concurrent calls into batches, without a thread of its own and without delay for whoever is alone.

The first caller of a group sends it for all, on its own thread: at once where no call is under way, else as soon as
one comes back, the group is full, or a millisecond has passed. The others wait for their own part of the answer.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from agentkeys_core.errors import KeyServiceError, Reason

#: The longest that a call waits for company, in seconds.
COMPANY_S: Final = 0.001
#: A quarter of what the signer takes: the last of a large batch waits for all before it.
MAX_GATHERED: Final = 64
MAX_GATHERED_BYTES: Final = 1024 * 1024
#: Calls that wait for an answer or for company, in all groups; more are refused at once.
MAX_WAITING: Final = 256

Q = TypeVar("Q")
A = TypeVar("A")


class _Group(Generic[Q, A]):
    """Questions that go together. `deadline` is the earliest of their callers', in seconds of the monotonic clock."""

    __slots__ = ("answered", "answers", "deadline", "questions", "size")

    def __init__(self, deadline: float) -> None:
        self.questions: list[Q] = []
        self.answers: Sequence[A | KeyServiceError] = ()
        self.answered = threading.Event()
        self.deadline = deadline
        self.size = 0


class Gatherer(Generic[Q, A]):
    """Asks for one question or many. Safe for many threads; there is nothing to close."""

    def __init__(
        self,
        *,
        one: Callable[[Q, float], A],
        many: Callable[[Sequence[Q], float], Sequence[A | KeyServiceError]],
        size: Callable[[Q], int],
        company_s: float = COMPANY_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Take how a single question is asked, how several are, both by a deadline, and how many bytes one has."""
        self._one = one
        self._many = many
        self._size = size
        self._company_s = company_s
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._open: _Group[Q, A] | None = None
        self._under_way = 0
        self._waiting = 0

    def ask(self, question: Q, *, deadline: float) -> A:
        """The answer to this very question; `deadline` is of the monotonic clock.

        Raises:
            KeyServiceError: what the single call would raise; overloaded where too many wait.
        """
        with self._changed:
            if self._waiting >= self._max_waiting:
                raise KeyServiceError(Reason.OVERLOADED, "too many calls wait for the signer")
            self._waiting += 1
            group, number = self._join(question, deadline)
            if number == 0:
                self._changed.wait_for(lambda: self._open is not group or not self._under_way, self._company_s)
                if self._open is group:
                    self._open = None
                self._under_way += 1
        try:
            if number == 0:
                self._send(group)
            else:
                group.answered.wait()
        finally:
            with self._changed:
                self._waiting -= 1
        answer = group.answers[number]
        if isinstance(answer, KeyServiceError):
            raise answer
        return answer

    def _join(self, question: Q, deadline: float) -> tuple[_Group[Q, A], int]:
        """Put the question into the open group; the first of a new one leads it."""
        size = self._size(question)
        group = self._open
        full = group is not None and (len(group.questions) >= MAX_GATHERED or group.size + size > MAX_GATHERED_BYTES)
        if group is None or full:
            group = self._open = _Group(deadline)
            if full:
                self._changed.notify_all()  # the leader of the full one
        group.questions.append(question)
        group.size += size
        group.deadline = min(group.deadline, deadline)
        return group, len(group.questions) - 1

    def _send(self, group: _Group[Q, A]) -> None:
        """Ask, and let everyone who waits for the group go on, whatever happens."""
        failure = KeyServiceError(Reason.INTERNAL, "the call for the whole group broke")
        try:
            group.answers = self._answers(group)
        except KeyServiceError as error:
            failure = error
        finally:
            if not group.answers:  # an exception of their own, since each thread raises it
                group.answers = [
                    KeyServiceError(failure.reason, failure.detail, metadata=failure.metadata, row=failure.row)
                    for _ in group.questions
                ]
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()
            group.answered.set()

    def _answers(self, group: _Group[Q, A]) -> Sequence[A | KeyServiceError]:
        questions = group.questions
        if len(questions) == 1:
            return [self._one(questions[0], group.deadline)]
        answers = self._many(questions, group.deadline)
        if len(answers) != len(questions):
            raise KeyServiceError(Reason.INTERNAL, f"{len(answers)} answers to {len(questions)} questions")
        return answers
