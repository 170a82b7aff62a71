"""Whose request it is: nobody chooses that for themselves, and a proxy that we trust does it for others."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_runtime.web.addresses import AddressLimits, Senders

PROXIES = ("10.0.0.7", "10.1.0.0/16", "fd00::/8")
HEADER = "x-forwarded-for"
PUBLIC = st.ip_addresses(v=4).filter(lambda address: address not in ipaddress.ip_network("10.0.0.0/8"))


def sender(peer: str, forwarded: str | None = None, **changed: object) -> str:
    given_limits = {"proxies": PROXIES} | changed
    headers = {} if forwarded is None else {HEADER: forwarded}
    return Senders(AddressLimits(**given_limits)).of(peer, headers)  # type: ignore[arg-type]  # the tests say what they change


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),  # the same host, on a socket that takes both
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),  # whoever has one address of a network has them all
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("64:ff9b::192.0.2.1", "192.0.2.1"),  # the same host, behind a NAT64
        ("64:ff9b::c000:202", "192.0.2.2"),
        ("64:ff9b:1::c000:202", "64:ff9b:1::/64"),
        ("", ""),
        ("/run/broker.sock", "/run/broker.sock"),
    ],
)
def test_a_sender_is_an_address_or_a_network(peer: str, expected: str) -> None:
    assert sender(peer) == expected


@given(
    peer=PUBLIC,
    forged=st.text(max_size=60) | st.lists(st.ip_addresses(), max_size=4).map(lambda found: ", ".join(map(str, found))),
)
def test_whoever_is_no_proxy_of_ours_names_nobody(peer: ipaddress.IPv4Address, forged: str) -> None:
    assert sender(str(peer), forged) == str(peer)
    assert sender(str(peer), forged, proxies=()) == str(peer)


@given(client=PUBLIC, forged=st.text(max_size=60))
def test_what_the_client_wrote_itself_does_not_count(client: ipaddress.IPv4Address, forged: str) -> None:
    """The proxy adds the address that it was asked from behind whatever came."""
    assert sender("10.0.0.7", f"{forged}, {client}") == str(client)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("192.0.2.9", "192.0.2.9"),
        ("203.0.113.5, 192.0.2.9", "192.0.2.9"),
        ("192.0.2.9, 10.1.2.3", "192.0.2.9"),  # two proxies of ours, one behind the other
        ("192.0.2.9,10.1.2.3,fd00::1", "192.0.2.9"),
        ("192.0.2.9:51234", "192.0.2.9"),
        ("[2001:db8::1]:443", "2001:db8::/64"),
        ("2001:db8::1", "2001:db8::/64"),
        ("10.1.2.3", "10.1.2.3"),  # asked by a proxy itself
        ("192.0.2.9, unknown", "10.0.0.7"),  # further left nobody vouches for anything
        ("", "10.0.0.7"),
        (None, "10.0.0.7"),
    ],
)
def test_a_proxy_of_ours_names_who_asked_it(forwarded: str | None, expected: str) -> None:
    assert sender("10.0.0.7", forwarded) == expected


def test_another_header_may_be_agreed_upon() -> None:
    senders = Senders(AddressLimits(proxies=("10.0.0.7",), header="X-Real-IP"))
    assert senders.of("10.0.0.7", {"x-real-ip": "192.0.2.9", HEADER: "192.0.2.1"}) == "192.0.2.9"


@pytest.mark.parametrize(
    "changed",
    [
        {"per_second": 0},
        {"per_second": float("nan")},
        {"burst": 9},
        {"remembered": 0},
        {"header": "X Forwarded"},
        {"header": ""},
        {
            "header": "Forwarded"
        },  # of another grammar (RFC 7239), which would name nobody: all the world were one sender
        {"header": "forwarded"},
        {"proxies": ("proxy.internal",)},
        {"proxies": ("10.0.0.1/8",)},  # host bits: which of the two was meant?
    ],
)
def test_settings_that_make_no_sense_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changed))):
        AddressLimits(**changed)  # type: ignore[arg-type]  # that is the point
