"""The only writer of the state file: one thread that gathers concurrent units into one durable transaction.

A unit is a function of a `Tx`. Units of one group share a transaction and its fsync; each runs inside its own
savepoint, so that a refusal undoes that unit alone. All state is read inside `BEGIN IMMEDIATE`, so several processes
may share the file. Nobody gets an answer before the commit; where that fails, the whole group gets
`journal_unavailable`.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from agentkeys_core.errors import KeyServiceError, Reason
from signer.adapters.database import BUSY_TIMEOUT_S, Database
from signer.adapters.transaction import Start, Tx
from signer.adapters.turn import Turn
from signer.journal import JournalLine, LineKind, sign_head
from signer.keyring import Keyring
from signer.ports import Clock

__all__ = ["CLOCK_TOLERANCE_S", "Committer", "Tx"]

T = TypeVar("T")

CLOCK_TOLERANCE_S: Final = 60
#: No job is added to a group that has so many units.
_MAX_GROUP: Final = 128
#: Under load the others of the last group are about to come again: waiting for them spares their share of a commit.
_GATHER_S: Final = 0.0001
_log = logging.getLogger(__name__)

_START: Final = """
SELECT seq, hash, clock_high_water, (SELECT value FROM meta WHERE key = 'k3_epoch'),
  (SELECT max(id) FROM rows), (SELECT max(id) FROM heads) FROM journal_head
