"""EIP-4361: what is a sign-in message and what only looks like one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeys_core.checksum import checksum_decode, checksum_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import eip191_digest
from agentkeys_core.siwe import MAX_MESSAGE_BYTES, MAX_RESOURCES, Instant, SiweMessage
from agentkeys_core.uri import is_authority, is_pchars, is_scheme, is_uri, scheme_of
from tests.unit.core.refusal import refused
from tests.unit.core.vectors import cases

ADDRESS = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
FULL = f"""\
https://example.com:3388 wants you to sign in with your Ethereum account:
{ADDRESS}

I accept the ExampleOrg Terms of Service: https://example.com/tos

URI: https://example.com/login?x=1#top
Version: 1
Chain ID: 1
Nonce: 32891756aB
Issued At: 2021-09-30T16:25:24Z
Expiration Time: 2021-09-30T17:25:24.5+01:00
Not Before: 2021-09-30t16:25:24z
Request ID: some-id%20:@!
Resources:
- ipfs://bafybeiemxf5abjwjbikoz4mc3a3dla6ual3jsgpdr4cjr3oz3evfyavhwq/
- https://example.com/my-web2-claim.json"""
SHORT = f"""\
example.com wants you to sign in with your Ethereum account:
{ADDRESS}


URI: https://example.com
Version: 1
Chain ID: 137
Nonce: 12345678
Issued At: 2021-09-30T16:25:24Z"""


@pytest.mark.parametrize(("given_", "expect"), cases("siwe"))
def test_vectors(given_: dict[str, Any], expect: dict[str, Any]) -> None:
    message = SiweMessage.parse(given_["message"])
    assert message.encode() == given_["message"]
    assert "0x" + message.address.hex() == expect["address"]
    assert eip191_digest(message.encode().encode()).hex() == expect["eip191_digest"]


def test_reads_every_member() -> None:
    message = SiweMessage.parse(FULL)
    assert (message.scheme, message.domain, message.chain_id, message.nonce) == (
        "https",
        "example.com:3388",
        1,
        "32891756aB",
    )
    assert message.statement == "I accept the ExampleOrg Terms of Service: https://example.com/tos"
    assert message.uri == "https://example.com/login?x=1#top"
    assert message.issued_at.unix == 1633019124
    assert message.expiration_time == Instant(text="2021-09-30T17:25:24.5+01:00", unix=1633019124.5)
    assert message.not_before == Instant(text="2021-09-30t16:25:24z", unix=1633019124)
    assert message.request_id == "some-id%20:@!"
    assert message.resources is not None
    assert len(message.resources) == 2


def test_what_may_be_left_out() -> None:
    message = SiweMessage.parse(SHORT)
    left_out = (
        message.scheme,
        message.statement,
        message.expiration_time,
        message.not_before,
        message.request_id,
        message.resources,
    )
    assert left_out == (None,) * 6
    assert message.encode() == SHORT


def test_an_empty_request_id_and_an_empty_list_of_resources_are_allowed() -> None:
    text = f"{SHORT}\nRequest ID: \nResources:"
    message = SiweMessage.parse(text)
    assert (message.request_id, message.resources) == ("", ())
    assert message.encode() == text


def test_composes_what_it_parses() -> None:
    message = SiweMessage.compose(
        domain="example.com",
        address=checksum_decode(ADDRESS, reason=Reason.INVALID_SIWE),
        uri="https://example.com/login",
        chain_id=1,
        nonce="12345678",
        issued_at="2021-09-30T16:25:24Z",
        expiration_time="2021-09-30T16:30:24Z",
        statement="Hello.",
    )
    assert SiweMessage.parse(message.encode()) == message
    with refused("invalid_siwe"):
        SiweMessage.compose(
            domain="example.com",
            address=bytes(20),
            uri="https://example.com/login",
            chain_id=1,
            nonce="12345678",
            issued_at="2021-09-30T16:25:24Z",
            expiration_time="2021-09-30T16:30:24Z",
            statement="two\nlines",
        )


