"""One grammar of e-mail addresses, for whoever mails to one and whoever takes one for an identity.

`dot-atom @ host name`, in ASCII: what has one reading in every parser, so that the address that was confirmed, the one
that the mail went to and the one that names an identity cannot differ.
"""

import re
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason

#: RFC 5321, 4.5.3.1: a path has 256 octets with its brackets, a local part 64, a domain 255.
MAX_EMAIL_BYTES: Final = 254
_MAX_LOCAL: Final = 64
#: RFC 5322's atext without `%` and `!`, by which old relays pass mail on to somebody else.
_ATOM: Final = r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)")
#: Begins an encoded word (RFC 2047), which mail programs show, and some take, as something else.
_ENCODED_WORD: Final = "=?"


def check_email(address: str, *, reason: Reason) -> None:
    """Return for an address that is read alike everywhere; whether it exists only a mail can tell.

    No quotes, comments, brackets, groups or address literals; nothing but ASCII: an internationalised domain in its
    A-label form (`xn--…`), and no internationalised local part, of which one mailbox has several spellings.

    Raises:
        KeyServiceError: `reason`.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or _ENCODED_WORD in address or len(address) > MAX_EMAIL_BYTES or len(found[1]) > _MAX_LOCAL:
        raise KeyServiceError(reason, "not an e-mail address of the plain form name@host")
    if found[2].rpartition(".")[2].isdigit():
        raise KeyServiceError(reason, "an e-mail address at a number")


def without_tag(address: str) -> str:
    """The address that most servers deliver this one to: lower case, and without what follows a `+` in its name."""
    local, _, domain = address.lower().rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"
