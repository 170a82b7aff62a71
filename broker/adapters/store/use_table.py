"""Last uses of devices in the broker's database."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Engine, select

from broker.adapters.store.engine import insert_into, transaction
from broker.adapters.store.tables import device_uses
from broker.ports import DeviceUse


class SqlDeviceUses:
    """Implements `broker.ports.DeviceUses`. Safe for threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep(self, uses: Sequence[DeviceUse]) -> None:
        """See the port."""
        if not uses:
            return
        insert = insert_into(self._engine, device_uses)
        newer = insert.on_conflict_do_update(
            index_elements=[device_uses.c.device],
            set_={"used_at": insert.excluded.used_at},
            where=device_uses.c.used_at < insert.excluded.used_at,
        )
        # In the order of keys: two processes that write the same rows must not wait for one another crosswise.
        rows = [use._asdict() for use in sorted(uses)]
        with transaction(self._engine) as conn:
            conn.execute(newer, rows)

    def of_operator(self, operator: bytes) -> Mapping[bytes, int]:
        """See the port."""
        query = select(device_uses.c.device, device_uses.c.used_at).where(device_uses.c.operator == operator)
        with transaction(self._engine) as conn:
            return {bytes(row.device): row.used_at for row in conn.execute(query)}