BENT = {
    "a newline at the end": (FULL, FULL + "\n"),
    "a blank at the end": (SHORT, SHORT + " "),
    "Windows line ends": (FULL, FULL.replace("\n", "\r\n")),
    "another sentence": ("sign in with your Ethereum account", "log in with your Ethereum account"),
    "another case of the sentence": ("wants you to", "Wants you to"),
    "no domain": ("https://example.com:3388 wants", " wants"),
    "no domain, a scheme": ("https://example.com:3388", "https://"),
    "a path in the domain": ("example.com:3388", "example.com/x"),
    "a blank in the domain": ("example.com:3388", "exa mple.com"),
    "a bad port": ("example.com:3388", "example.com:x"),
    "a bad IPv6 address": ("example.com:3388", "[::zz]"),
    "half an IPv6 address": ("example.com:3388", "[1:2]"),
    "a bad percent sign in the domain": ("example.com:3388", "example%2.com"),
    "a bad scheme": ("https://example.com:3388", "1https://example.com"),
    "an address without its checksum": (ADDRESS, ADDRESS.lower()),
    "an address with a wrong checksum": (ADDRESS, ADDRESS.replace("0xC0", "0xc0")),
    "a short address": (ADDRESS, ADDRESS[:-2]),
    "no address": (ADDRESS, ""),
    "0X": (ADDRESS, ADDRESS.replace("0x", "0X")),
    "no empty line after the address": (f"{ADDRESS}\n\n", f"{ADDRESS}\n"),
    "a third empty line": (f"{ADDRESS}\n\n", f"{ADDRESS}\n\n\n"),
    "no empty line after the statement": ("/tos\n\n", "/tos\n"),
    "a statement of two lines": ("I accept the", "I accept\nthe"),
    "a quote in the statement": ("I accept", 'I "accept"'),
    "a percent sign in the statement": ("I accept", "I accept 100%"),
    "a tab in the statement": ("I accept", "I\taccept"),
    "text beyond ASCII": ("I accept", "I äccept"),
    "a URI without scheme": ("URI: https://example.com/login?x=1#top", "URI: example.com/login"),
    "a URI with a blank": ("/login?x=1", "/log in"),
    "a URI with a bad percent sign": ("/login?x=1", "/login?x=%zz"),
    "a URI with two fragments": ("#top", "#top#"),
    "no URI": ("URI: https://example.com/login?x=1#top\n", ""),
    "an empty URI": ("URI: https://example.com/login?x=1#top", "URI: "),
    "version 2": ("Version: 1", "Version: 2"),
    "version 01": ("Version: 1", "Version: 01"),
    "a chain id in hex": ("Chain ID: 1", "Chain ID: 0x1"),
    "a chain id with a zero before it": ("Chain ID: 1", "Chain ID: 01"),
    "a negative chain id": ("Chain ID: 1", "Chain ID: -1"),
    "a chain id in other digits": ("Chain ID: 1", "Chain ID: \u0661"),
    "a chain id beyond 256 bits": ("Chain ID: 1", f"Chain ID: {2**256}"),
    "no chain id": ("Chain ID: 1\n", ""),
    "a nonce of seven": ("32891756aB", "3289175"),
    "a nonce with a dash": ("32891756aB", "3289-1756"),
    "no nonce": ("Nonce: 32891756aB\n", ""),
    "a time without zone": ("2021-09-30T16:25:24Z", "2021-09-30T16:25:24"),
    "a time with a blank": ("2021-09-30T16:25:24Z", "2021-09-30 16:25:24Z"),
    "a date alone": ("2021-09-30T16:25:24Z", "2021-09-30"),
    "the 31st of September": ("2021-09-30T16:25:24Z", "2021-09-31T16:25:24Z"),
    "hour 24": ("2021-09-30T16:25:24Z", "2021-09-30T24:00:00Z"),
    "a leap second": ("2021-09-30T16:25:24Z", "2016-12-31T23:59:60Z"),
    "an offset of 24 hours": ("+01:00", "+24:00"),
    "an offset without colon": ("+01:00", "+0100"),
    "no seconds": ("2021-09-30T16:25:24Z", "2021-09-30T16:25Z"),
    "a dot without fraction": ("24.5+", "24.+"),
    "a time before the calendar": ("2021-09-30T16:25:24Z", "0000-01-01T00:00:00Z"),
    "an unknown line": ("Request ID:", "Request Id:"),
    "a line twice": ("Version: 1\n", "Version: 1\nVersion: 1\n"),
    "lines out of order": ("Version: 1\nChain ID: 1\n", "Chain ID: 1\nVersion: 1\n"),
    "not-before first": (
        "Expiration Time: 2021-09-30T17:25:24.5+01:00\nNot Before: 2021-09-30t16:25:24z\n",
        "Not Before: 2021-09-30t16:25:24z\nExpiration Time: 2021-09-30T17:25:24.5+01:00\n",
    ),
    "a blank in the request id": ("some-id", "some id"),
    "a slash in the request id": ("some-id", "some/id"),
    "an empty line before the resources": ("Resources:", "\nResources:"),
    "a resource without dash": ("- ipfs", "ipfs"),
    "a resource that is no URI": ("- ipfs://", "- ipfs "),
    "an empty resource": ("- https://example.com/my-web2-claim.json", "- "),
    "text after the resources": ("claim.json", "claim.json\n\n"),
    "nothing": (FULL, ""),
    "one line": (FULL, FULL.partition("\n")[0]),
}


@pytest.mark.parametrize("case", BENT)
def test_refuses_what_is_no_message(case: str) -> None:
    old, new = BENT[case]
    text = SHORT if old == SHORT else FULL
    assert old in text
    with refused("invalid_siwe"):
        SiweMessage.parse(text.replace(old, new, 1))


def test_refuses_too_many_resources() -> None:
    at_most = f"{SHORT}\nResources:" + "\n- a:b" * MAX_RESOURCES
    assert SiweMessage.parse(at_most).encode() == at_most
    with refused("invalid_siwe"):
        SiweMessage.parse(at_most + "\n- a:b")


