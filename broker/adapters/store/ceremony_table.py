"""Ceremonies in the broker's database."""

from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, delete, insert, select, update

from broker.adapters.store.engine import transaction
from broker.adapters.store.tables import ceremonies
from broker.ports import Ceremony, CeremonyKind, CeremonyState

#: How long an ended ceremony can still be asked about, in seconds.
_KEPT_S = 3600


class SqlCeremonies:
    """Implements `broker.ports.Ceremonies`. Safe for threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, ceremony: Ceremony) -> None:
        """See the port."""
        with transaction(self._engine) as conn:
            conn.execute(delete(ceremonies).where(ceremonies.c.expires_at < ceremony.created_at - _KEPT_S))
            conn.execute(insert(ceremonies).values(_values(ceremony)))

    def find(self, ceremony_id: bytes) -> Ceremony | None:
        """See the port."""
        return self._one(ceremonies.c.id == ceremony_id)

    def by_secret(self, secret: bytes) -> Ceremony | None:
        """See the port."""
        return self._one(ceremonies.c.secret == secret)

    def move(self, ceremony: Ceremony, to: Ceremony) -> bool:
        """See the port."""
        as_known = (
            (ceremonies.c.id == ceremony.id)
            & (ceremonies.c.state == ceremony.state.value)
            & (ceremonies.c.secret == ceremony.secret)
            & (ceremonies.c.detail == ceremony.detail)
        )
        with transaction(self._engine) as conn:
            return conn.execute(update(ceremonies).where(as_known).values(_values(to))).rowcount == 1

    def _one(self, condition: ColumnElement[bool]) -> Ceremony | None:
        with transaction(self._engine) as conn:
            row = conn.execute(select(ceremonies).where(condition)).one_or_none()
        return None if row is None else _ceremony(row)


def _values(ceremony: Ceremony) -> dict[str, Any]:
    return {
        "id": ceremony.id,
        "kind": ceremony.kind.value,
        "state": ceremony.state.value,
        "device": ceremony.device,
        "secret": ceremony.secret,
        "created_at": ceremony.created_at,
        "expires_at": ceremony.expires_at,
        "detail": ceremony.detail,
    }


def _ceremony(row: Row[Any]) -> Ceremony:
    return Ceremony(
        id=bytes(row.id),
        kind=CeremonyKind(row.kind),
        state=CeremonyState(row.state),
        device=bytes(row.device),
        secret=bytes(row.secret),
        created_at=row.created_at,
        expires_at=row.expires_at,
        detail=bytes(row.detail),
    )
