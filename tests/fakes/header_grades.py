"""What is wrong with the headers of an answer, as somebody who tests web pages would say it."""

import re
from collections.abc import Mapping

_YEAR_S = 365 * 24 * 3600
#: What is said in one word, and in no other.
_EXACT = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_ABSENT = ("set-cookie", "x-powered-by", "access-control-allow-origin", "access-control-allow-credentials")
_NONE_OF = {"default-src": {"'none'"}, "frame-ancestors": {"'none'"}, "base-uri": {"'none'"}}
_DENIED = {"camera", "microphone", "geolocation", "usb", "hid", "payment"}
_PASSKEYS = {"publickey-credentials-get", "publickey-credentials-create"}


def faults(headers: Mapping[str, str], *, named: bool, script: bool = False, passkeys: bool = False) -> list[str]:
    """Everything that is wrong; nothing where all is well.

    Args:
        headers: by lower-case name.
        named: whether TLS was spoken to a name of the host's own: neither `localhost` nor an address.
        script: whether this page runs a script.
        passkeys: whether it may ask for passkeys.
    """
    found = [f"{name} is {headers.get(name)}" for name, wanted in _EXACT.items() if headers.get(name) != wanted]
    found += [f"there is {name}" for name in _ABSENT if name in headers]
    if "no-store" not in headers.get("cache-control", ""):
        found.append("it may be kept")
    if re.search(r"[0-9/]", headers.get("server", "")):
        found.append("it tells the server's version")
    return (
        found + _policy(headers, script=script) + _permissions(headers, passkeys=passkeys) + _tls(headers, named=named)
    )


def _policy(headers: Mapping[str, str], *, script: bool) -> list[str]:
    text = headers.get("content-security-policy", "")
    policy = {name: set(values) for name, *values in (part.split() for part in text.split(";") if part.strip())}
    found = [f"{name} is {policy.get(name)}" for name, wanted in _NONE_OF.items() if policy.get(name) != wanted]
    for name, values in policy.items():
        if not values <= {"'none'", "'self'"}:
            found.append(f"{name} allows {values}")
    if "form-action" not in policy:
        found.append("forms go anywhere")
    if ("script-src" in policy) != script:
        found.append("scripts are allowed otherwise than they should be")
    return found


def _permissions(headers: Mapping[str, str], *, passkeys: bool) -> list[str]:
    text = headers.get("permissions-policy", "")
    policy = dict(part.strip().split("=", 1) for part in text.split(",") if "=" in part)
    found = [f"{name} is not denied" for name in sorted(_DENIED) if policy.get(name) != "()"]
    wanted = "(self)" if passkeys else "()"
    return found + [f"{name} is {policy.get(name)}" for name in sorted(_PASSKEYS) if policy.get(name) != wanted]


def _tls(headers: Mapping[str, str], *, named: bool) -> list[str]:
    told = headers.get("strict-transport-security")
    if not named:
        return [] if told is None else ["a promise for all ports of localhost, or for an address"]
    match = re.fullmatch(r"max-age=([0-9]+)(; includeSubDomains)?", told or "")
    return [] if match is not None and int(match[1]) >= _YEAR_S else ["browsers may come without TLS"]
