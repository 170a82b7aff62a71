"""The routes of proofs of identity: what devices ask, and the pages that people see in between."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.encoding import fields, hex_decode
from agentkeys_core.errors import Reason
from agentkeys_core.shapes import text
from agentkeys_runtime.web.endpoints import Call, Endpoint, Page
from agentkeys_runtime.web.schemas import B64U, B64U32, HEX16, closed
from broker.ceremonies.email import EmailDesk
from broker.ceremonies.oidc import CALLBACK, OidcDesk, StillAskingError
from broker.ceremonies.steps import OtherCodeError, Steps
from broker.web.ceremony_shapes import (
    CEREMONY,
    POLL_PRICE,
    TYPED,
    begins,
    shown_by,
    static_file,
    told,
    told_begun,
    typed_in,
)
from broker.web.pages import Pages
from broker.web.session_routes import claim_of

_CONFIRM: Final = "/identity/oidc/confirm/"
_BODY_LIMIT: Final = 4096
_ID_BYTES: Final = 16
_ISSUER: Final = closed({"client_id": {"type": "string"}, "issuer": {"type": "string"}})


def ceremony_endpoints(
    *, steps: Steps, email: EmailDesk | None, oidc: OidcDesk | None, pages: Pages
) -> tuple[Endpoint, ...]:
    """Return the routes of the ceremonies that this broker is configured for."""

    def status(call: Call) -> Mapping[str, object]:
        ceremony_id = hex_decode(call.path["id"], length=_ID_BYTES, reason=Reason.NOT_FOUND)
        return told(steps.mine(claim_of(call), ceremony_id))

    found = [
        Endpoint(
            method="GET",
            path="/v1/identity/ceremonies/{id}",
            summary="How far a ceremony is; for the device that began it alone.",
            handler=status,
            proof="request",
            price=POLL_PRICE,
            response=CEREMONY,
            variable=HEX16,
        ),
        static_file("/identity/style.css", "The style sheet of the pages.", "style.css", "text/css", pages),
    ]
    if email is not None:
        found += _email(email, pages)
    if oidc is not None:
        found += _oidc(oidc, pages)
    return tuple(found)


def _email(desk: EmailDesk, pages: Pages) -> list[Endpoint]:
    def begin(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("address",), reason=Reason.INVALID_BODY)
        address = text(members["address"], "address", reason=Reason.INVALID_BODY)
        return told_begun(desk.begin(claim_of(call), address))

    def confirm(call: Call) -> Page:
        secret, typed = call.path["secret"], typed_in(call)
        try:
            done = desk.confirm(secret, typed)
        except OtherCodeError:
            return pages.email(desk.shown(secret), again=True)
        return pages.done(f"{done.address} is confirmed for device {done.device}.")

    return [
        begins(
            "/v1/identity/email",
            "Mails a link for the device whose proof (purpose sign-in) this is. The answer is alike for all.",
            begin,
            request=closed({"address": {"type": "string", "format": "email"}}),
            body_limit=_BODY_LIMIT,
        ),
        shown_by(
            "/identity/email/{secret}",
            "Shows what a link would confirm.",
            lambda secret: pages.email(desk.shown(secret)),
            pages,
        ),
        Endpoint(
            method="POST",
            path="/identity/email/{secret}",
            summary="Confirms, once.",
            handler=confirm,
            body_limit=_BODY_LIMIT,
            request=closed({TYPED: {"type": "string"}}),
            refusal=pages.refused,
            variable=B64U,
        ),
    ]


def _oidc(desk: OidcDesk, pages: Pages) -> list[Endpoint]:
    def begin(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("issuer", "nonce"), reason=Reason.INVALID_BODY)
        issuer, nonce = (text(members[name], name, reason=Reason.INVALID_BODY) for name in ("issuer", "nonce"))
        return told_begun(desk.begin(claim_of(call), issuer=issuer, nonce=nonce))

    def back(call: Call) -> Page:
        try:
            return Page(onward=_CONFIRM + desk.returned(call.path["issuer"], call.query))
        except StillAskingError:
            return pages.waiting()

    def confirm(call: Call) -> Page:
        secret, typed = call.path["secret"], typed_in(call)
        try:
            done = desk.confirm(secret, typed)
        except OtherCodeError:
            return pages.oidc_confirm(desk.asked(secret), again=True)
        return pages.done(f"{done.name} is confirmed for device {done.device}.")

    return [
        begins(
            "/v1/identity/oidc",
            "Begins a sign-in at a provider for the device whose proof (purpose sign-in) this is.",
            begin,
            request=closed({"issuer": {"type": "string", "enum": list(desk.clients)}, "nonce": B64U32}),
            body_limit=_BODY_LIMIT,
        ),
        Endpoint(
            method="GET",
            path="/v1/identity/oidc/issuers",
            summary="The providers that can be asked, and the client that a nonce for each must name.",
            handler=lambda _: {"issuers": [{"client_id": of, "issuer": at} for at, of in desk.clients.items()]},
            price=0,
            response=closed({"issuers": {"type": "array", "items": _ISSUER}}),
        ),
        Endpoint(
            method="GET",
            path=f"{CALLBACK}{{issuer}}",
            summary="Where one provider sends the person back to. They go on to a page of another address.",
            handler=back,
            refusal=pages.refused,
            queried=True,
            variable=HEX16,
            waits=True,
        ),
        shown_by(
            f"{_CONFIRM}{{secret}}",
            "Shows who would be bound to which device.",
            lambda secret: pages.oidc_confirm(desk.asked(secret)),
            pages,
        ),
        Endpoint(
            method="POST",
            path=f"{_CONFIRM}{{secret}}",
            summary="The person agrees to the binding, once.",
            handler=confirm,
            body_limit=_BODY_LIMIT,
            request=closed({TYPED: {"type": "string"}}),
            refusal=pages.refused,
            variable=B64U,
        ),
        shown_by(
            "/identity/oidc/{secret}",
            "Shows what signing in will do.",
            lambda secret: pages.oidc_start(desk.shown(secret)),
            pages,
            waits=True,
        ),
    ]
