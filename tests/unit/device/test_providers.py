"""How an OpenID provider is named: by its https address, which is read by people before they go there."""

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from device.identities.providers import Provider

LONGEST = "https://a.example/" + "x" * 237


def parse(issuer: object, client_id: object = "client") -> Provider:
    return Provider.parse({"client_id": client_id, "issuer": issuer})


@pytest.mark.parametrize(
    "issuer",
    [
        "https://accounts.google.com",
        "https://login.example.com/tenant/v2.0/",
        "https://localhost:8443",
        "https://[::1]:8443/realm",
        "https://xn--e1afmkfd.example/~a_b,c;d%20",
        LONGEST,
    ],
)
def test_an_address_names_a_provider(issuer: str) -> None:
    assert parse(issuer).issuer == issuer


@pytest.mark.parametrize(
    "issuer",
    [
        "http://accounts.google.com",
        "HTTPS://accounts.google.com",
        "accounts.google.com",
        "https://",
        "https:///path",
        "https://accounts.google.com says: send your PIN to",
        "https://accounts.google.com/ or better https://evil.example",
        "https://accounts.google.com@evil.example",
        "https://user:word@evil.example",
        "https://a.example?x=1",
        "https://a.example/?x=1",
        "https://a.example/#top",
        "https://a.example#top",
        "https://a.example:port",
        "https://a.example:123456",
        "https://a.example\n",
        "https://a.example/\x1b[2J",
        "https://a.example/\u202e",
        "https://a.example/\u00a0b",
        "https://\u0430ccounts.google.com",
        LONGEST + "x",
        "",
        7,
    ],
)
def test_nothing_else_does(issuer: object) -> None:
    with pytest.raises(KeyServiceError) as caught:
        parse(issuer)
    assert caught.value.reason is Reason.INVALID_ENCODING


@pytest.mark.parametrize("client_id", ["", "a\x1b[2J", "a" * 1025, 7])
def test_a_client_id_is_fit_to_be_shown(client_id: object) -> None:
    with pytest.raises(KeyServiceError):
        parse("https://a.example", client_id)
