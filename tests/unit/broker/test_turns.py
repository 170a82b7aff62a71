"""Who is next: networks take turns, a site has half of the places, and what waits is bounded for each."""

import pytest

from broker.networks import site_of
from broker.turns import MAX_OF_NETWORK, MAX_OF_SITE, MAX_WAITING, Turns


def order(turns: Turns[str]) -> list[str]:
    """What is handed out where one item is out at a time."""
    found = []
    while (taken := turns.take()) is not None:
        network, item = taken
        found.append(item)
        turns.back(network)
    return found


def test_networks_take_turns_and_each_keeps_its_order() -> None:
    turns = Turns[str](places=1)
    for network, items in (("192.0.2.1", "abcd"), ("192.0.2.2", "ef"), ("2001:db8::/64", "g")):
        assert all(turns.add(network, item) for item in items)
    assert order(turns) == list("aegbfcd")


def test_whoever_comes_late_waits_for_one_item_of_each() -> None:
    turns = Turns[str](places=1)
    for item in "abc":
        turns.add("192.0.2.1", item)
    turns.take()
    turns.add("192.0.2.2", "z")
    turns.back("192.0.2.1")
    assert order(turns) == list("bzc")


def test_of_one_network_one_item_is_out_at_once() -> None:
    turns = Turns[str](places=4)
    for item in "ab":
        turns.add("192.0.2.1", item)
    assert turns.take() == ("192.0.2.1", "a")
    assert turns.take() is None
    turns.back("192.0.2.1")
    assert turns.take() == ("192.0.2.1", "b")


def test_one_site_has_half_of_the_places() -> None:
    turns = Turns[str](places=4)
    for number in range(1, 5):
        assert turns.add(f"2001:db8:1:{number}::/64", f"theirs{number}")
    turns.add("2001:db8:2::/64", "ours")
    assert [turns.take() for _ in range(4)] == [
        ("2001:db8:1:1::/64", "theirs1"),
        ("2001:db8:1:2::/64", "theirs2"),
        ("2001:db8:2::/64", "ours"),
        None,
    ]
    assert turns.out == 3


def test_what_waits_is_bounded_for_each() -> None:
    turns = Turns[int](places=1)
    assert [turns.add("192.0.2.1", n) for n in range(MAX_OF_NETWORK + 1)] == [True] * MAX_OF_NETWORK + [False]
    site = [turns.add(f"2001:db8:1:{n:x}::/64", n) for n in range(MAX_OF_SITE + 1)]
    assert site == [True] * MAX_OF_SITE + [False]
    left = MAX_WAITING - MAX_OF_NETWORK - MAX_OF_SITE
    assert [turns.add(f"10.0.0.{n}", n) for n in range(left + 1)] == [True] * left + [False]
    assert turns.clear() == MAX_WAITING
    assert turns.add("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("client", "site"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("2001:db8:1:ffff::/64", "2001:db8:1::/48"),
        ("2001:db8:2::/64", "2001:db8:2::/48"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_a_site_is_an_ipv4_address_or_an_ipv6_48(client: str, site: str) -> None:
    assert site_of(client) == site