def test_refuses_a_message_that_is_too_long() -> None:
    with refused("too_large"):
        SiweMessage.parse("x" * (MAX_MESSAGE_BYTES + 1))


def read(text: str) -> str | None:
    """What the parser understood, written again; None where it is refused, for the one reason there is."""
    try:
        return SiweMessage.parse(text).encode()
    except KeyServiceError as refusal:
        if refusal.reason is not Reason.INVALID_SIWE:
            raise
        return None


@pytest.mark.parametrize("size", range(0, len(FULL), 7))
def test_refuses_a_message_that_ends_early(size: int) -> None:
    """Cut anywhere but after a whole optional line, a message is none."""
    assert read(FULL[:size]) in {None, FULL[:size]}


@given(st.text())
def test_any_text_gives_a_named_refusal(text: str) -> None:
    with refused("invalid_siwe"):
        SiweMessage.parse(text)


@given(st.data())
def test_a_changed_message_is_refused_or_says_exactly_what_it_says(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([FULL, SHORT]))
    at = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.integers(0, 3))
    put = data.draw(st.text(st.characters(codec="ascii"), max_size=3) | st.sampled_from(text.split("\n")))
    bent = text[:at] + put + text[at + gone :]
    assert read(bent) in {None, bent}


NAME = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
TIME = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0"))


@given(
    domain=NAME,
    address=st.binary(min_size=20, max_size=20),
    path=st.from_regex(r"[a-zA-Z0-9/_-]{0,20}", fullmatch=True),
    chain_id=st.integers(0, 2**256 - 1),
    nonce=st.from_regex(r"[A-Za-z0-9]{8,40}", fullmatch=True),
    times=st.tuples(TIME, TIME),
    statement=st.none() | st.from_regex(r"[A-Za-z0-9 .,!?:/]{1,60}", fullmatch=True),
)
def test_every_message_is_read_as_it_was_composed(
    domain: str, address: bytes, path: str, chain_id: int, nonce: str, times: tuple[str, str], statement: str | None
) -> None:
    message = SiweMessage.compose(
        domain=domain,
        address=address,
        uri=f"https://{domain}/{path.lstrip('/')}",
        chain_id=chain_id,
        nonce=nonce,
        issued_at=times[0],
        expiration_time=times[1],
        statement=statement,
    )
    assert (message.domain, message.address, message.chain_id, message.statement) == (
        domain,
        address,
        chain_id,
        statement,
    )


# --- its parts

EIP55 = (
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
)


@pytest.mark.parametrize("text", EIP55)
def test_the_examples_of_eip_55(text: str) -> None:
    assert checksum_encode(checksum_decode(text, reason=Reason.INVALID_SIWE)) == text


@pytest.mark.parametrize("text", ["", "0x", "zz" * 21, "0x" + "00" * 19, "0x" + "00" * 21, "0x 00" + "00" * 19])
def test_refuses_what_is_no_address(text: str) -> None:
    with refused("invalid_siwe"):
        checksum_decode(text, reason=Reason.INVALID_SIWE)


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://ftp.is.co.za/rfc/rfc1808.txt",
        "ldap://[2001:db8::7]/c=GB?objectClass?one",
        "mailto:John.Doe@example.com",
        "news:comp.infosystems.www.servers.unix",
        "tel:+1-816-555-1212",
        "telnet://192.0.2.16:80/",
        "urn:oasis:names:specification:docbook:dtd:xml:4.1.2",
        "a:",
        "a:/",
        "a://",
        "http://user:pw@host:/p;x=1/?q/?#f?/",
        "http://[v1.fe:80]/",
        "did:key:z6Mk%2F",
    ],
)
def test_uris(uri: str) -> None:
    assert is_uri(uri)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "//x",
        ":x",
        "1a:x",
        "a:b c",
        "a:\\",
        "a:%",
        "a:%1",
        "a:[",
        "a://[::1",
        "a://[fe80::1%25eth0]/",
        "a:\n",
        "http://a:b:c/",
        "http://[1::2::3]/",
        "a:<>",
        'a:"',
        "a:{}",
        "a:^",
        "a:`",
        "a:|",
        "a:é",
        "a:b#c#d",
    ],
)
def test_no_uris(text: str) -> None:
    assert not is_uri(text)


def test_authorities_schemes_and_pchars() -> None:
    assert all(map(is_authority, ("localhost", "a.b:80", "1.2.3.4", "[::1]:443", "u@h", "%41")))
    assert not any(map(is_authority, ("", "a/b", "a b", "[::1", "::1", "a:b", "a@b@c", "[::1]x")))
    assert all(map(is_scheme, ("https", "a+b-c.d1")))
    assert not any(map(is_scheme, ("", "1a", "a_b", "a\n")))
    assert is_pchars("")
    assert not is_pchars("a/b")
    assert scheme_of("AgentKeys:x") == "agentkeys"
