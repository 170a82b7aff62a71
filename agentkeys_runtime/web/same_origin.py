"""Whether a form that arrived was sent by a page of ours: defence in depth beside the secret that each form needs."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.errors import KeyServiceError, Reason

#: What a browser says of a form of our own pages, and of what its user did without any page.
_OWN: Final = frozenset({"same-origin", "none"})


def check_same_origin(headers: Mapping[str, str]) -> None:
    """Return unless a browser says that a page elsewhere sent this. `headers` have lower-case names.

    Browsers that do not say it (`Sec-Fetch-Site`) may name the page's origin. Ours are `null` then, as pages with the
    referrer policy `no-referrer` have it.

    Raises:
        KeyServiceError: `policy_refused`.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin", "null")
    # Compared as text: what somebody else wrote there need be no address at all.
    is_own = site in _OWN if site is not None else origin in {"null", f"https://{headers.get('host')}"}
    if not is_own:
        raise KeyServiceError(Reason.POLICY_REFUSED, "a page of another site sent this form")
