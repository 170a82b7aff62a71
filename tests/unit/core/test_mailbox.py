"""Addresses that every parser reads alike, and nothing else."""

import smtplib
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parseaddr

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentkeys_core.encoding import canonical_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.evidence import EmailEvidence, parse_evidence
from agentkeys_core.mailbox import MAX_EMAIL_BYTES, check_email, without_tag

GOOD = [
    "a@b",
    "ada@people.test",
    "Ada.Lovelace+keys@People.test",
    "o'brien@people.test",
    "a_b-c=d@xn--bcher-kva.example",
    "#$&'*+/=^_`{|}~-@people.test",
    "a@" + ".".join(["b" * 63] * 3) + ".test",
    "a" * 64 + "@people.test",
]
BAD = [
    "", "@", "a@", "@b", "a@b@c", "a", " a@b", "a@b ", "a@b\n", "a b@c",
    "victim@a.test,evil@b.test", "(c)victim@people.test", '"x"<victim@people.test>', "a:victim@people.test;", "n<victim@people.test>",
    "<victim@people.test>", "victim@people.test>", '"quoted"@people.test', "v@[127.0.0.1]", "a@[", "[@]", "a@b(", "a\\@b", "::;@",
    "v\u00fc@people.test", "v@\u00fc.test", "v@\uff41.test", "a\u212a@b", "\ud800@x", "a\x00@b", "a@b\u2028c", "a@b\r\nBcc: c@d",
    "=?utf-8?q?x?=@y.test", "a=?b@c", "victim%people.test@relay.test", "relay!victim@people.test",
    ".a@b", "a.@b", "a..b@c", "a@-b", "a@b-", "a@b..c", "a@.b", "a@b.", "a@b_c", "a@127.0.0.1", "a@1",
    "a" * 65 + "@b", "a@" + "b" * 64, "a@" + ".".join(["b" * 63] * 4) + ".test",
]  # fmt: skip


def is_taken(address: str) -> bool:
    try:
        check_email(address, reason=Reason.INVALID_BODY)
    except KeyServiceError as error:
        return error.reason is not Reason.INVALID_BODY  # any other one would be taken for a yes, and fail
    return True


@pytest.mark.parametrize("address", GOOD)
def test_plain_addresses_are_taken(address: str) -> None:
    assert is_taken(address)
    assert parse_evidence(EmailEvidence(address=address).encode()) == EmailEvidence(address=address)


@pytest.mark.parametrize("address", BAD, ids=ascii)
def test_what_has_two_readings_is_none(address: str) -> None:
    assert not is_taken(address)
    with pytest.raises(KeyServiceError) as caught:
        EmailEvidence.from_json({"address": address, "type": "email"})
    assert caught.value.reason is Reason.INVALID_EVIDENCE


def test_nothing_is_longer_than_a_path_may_be() -> None:
    domain = ".".join(["b" * 63] * 3)
    local = "a" * (MAX_EMAIL_BYTES - len(domain) - 1)
    assert is_taken(f"{local}@{domain}")
    assert not is_taken(f"{local}a@{domain}")


PIECES = st.text(alphabet='abA1.@<>()[]:;,"\\=?+%!_- \r\n\t\x00é\u2028\uff20', max_size=40)
ADDRESSES = st.one_of(
    st.emails(),
    st.text(max_size=40),
    PIECES,
    st.builds("{}@{}".format, PIECES, PIECES),
    st.from_regex(r"[!-~]{1,20}@[!-~]{1,20}", fullmatch=True),
)


@given(ADDRESSES)
@example("=?utf-8?q?x?=@y.test")
@example("a@[")
def test_what_is_taken_is_one_mailbox_to_everybody(address: str) -> None:
    """Whoever reads it: Python's two parsers of mail, its SMTP client, and a message that was written and read."""
    if not is_taken(address):
        return
    message = EmailMessage(policy=SMTP)
    message["To"] = address
    assert [found.addr_spec for found in message["To"].addresses] == [address]
    written = message_from_bytes(message.as_bytes(), policy=SMTP)
    assert [found.addr_spec for found in written["To"].addresses] == [address]
    assert parseaddr(address) == ("", address)
    assert smtplib.quoteaddr(address) == f"<{address}>"
    assert parse_evidence(canonical_json({"address": address, "type": "email"})) == EmailEvidence(address=address)
    assert is_taken(without_tag(address))


def test_tags_are_of_one_mailbox() -> None:
    assert without_tag("Ada+keys@People.test") == "ada@people.test"
    assert without_tag("+@people.test") == "+@people.test"