"""

# Errors of one statement's data; every other database error says that the file or the disk is at fault.
_OWN_FAULTS: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)


class _Job(Generic[T]):
    """The units of one caller, which are never torn apart, and how each ended: what it returned, or raised."""

    __slots__ = ("done", "outcomes", "resets_clock", "units")

    def __init__(self, units: Sequence[Callable[[Tx], T]], *, resets_clock: bool = False) -> None:
        self.units = units
        self.resets_clock = resets_clock
        self.outcomes: list[T | Exception] = []
        self.done = threading.Lock()
        self.done.acquire()

    def wait(self) -> list[T | Exception]:
        """The outcomes, in the order of the units, once the committer is done with them."""
        self.done.acquire()
        return self.outcomes


class Committer:
    """Runs units, durably, on its own thread. Start it after a fork, never before one."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock
        self._conn = database.connect()
        self._turn = Turn(database.path)
        self._queue: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._purged_at = 0
        self._high_water = _high_water(self._conn)
        self._thread = threading.Thread(target=self._work, name="committer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish what was queued, then stop. Later units get journal_unavailable."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._conn.close()
        self._turn.close()

    def run(self, unit: Callable[[Tx], T]) -> T:
        """What `unit` returns, once all that it wrote is on disk.

        Raises what the unit raised (nothing of it is kept), clock_behind, or journal_unavailable when the group could
        not be committed within 1.5 s.
        """
        return _only(self._submit(_Job((unit,))))

    def run_all(self, units: Sequence[Callable[[Tx], T]]) -> list[T | Exception]:
        """What each unit returned or raised, in order, once all that they wrote is on disk by one commit.

        Each runs in its own savepoint, so one that raises undoes itself alone. Where the group cannot be committed,
        every unit has journal_unavailable or clock_behind.
        """
        return self._submit(_Job(units)).wait() if units else []

    def post(self, unit: Callable[[Tx], object]) -> None:
        """Have `unit` committed some time soon; nobody learns of a failure. For refusal lines only."""
        with suppress(KeyServiceError):
            self._submit(_Job((unit,)))

    def check_clock(self, now: float) -> None:
        """Return unless `now` (Unix seconds) lies 60 s behind the newest time that a commit recorded.

        Raises:
            KeyServiceError: clock_behind; journal_unavailable when the file cannot be asked.
        """
        if now >= self._high_water - CLOCK_TOLERANCE_S:
            return
        with self._database.reading() as conn:  # another process may have reset it
            self._high_water = _high_water(conn)
        if now < self._high_water - CLOCK_TOLERANCE_S:
            raise KeyServiceError(Reason.CLOCK_BEHIND, f"the clock is {self._high_water - int(now)} s behind")

    def reset_clock(self) -> None:
        """Set the high-water mark to the present clock, journalled.

        The caller must first have waited out the longest window: burns of the time that is given up may be gone.
        """

        def unit(tx: Tx) -> None:
            tx.journal(JournalLine(at=tx.now, kind=LineKind.HOST, method="reset-clock", caller="host"))

        _only(self._submit(_Job((unit,), resets_clock=True)))

    def _submit(self, job: _Job[T]) -> _Job[T]:
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("a unit cannot wait for another one: it would wait for ever")
        with self._closing:
            if self._closed:
                raise KeyServiceError(Reason.JOURNAL_UNAVAILABLE, "the signer is stopping")
            self._queue.put(job)  # type: ignore[arg-type]  # a job's result goes back to its own submitter only
        return job

    def _work(self) -> None:
        stopping = False
        jobs: list[_Job[object]] = []
        while not stopping:
            job = self._queue.get()
            if len(jobs) > 1:
                time.sleep(_GATHER_S)
            jobs, units = [], 0
            with suppress(queue.Empty):
                while job is not None:
                    jobs.append(job)
                    units += len(job.units)
                    if units >= _MAX_GROUP:
                        break
                    job = self._queue.get_nowait()
            stopping = job is None
            if jobs:
                self._commit(jobs)

    def _commit(self, jobs: list[_Job[object]]) -> None:
        """Run all jobs in one transaction and let every waiter go."""
        try:
            with self._turn.taken(BUSY_TIMEOUT_S):
                self._transact(jobs)
        except KeyServiceError as exc:
            self._fail(jobs, exc.reason, exc.detail)
        except Exception:  # noqa: BLE001  # whatever broke, every waiter must learn that nothing was recorded
            _log.exception("a group of %d could not be committed", len(jobs))
            self._fail(jobs, Reason.JOURNAL_UNAVAILABLE, "the journal cannot be written")
        finally:
            for job in jobs:
                job.done.release()

    def _transact(self, jobs: list[_Job[object]]) -> None:
        conn = self._conn
        conn.execute("BEGIN IMMEDIATE")
        sequence, head, high_water, epoch, last_row, last_chain = conn.execute(_START).fetchone()
        at = self._clock.now()
        now = int(at)
        if any(job.resets_clock for job in jobs):
            high_water = now
        if now < high_water - CLOCK_TOLERANCE_S:
            raise KeyServiceError(Reason.CLOCK_BEHIND, f"the clock is {high_water - now} s behind")
        start = Start(
            at=at, epoch=epoch, sequence=sequence, head=head, last_row=last_row or 0, last_chain=last_chain or 0
        )
        tx = Tx(conn, self._keyring, start)
        for job in jobs:
            for unit in job.units:
                job.outcomes.append(_attempt(tx, unit))
        kept = sum(not isinstance(outcome, Exception) for job in jobs for outcome in job.outcomes)
        if not kept:
            conn.execute("ROLLBACK")
            return
        tx.write()
        self._purge(now, kept)
        new_head = sign_head(self._keyring, sequence=tx.head[0], head_hash=tx.head[1], epoch=epoch)
        conn.execute(
            "UPDATE journal_head SET seq = ?, hash = ?, epoch = ?, mac = ?, clock_high_water = ?",
            (new_head.sequence, new_head.hash, new_head.epoch, new_head.mac, max(now, high_water)),
        )
        conn.execute("COMMIT")
        self._high_water = max(now, high_water)

    def _purge(self, now: int, units: int) -> None:
        """Forget a few caps whose burns need be kept no longer: at most twice what the group may have added."""
        if self._purged_at == now:
            return
        limit = 2 * units + 16
        deleted = self._conn.execute(
            "DELETE FROM caps WHERE digest IN"
            " (SELECT digest FROM caps WHERE keep_until < ? ORDER BY keep_until LIMIT ?)",
            (now, limit),
        ).rowcount
        if deleted < limit:
            self._purged_at = now

    def _fail(self, jobs: list[_Job[object]], reason: Reason, detail: str) -> None:
        """Undo the transaction; each waiter gets an exception of its own, since each thread raises it."""
        for job in jobs:
            job.outcomes = [KeyServiceError(reason, detail) for _ in job.units]
        if self._conn.in_transaction:
            with suppress(sqlite3.Error):
                self._conn.execute("ROLLBACK")


def _attempt(tx: Tx, unit: Callable[[Tx], object]) -> object:
    """What one unit returned or raised, run inside its savepoint; its own refusal or fault undoes it alone."""
    tx.begin_unit()
    try:
        result = unit(tx)
        tx.keep_unit()
    except sqlite3.DatabaseError as exc:
        if not isinstance(exc, _OWN_FAULTS):
            raise
        error: Exception = exc
    except Exception as exc:  # noqa: BLE001  # handed to the waiter as it is
        error = exc
    else:
        return result
    tx.drop_unit()
    return error


def _only(job: _Job[T]) -> T:
    (outcome,) = job.wait()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _high_water(conn: sqlite3.Connection) -> int:
    found: tuple[int] = conn.execute("SELECT clock_high_water FROM journal_head").fetchone()
    return found[0]
