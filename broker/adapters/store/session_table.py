"""Sessions in the broker's database."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, delete, insert, select, update

from broker.adapters.store.engine import transaction
from broker.adapters.store.tables import sessions
from broker.ports import Session, SignInMethod


class SqlSessions:
    """Implements `broker.ports.Sessions`. Safe for threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, session: Session, *, keep: int) -> None:
        """See the port."""
        values = {
            "id": session.id,
            "device": session.device,
            "operator": session.operator,
            "actor": session.actor,
            "method": session.method.value,
            "created_at": session.created_at,
            "expires_at": session.expires_at,
        }
        with transaction(self._engine) as conn:
            conn.execute(delete(sessions).where(sessions.c.expires_at < session.created_at))
            mine = (sessions.c.operator == session.operator) & (sessions.c.device == session.device)
            conn.execute(delete(sessions).where(mine & sessions.c.revoked_at.is_not(None)))
            kept = (
                select(sessions.c.id)
                .where(mine)
                .order_by(sessions.c.created_at.desc(), sessions.c.id)
                .limit(keep - 1)
                .scalar_subquery()
            )
            conn.execute(delete(sessions).where(mine & sessions.c.id.not_in(kept)))
            conn.execute(insert(sessions).values(values))

    def find(self, session_id: bytes) -> Session | None:
        """See the port."""
        with transaction(self._engine) as conn:
            row = conn.execute(select(sessions).where(sessions.c.id == session_id)).one_or_none()
        return None if row is None else _session(row)

    def of_operator(self, operator: bytes, *, device: bytes | None, now: int) -> Sequence[Session]:
        """See the port."""
        theirs = _of(operator, device) & (sessions.c.expires_at > now) & sessions.c.revoked_at.is_(None)
        query = select(sessions).where(theirs).order_by(sessions.c.created_at.desc())
        with transaction(self._engine) as conn:
            return [_session(row) for row in conn.execute(query)]

    def revoke(self, session_id: bytes, *, operator: bytes, device: bytes | None, now: int) -> bool:
        """See the port."""
        mine = (sessions.c.id == session_id) & _of(operator, device) & sessions.c.revoked_at.is_(None)
        with transaction(self._engine) as conn:
            return conn.execute(update(sessions).where(mine).values(revoked_at=now)).rowcount == 1


def _of(operator: bytes, device: bytes | None) -> ColumnElement[bool]:
    theirs = sessions.c.operator == operator
    return theirs if device is None else theirs & (sessions.c.device == device)


def _session(row: Row[Any]) -> Session:
    return Session(
        id=bytes(row.id),
        device=bytes(row.device),
        operator=bytes(row.operator),
        actor=bytes(row.actor),
        method=SignInMethod(row.method),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
