"""Refusals are recorded, and cannot fill the journal."""

import secrets

import pytest

from agentkeys_core.errors import Reason
from agentkeys_core.ops import Op
from signer.refusals import DISK_RESERVE_BYTES, Refusals
from tests.unit.core.refusal import refused
from tests.unit.signer.world import CREDENTIALS, digest_of, world_in

NAME = "cred:openrouter"


@pytest.fixture
def world(tmp_path):
    with world_in(tmp_path) as made:
        yield made


def refusal_lines(world):
    return [line for line in world.lines() if line["kind"] == "refusal"]


def forge(world):
    with refused("device_signature_invalid"):
        world.derive(world.signed(world.request(Op.CRED_STORE, NAME), device_signature=secrets.token_bytes(64)))


def test_unproven_requests_are_counted_one_line_a_minute(world):
    for _ in range(20):
        forge(world)
    with refused("non_canonical_cap"):
        world.service.derive_cred_kek(CREDENTIALS, b"")
    assert refusal_lines(world) == []
    world.clock.forward(60)
    forge(world)
    lines = refusal_lines(world)
    assert [(line["reason"], line["count"], line["cap"]) for line in lines] == [
        ("device_signature_invalid", 20, None),
        ("non_canonical_cap", 1, None),
    ]
    assert {(line["caller"], line["method"]) for line in lines} == {(CREDENTIALS.fingerprint, "DeriveCredKek")}
    world.refusals.flush()
    assert refusal_lines(world)[-1]["count"] == 1


def test_proven_requests_get_a_line_each_and_no_row(world):
    cap = world.cap(Op.CRED_FETCH, NAME, touch=False)
    for _ in range(2):
        with refused("k11_required"):
            world.derive(cap, epoch=1, salt=bytes(32))
    lines = refusal_lines(world)
    assert [(line["reason"], line["cap"]) for line in lines] == [("k11_required", digest_of(cap).hex())] * 2
    assert world.count("rows") == 0


def test_refusals_inside_the_transaction_are_recorded_too(world):
    world.store()
    with refused("version_not_current"):
        world.derive(world.cap(Op.CRED_FETCH, NAME), epoch=1, salt=bytes(32))
    assert [line["reason"] for line in refusal_lines(world)] == ["version_not_current"]


def test_lines_of_proven_requests_are_limited_and_then_counted(world):
    cap = world.cap(Op.CRED_FETCH, NAME, touch=False)
    for _ in range(80):
        with refused("k11_required"):
            world.derive(cap, epoch=1, salt=bytes(32))
    written = len(refusal_lines(world))
    assert 50 <= written < 80
    world.refusals.flush()
    assert refusal_lines(world)[-1]["count"] == 80 - written


def test_the_last_of_the_disk_belongs_to_releases(world):
    world.free_bytes = DISK_RESERVE_BYTES - 1
    with refused("k11_required"):
        world.derive(world.cap(Op.CRED_FETCH, NAME, touch=False), epoch=1, salt=bytes(32))
    forge(world)
    world.refusals.flush()
    assert refusal_lines(world) == []
    stored, _ = world.store()
    assert world.fetch(stored).key == stored.key
    world.free_bytes = DISK_RESERVE_BYTES
    forge(world)
    world.refusals.flush()
    assert len(refusal_lines(world)) == 1


def test_many_different_refusals_are_counted_together(world):
    for number in range(5000):
        world.refusals.early(caller=str(number), method="M", reason=Reason.ROLE_NOT_ALLOWED)
    world.refusals.flush()
    lines = refusal_lines(world)
    assert len(lines) == 4097
    assert (lines[-1]["caller"], lines[-1]["count"]) == ("other callers", 904)


def test_closing_writes_what_was_counted(world):
    world.refusals.start()
    world.refusals.early(caller="c", method="M", reason=Reason.CERTIFICATE_REVOKED)
    world.refusals.close()
    assert [(line["reason"], line["count"]) for line in refusal_lines(world)] == [("certificate_revoked", 1)]


def test_each_minute_is_flushed_without_calls(world):
    class Soon:
        def now(self):
            return 59.99

    refusals = Refusals(world.committer, Soon(), free_bytes=lambda: world.free_bytes, monotonic=world.clock.now)
    refusals.early(caller="c", method="M", reason=Reason.CERTIFICATE_REVOKED)
    refusals.start()
    for _ in range(500):
        if refusal_lines(world):
            break
    refusals.close()
    assert len(refusal_lines(world)) == 1


def test_what_says_that_the_journal_is_shut_is_not_written_to_it(world):
    world.clock.forward(1000)
    world.settle()
    world.clock.forward(-500)
    with refused("clock_behind"):
        world.derive(world.cap(Op.CRED_STORE, NAME))
    world.clock.forward(500)
    world.refusals.flush()
    assert refusal_lines(world) == []
