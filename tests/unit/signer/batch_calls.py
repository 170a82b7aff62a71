"""Asking a service in batches, for the tests of batches."""

from collections.abc import Sequence
from typing import Any

from agentkeys_core.errors import KeyServiceError
from signer.batches import MAX_ITEMS, Batch
from signer.preparing import KeyRequest, RowRequest
from tests.unit.signer.world import CREDENTIALS, World


def batch_of(items: Sequence[Any], *, room: int = MAX_ITEMS, sizes: Sequence[int] | None = None) -> Batch[Any]:
    return Batch(items=items, sizes=sizes or [1] * len(items), room=room)


def derive(world: World, items: Sequence[KeyRequest], caller: Any = CREDENTIALS, **shape: Any) -> list[Any]:
    return world.service.derive_cred_kek_batch(caller, batch_of(items, **shape))


def sign(world: World, items: Sequence[RowRequest], caller: Any = CREDENTIALS, **shape: Any) -> list[Any]:
    return world.service.sign_audit_row_batch(caller, batch_of(items, **shape))


def reasons(outcomes: Sequence[Any]) -> list[str | None]:
    return [outcome.reason.value if isinstance(outcome, KeyServiceError) else None for outcome in outcomes]
