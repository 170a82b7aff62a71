"""Token buckets."""

import pytest

from signer.limits import Limits, Rate, TokenBuckets
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
    limits.charge_device(b"d")
    limits.charge_device(b"d")
    with refused("rate_limited"):
        limits.charge_device(b"d")
