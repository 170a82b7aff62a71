"""The routes of proofs of identity: what devices ask, and the pages that people see in between."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from agentkeys_core.encoding import fields, hex_decode, strict_json
from agentkeys_core.errors import Reason
from agentkeys_core.evidence import MAX_EVIDENCE_BYTES
from agentkeys_core.shapes import text
from agentkeys_runtime.web.endpoints import Call, Endpoint, Page, always
from agentkeys_runtime.web.schemas import B64U, B64U32, HEX16, SECONDS, closed
from broker.ceremonies.email import EmailDesk
from broker.ceremonies.oidc import OidcDesk
from broker.ceremonies.steps import Steps, detail_of, fingerprint
from broker.ports import Ceremony, CeremonyState
from broker.web.pages import Pages
from broker.web.session_routes import claim_of

CALLBACK: Final = "/identity/oidc/callback"
#: Beginning one keeps something, and may send a mail.
CEREMONY_PRICE: Final = 5
_BODY_LIMIT: Final = 4096
_ID_BYTES: Final = 16
_STATES: Final = [state.value for state in CeremonyState]
#: A ceremony, for the device that began it.
CEREMONY: Final = closed(
    {
        "device": {"type": "string", "description": "what the page shows of the device"},
        "evidence": {"type": "object", "description": "passkey: for a bind, once confirmed"},
        "expires_at": SECONDS,
        "id": HEX16,
        "id_token": {"type": "string", "description": "oidc, once confirmed"},
        "page": {"type": "string", "description": "oidc, passkey: where the person goes on"},
        "passkey": closed({"credential_id": B64U, "x": B64U, "y": B64U}),
        "state": {"type": "string", "enum": _STATES},
    },
    optional=("evidence", "id_token", "page", "passkey"),
)
_ISSUER: Final = closed({"client_id": {"type": "string"}, "issuer": {"type": "string"}})
STYLE: Final = files("broker.web").joinpath("templates", "style.css").read_text()


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
            given_back=always,
            response=CEREMONY,
            variable=HEX16,
        ),
        Endpoint(
            method="GET",
            path="/identity/style.css",
            summary="The style sheet of the pages.",
            handler=lambda _: Page(html=STYLE, media="text/css"),
            price=0,
            refusal=pages.refused,
            media="text/css",
            quiet=True,
        ),
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
        return told(desk.begin(claim_of(call), address))

    def confirm(call: Call) -> Page:
        done = desk.confirm(call.path["secret"])
        return pages.done(f"{done.address} is confirmed for device {done.device}.")

    return [
        Endpoint(
            method="POST",
            path="/v1/identity/email",
            summary="Mails a link for the device whose proof (purpose sign-in) this is. The answer is alike for all.",
            handler=begin,
            proof="sign-in",
            price=CEREMONY_PRICE,
            body_limit=_BODY_LIMIT,
            request=closed({"address": {"type": "string", "format": "email"}}),
            response=CEREMONY,
        ),
        Endpoint(
            method="GET",
            path="/identity/email/{secret}",
            summary="Shows what a link would confirm. Looking changes nothing.",
            handler=lambda call: pages.email(desk.shown(call.path["secret"])),
            given_back=always,
            refusal=pages.refused,
            variable=B64U,
        ),
        Endpoint(
            method="POST",
            path="/identity/email/{secret}",
            summary="Confirms, once.",
            handler=confirm,
            given_back=always,
            body_limit=_BODY_LIMIT,
            refusal=pages.refused,
            variable=B64U,
        ),
    ]


def _oidc(desk: OidcDesk, pages: Pages) -> list[Endpoint]:
    def begin(call: Call) -> Mapping[str, object]:
        members = fields(call.json(), required=("issuer", "nonce"), reason=Reason.INVALID_BODY)
        issuer, nonce = (text(members[name], name, reason=Reason.INVALID_BODY) for name in ("issuer", "nonce"))
        begun = desk.begin(claim_of(call), issuer=issuer, nonce=nonce)
        return {**told(begun.ceremony), "page": begun.page}

    def confirm(call: Call) -> Page:
        members = fields(call.form(), required=("secret",), reason=Reason.INVALID_BODY)
        done = desk.confirm(text(members["secret"], "secret", reason=Reason.INVALID_BODY))
        return pages.done(f"{done.name} is confirmed for device {done.device}.")

    return [
        Endpoint(
            method="POST",
            path="/v1/identity/oidc",
            summary="Begins a sign-in at a provider for the device whose proof (purpose sign-in) this is.",
            handler=begin,
            proof="sign-in",
            price=CEREMONY_PRICE,
            body_limit=_BODY_LIMIT,
            request=closed({"issuer": {"type": "string", "enum": list(desk.clients)}, "nonce": B64U32}),
            response=CEREMONY,
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
            path=CALLBACK,
            summary="Where the provider sends the person back to.",
            handler=lambda call: pages.oidc_confirm(desk.returned(call.query)),
            given_back=always,
            refusal=pages.refused,
            queried=True,
        ),
        Endpoint(
            method="POST",
            path="/identity/oidc/confirm",
            summary="The person agrees to the binding, once.",
            handler=confirm,
            given_back=always,
            body_limit=_BODY_LIMIT,
            request=closed({"secret": B64U}),
            refusal=pages.refused,
        ),
        Endpoint(
            method="GET",
            path="/identity/oidc/{secret}",
            summary="Shows what signing in will do. Looking changes nothing.",
            handler=lambda call: pages.oidc_start(desk.shown(call.path["secret"])),
            given_back=always,
            refusal=pages.refused,
            variable=B64U,
        ),
    ]


def told(ceremony: Ceremony) -> dict[str, object]:
    """What the device that began a ceremony hears of it."""
    found: dict[str, object] = {
        "device": fingerprint(ceremony.device),
        "expires_at": ceremony.expires_at,
        "id": ceremony.id.hex(),
        "state": ceremony.state.value,
    }
    if ceremony.state is not CeremonyState.CONFIRMED:
        return found
    detail = detail_of(ceremony)
    if "id_token" in detail:
        found["id_token"] = detail["id_token"]
    if "passkey_x" in detail:
        found["passkey"] = {name: detail[f"passkey_{name}"] for name in ("credential_id", "x", "y")}
    if "evidence" in detail:
        data = detail["evidence"].encode()
        found["evidence"] = strict_json(data, limit=MAX_EVIDENCE_BYTES, reason=Reason.INTERNAL)
    return found
