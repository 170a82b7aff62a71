"""Counts by name and minute, and what may be used once. Each call is one transaction, for threads and processes."""

import threading
from typing import Final

from sqlalchemy import Engine, delete

from broker.adapters.store.engine import forgetful, insert_into, transaction
from broker.adapters.store.tables import counts, redeemed

_PURGE_EVERY_S: Final = 10


class _Purge:
    """Says when old rows are to be forgotten: not at each call, and never later than at the next one after a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = 0

    def is_due(self, now: int) -> bool:
        with self._lock:
            if now - self._at < _PURGE_EVERY_S:
                return False
            self._at = now
            return True


class SqlCounters:
    """Implements `broker.ports.Counters`. A count that a power cut loses lets nobody in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = forgetful(engine)
        self._purge = _Purge()

    def count(self, name: bytes, *, until: int, limit: int, now: int) -> bool:
        """See the port."""
        statement = insert_into(self._engine, counts).values(name=name, until=until, n=1)
        statement = statement.on_conflict_do_update(
            index_elements=[counts.c.name, counts.c.until], set_={"n": counts.c.n + 1}, where=counts.c.n < limit
        )
        with transaction(self._engine) as conn:
            if self._purge.is_due(now):
                conn.execute(delete(counts).where(counts.c.until <= now))
            return conn.execute(statement.returning(counts.c.n)).first() is not None


class SqlRedemptions:
    """Implements `broker.ports.Redemptions`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._purge = _Purge()

    def redeem(self, value: bytes, *, expires_at: int, now: int) -> bool:
        """See the port."""
        statement = insert_into(self._engine, redeemed).values(value=value, expires_at=expires_at)
        with transaction(self._engine) as conn:
            if self._purge.is_due(now):
                conn.execute(delete(redeemed).where(redeemed.c.expires_at < now))
            fresh = statement.on_conflict_do_nothing().returning(redeemed.c.value)
            return conn.execute(fresh).first() is not None
