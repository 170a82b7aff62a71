"""The grammar of RFC 3986 as far as EIP-4361 uses it: URIs, and the authority that stands before `wants you to…`.

The standard library splits URIs but checks nothing, so its parts are no proof of a well-formed one.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final

_UNRESERVED: Final = r"A-Za-z0-9._~\-"
_SUB_DELIMS: Final = "!$&'()*+,;="
_PCT: Final = "%[0-9A-Fa-f]{2}"
_PCHAR: Final = f"(?:[{_UNRESERVED}{_SUB_DELIMS}:@]|{_PCT})"
_REG_NAME: Final = f"(?:[{_UNRESERVED}{_SUB_DELIMS}]|{_PCT})*"
_IP_LITERAL: Final = rf"\[(?:[vV][0-9A-Fa-f]+\.[{_UNRESERVED}{_SUB_DELIMS}:]+|(?P<ipv6>[0-9A-Fa-f:.]+))\]"
_AUTHORITY: Final = rf"(?:(?:[{_UNRESERVED}{_SUB_DELIMS}:]|{_PCT})*@)?(?:{_IP_LITERAL}|{_REG_NAME})(?::[0-9]*)?"
_PATH: Final = f"(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?|{_PCHAR}+(?:/{_PCHAR}*)*|)"
_TAIL: Final = f"(?:{_PCHAR}|[/?])*"

_SCHEME_TEXT: Final = "[A-Za-z][A-Za-z0-9+.-]*"
_SCHEME_RE: Final = re.compile(_SCHEME_TEXT)
_AUTHORITY_RE: Final = re.compile(_AUTHORITY)
_URI_RE: Final = re.compile(rf"{_SCHEME_TEXT}:{_PATH}(?:\?{_TAIL})?(?:#{_TAIL})?")
_PCHARS_RE: Final = re.compile(f"{_PCHAR}*")


def _well_formed(match: re.Match[str] | None) -> bool:
    if match is None:
        return False
    ipv6 = match["ipv6"]
    try:
        return ipv6 is None or IPv6Address(ipv6) is not None
    except AddressValueError:
        return False


def is_scheme(text: str) -> bool:
    """Tell whether the text is an RFC 3986 `scheme`."""
    return _SCHEME_RE.fullmatch(text) is not None


def is_authority(text: str) -> bool:
    """Tell whether the text is an RFC 3986 `authority`, and not the empty one."""
    return bool(text) and _well_formed(_AUTHORITY_RE.fullmatch(text))


def is_uri(text: str) -> bool:
    """Tell whether the text is an RFC 3986 `URI`: with a scheme, ASCII, percent signs only before two hex digits."""
    return _well_formed(_URI_RE.fullmatch(text))


def is_pchars(text: str) -> bool:
    """Tell whether the text is `*pchar`."""
    return _PCHARS_RE.fullmatch(text) is not None


def scheme_of(uri: str) -> str:
    """The scheme of a well-formed URI, in lower case, since schemes are compared so."""
    return uri.partition(":")[0].lower()
