"""The broker's pages, rendered here and nowhere else: escaped by default, no script, one style sheet."""

from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.web.endpoints import Page
from agentkeys_runtime.web.problems import status_of
from broker.ceremonies.email import EmailRequest
from broker.ceremonies.oidc import OidcRequest
from broker.ceremonies.passkey import PasskeyAction, PasskeyRequest

_TEMPLATES: Final = Environment(
    loader=PackageLoader("broker.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_SAID: Final = {
    Reason.CEREMONY_ENDED: "This link was used, is too old, or never was one. Ask for a new one on your device.",
    Reason.POLICY_REFUSED: "You were not signed in, or another site sent you here. Nothing was bound; you can start "
    "again on your device.",
    Reason.PROVIDER_UNREACHABLE: "The provider does not answer right now. Try again in a moment.",
    Reason.INVALID_EVIDENCE: "What was answered cannot be accepted. Nothing was bound.",
    Reason.OVERLOADED: "Too much is going on right now. Try again in a moment.",
    Reason.RATE_LIMITED: "Too many attempts. Try again later.",
}


_ASKED: Final = {
    PasskeyAction.REGISTER: "Make your passkey?",
    PasskeyAction.SIGN_IN: "Show your passkey to a device?",
    PasskeyAction.BIND: "Bind a device to your passkey?",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """Makes each page. `origin` is the broker's."""

    origin: str

    def email(self, request: EmailRequest, *, again: bool = False) -> Page:
        """Asks whether the address shall be confirmed; `again` of somebody who typed another code."""
        return self._asking("email.html", "Bind a device to this address?", request, again=again)

    def oidc_start(self, request: OidcRequest) -> Page:
        """Says what signing in at the provider will do."""
        return self._page("oidc_start.html", "Bind a device to your identity?", request=request)

    def oidc_confirm(self, request: OidcRequest, *, again: bool = False) -> Page:
        """Asks whether that identity shall be bound to that device; `again` as above."""
        return self._asking("oidc_confirm.html", "Bind this device?", request, again=again)

    def passkey(self, request: PasskeyRequest, *, again: bool = False) -> Page:
        """Says what the passkey is for, and has the browser ask for it, by the one script here. `again` as above."""
        return replace(self._asking("passkey.html", _ASKED[request.action], request, again=again), script=True)

    def waiting(self) -> Page:
        """Says that the provider is being asked; it asks for itself again until that is over."""
        return self._page("waiting.html", "One moment")

    def done(self, said: str) -> Page:
        """Says that it is done."""
        return self._page("done.html", "Done", said=said)

    def refused(self, error: KeyServiceError) -> Page:
        """Says why not, in words for people; never the detail, which is for logs."""
        said = _SAID.get(error.reason, "This did not work, and nothing was changed.")
        page = self._page("refused.html", "That did not work", said=said, reason=str(error.reason))
        return Page(html=page.html, status=status_of(error.reason))

    def _asking(self, template: str, title: str, request: object, *, again: bool) -> Page:
        page = self._page(template, title, request=request, again=again)
        return replace(page, status=status_of(Reason.INVALID_BODY)) if again else page

    def _page(self, template: str, title: str, **given: object) -> Page:
        host = urlsplit(self.origin).netloc
        return Page(html=_TEMPLATES.get_template(template).render(title=title, host=host, **given))
