"""The headers of every answer: what a browser is told not to do with it."""

from collections.abc import Mapping
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final

_POLICY: Final = "Content-Security-Policy"
_PERMISSIONS: Final = "Permissions-Policy"
_FEATURES: Final = ("camera", "display-capture", "geolocation", "hid", "microphone", "midi", "payment", "serial", "usb")
_PASSKEYS: Final = ("publickey-credentials-create", "publickey-credentials-get")
_NOTHING: Final = ", ".join(f"{feature}=()" for feature in (*_FEATURES, *_PASSKEYS))
_PASSKEYS_ALONE: Final = ", ".join(
    [*(f"{feature}=()" for feature in _FEATURES), *(f"{feature}=(self)" for feature in _PASSKEYS)]
)
#: Pages load one style sheet of ours and send forms back to us; nothing runs in them but for those that ask for it.
_PAGE: Final = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_YEAR_S: Final = 365 * 24 * 3600
_LOCALHOST: Final = "localhost"

#: Of every answer that has none of its own.
HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        _POLICY: "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        _PERMISSIONS: _NOTHING,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)


def of_page(*, script: bool) -> Mapping[str, str]:
    """Those of a page; one that may run a script of ours may ask for passkeys as well, as that is what for."""
    if script:
        return {_POLICY: f"{_PAGE}; script-src 'self'", _PERMISSIONS: _PASSKEYS_ALONE}
    return {_POLICY: _PAGE}


def of_host(host: str) -> Mapping[str, str]:
    """Those that depend on the name by which we were asked, as its `Host` header says.

    Browsers shall come by TLS alone from then on, but not at `localhost`: such a promise holds for all ports of a name,
    and the page where K11 lives is plain HTTP there. Addresses have no such promises.
    """
    name = host.rpartition(":")[0] or host
    if name.rpartition(".")[2].lower() in (_LOCALHOST, "") or _is_address(name):
        return {}
    return {"Strict-Transport-Security": f"max-age={_YEAR_S}"}


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
