"""Token buckets."""

import pytest

from signer.limits import Limits, Rate, Recent, TokenBuckets
from tests.fakes.clock import StillClock
from tests.unit.core.refusal import refused


@pytest.fixture
def clock():
    return StillClock(100.0)


def test_a_burst_then_the_rate(clock):
    buckets = TokenBuckets(Rate(per_s=2.0, burst=3.0), clock.now)
    assert [buckets.allows("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.allows("b")
    clock.forward(0.5)
    assert [buckets.allows("a") for _ in range(2)] == [True, False]
    clock.forward(1000)
    assert [buckets.allows("a") for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing(clock):
    buckets = TokenBuckets(Rate(per_s=2.0, burst=1.0), clock.now)
    assert buckets.allows("a")
    clock.forward(-50)
    assert not buckets.allows("a")


def test_the_least_recently_used_bucket_goes_first(clock):
    buckets = TokenBuckets(Rate(per_s=0.001, burst=1.0), clock.now, capacity=2)
    for key in ("a", "b", "a", "c"):
        buckets.allows(key)
    assert not buckets.allows("a")
    assert buckets.allows("b")


def test_certificates_and_devices_are_charged_apart(clock):
    limits = Limits(certificate=Rate(per_s=1, burst=1), device=Rate(per_s=1, burst=2), monotonic=clock.now)
    limits.charge_certificate("f")
    with refused("rate_limited"):
        limits.charge_certificate("f")
    limits.charge_certificate("g")
    limits.charge_device(b"d", b"1")
    limits.charge_device(b"d", b"2")
    with refused("rate_limited"):
        limits.charge_device(b"d", b"3")


def test_a_request_is_charged_once_however_often_it_is_sent(clock):
    limits = Limits(certificate=Rate(per_s=1, burst=1), device=Rate(per_s=1, burst=2), monotonic=clock.now)
    for _ in range(100):
        limits.charge_device(b"d", b"1")
    limits.charge_device(b"d", b"2")
    for _ in range(2):
        with refused("rate_limited"):
            limits.charge_device(b"d", b"3")
    limits.charge_device(b"d", b"2")


def test_at_least_so_many_of_the_last_requests_are_remembered_and_at_most_twice_as_many():
    recent = Recent(3)
    names = [bytes([number]) * 32 for number in range(20)]
    for number, name in enumerate(names):
        assert not recent.has(name)
        recent.add(name)
        last = [recent.has(known) for known in names[: number + 1]]
        assert all(last[-3:])
        assert last.count(True) <= 6
