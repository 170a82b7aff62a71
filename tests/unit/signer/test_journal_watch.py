"""What a signer notices of its own journal's age, and what a client's word counts for."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeys_core.errors import KeyServiceError, Reason
from signer.adapters.journal_watch import JournalWatch, refuse_to_start
from signer.adapters.registry_stamp import SharedStamp
from signer.journal import StreamHead
from signer.keyring import Keyring
from tests.unit.signer.epochs import REGISTRY_ID, Deployment


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


def watch(made: Deployment, keyring: Keyring | None = None) -> JournalWatch:
    return JournalWatch(made.database, keyring or made.keyring, roll_back=refuse_to_start)


def rolled_back(call: Any) -> bool:
    with pytest.raises(KeyServiceError) as caught:
        call()
    return caught.value.reason is Reason.REGISTRY_ROLLED_BACK


def cut(made: Deployment, lines: int) -> None:
    """Take the newest lines away, and put the head back."""
    with closing(made.database.connect()) as conn:
        conn.execute("DELETE FROM journal WHERE seq > (SELECT max(seq) FROM journal) - ?", (lines,))
        conn.execute("UPDATE journal_head SET (seq, hash) = (SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1)")


def test_it_only_grows(made: Deployment) -> None:
    with watch(made) as watching:
        for _ in range(3):
            made.registry.note("status")
            watching.look()
        cut(made, 1)
        assert rolled_back(watching.look)
    assert rolled_back(lambda: watch(made))


def test_another_process_is_never_taken_for_a_rollback(made: Deployment) -> None:
    with watch(made) as one, watch(made) as two:
        for _ in range(20):
            made.registry.note("status")
            one.look()
            two.look()


def test_a_new_incarnation_begins_anew(made: Deployment) -> None:
    with watch(made) as watching:
        made.registry.note("status")
        watching.look()
        known = watching.head()
    cut(made, 1)
    made.committer.run(lambda tx: tx.conn.execute("UPDATE meta SET value = 9 WHERE key = 'incarnation'"))
    with watch(made) as watching:
        watching.check_known(known, caller="w")
        watching.check_known(replace(known, sequence=known.sequence + 9), caller="w")


def test_an_older_incarnation_put_back_is_noticed(made: Deployment) -> None:
    """Somebody put a state from before a restore back: by the stamp, and by whoever has met the newer one."""
    set_to = "UPDATE meta SET value = ? WHERE key = 'incarnation'"
    made.committer.run(lambda tx: tx.conn.execute(set_to, (9,)))
    with watch(made) as watching:
        known = watching.head()
    made.committer.run(lambda tx: tx.conn.execute(set_to, (1,)))
    assert rolled_back(lambda: watch(made))
    SharedStamp.path_beside(made.database.path, REGISTRY_ID).unlink()
    with watch(made) as watching:
        assert rolled_back(lambda: watching.check_known(known, caller="w"))


def test_a_client_that_knows_more_is_believed(made: Deployment) -> None:
    with watch(made) as watching:
        made.registry.note("status")
        known = watching.head()
        watching.check_known(known, caller="w")
        cut(made, 1)
        assert rolled_back(lambda: watching.check_known(known, caller="w"))
    assert rolled_back(lambda: watch(made)), "and the stamp keeps what it said"


def test_a_client_that_knows_another_line_is_believed(made: Deployment) -> None:
    """Put back, and gone on from there: as long as before, and not the same."""
    with watch(made) as watching:
        made.registry.note("status")
        known = watching.head()
        cut(made, 1)
        made.registry.note("seal")
        made.registry.note("seal")
        assert rolled_back(lambda: watching.check_known(known, caller="w"))


def test_an_older_vault_can_check_what_was_said_after_a_rotation(made: Deployment) -> None:
    """The head is under the oldest epoch's key: whoever puts vault and state back together is found out all the same."""
    older = Keyring({1: made.vault.open(made.unsealer)[1]})
    made.rotate()
    with watch(made) as watching:
        known = watching.head()
    assert known.epoch == 1
    cut(made, 1)
    stamp = SharedStamp.path_beside(made.database.path, REGISTRY_ID)
    stamp.unlink()
    with older, watch(made, older) as watching:
        assert rolled_back(lambda: watching.check_known(known, caller="w"))


heads = st.builds(
    StreamHead,
    sequence=st.integers(0, 2**63 - 1),
    hash=st.binary(max_size=40),
    epoch=st.integers(0, 2**32 - 1),
    mac=st.binary(max_size=40),
    incarnation=st.integers(0, 2**64 - 1),
)


@given(head=heads)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_lacks_our_mac_says_nothing(made: Deployment, head: StreamHead) -> None:
    with watch(made) as watching:
        watching.check_known(head, caller="w")
