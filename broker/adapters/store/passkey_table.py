"""Passkeys in the broker's database."""

from typing import Final

from sqlalchemy import Engine, delete, select, update

from broker.adapters.store.engine import insert_into, transaction
from broker.adapters.store.tables import passkeys
from broker.ports import Passkey

#: How long a passkey that nobody uses is kept, in seconds.
KEPT_S: Final = 400 * 24 * 3600


class SqlPasskeys:
    """Implements `broker.ports.Passkeys`. Safe for threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, passkey: Passkey) -> bool:
        """See the port."""
        values = {name: getattr(passkey, name) for name in Passkey.__slots__}
        fresh = insert_into(self._engine, passkeys).values(values).on_conflict_do_nothing()
        with transaction(self._engine) as conn:
            conn.execute(delete(passkeys).where(passkeys.c.used_at < passkey.created_at - KEPT_S))
            return conn.execute(fresh.returning(passkeys.c.credential_id)).first() is not None

    def find(self, credential_id: bytes) -> Passkey | None:
        """See the port."""
        with transaction(self._engine) as conn:
            row = conn.execute(select(passkeys).where(passkeys.c.credential_id == credential_id)).one_or_none()
        if row is None:
            return None
        return Passkey(
            credential_id=bytes(row.credential_id),
            x=bytes(row.x),
            y=bytes(row.y),
            sign_count=row.sign_count,
            created_at=row.created_at,
            used_at=row.used_at,
        )

    def used(self, credential_id: bytes, *, sign_count: int, now: int) -> bool:
        """See the port."""
        grew = passkeys.c.sign_count < sign_count
        if sign_count == 0:  # an authenticator that does not count, and never did
            grew = passkeys.c.sign_count == 0
        this = (passkeys.c.credential_id == credential_id) & grew
        with transaction(self._engine) as conn:
            return conn.execute(update(passkeys).where(this).values(sign_count=sign_count, used_at=now)).rowcount == 1
