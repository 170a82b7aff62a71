"""Parts that fail or are held up: the system would rather say no than guess."""

import sqlite3
import time
from contextlib import closing

from agentkeys_core.ops import Op
from demo.attacker import LET_THROUGH, genuine, present
from demo.drills.drill import Drill, Group
from demo.process import StackError
from demo.world import GRANTED, World

_SERVICE = f"cred:{GRANTED}"
#: A worker that has heard nothing of the registry for 5 s refuses; it beats every second.
_STALE_AFTER_S = 5.0
_RECOVERY_S = 15.0


def _answers_again(world: World) -> None:
    """Wait until a genuine fetch succeeds; a drill leaves the world usable."""
    deadline = time.monotonic() + _RECOVERY_S
    while (got := present(world.stack, genuine(world.agent, Op.CRED_FETCH, _SERVICE))) != LET_THROUGH:
        if time.monotonic() > deadline:
            raise StackError(f"no recovery after the drill: {got}")
        time.sleep(0.1)


def _stale_registry(world: World) -> str:
    captured = genuine(world.agent, Op.CRED_FETCH, _SERVICE)
    if (before := present(world.stack, captured)) != LET_THROUGH:
        return f"{before} before anything was held up"
    world.to_signer.hold()
    try:
        time.sleep(_STALE_AFTER_S + 0.3)
        got = present(world.stack, captured)
    finally:
        world.to_signer.pass_on()
    _answers_again(world)
    return got


def _locked_journal(world: World) -> str:
    captured = genuine(world.agent, Op.CRED_FETCH, _SERVICE)
    with closing(sqlite3.connect(world.stack.root / "signer" / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            got = present(world.stack, captured)
        finally:
            other.execute("ROLLBACK")
    _answers_again(world)
    return got


GROUP = Group(
    title="parts held up",
    drills=(
        Drill(
            title="a stale registry: the worker's stream held up for 5 s behind a proxy",
            expected="registry_stale",
            attempt=_stale_registry,
        ),
        Drill(
            title="a journal that cannot be written: its database locked by somebody else",
            expected="journal_unavailable",
            attempt=_locked_journal,
        ),
    ),
)
