"""What the routes of all ceremonies have in common: how one begins, what its device hears, what a person is shown."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

from agentkeys_core.encoding import fields, strict_json
from agentkeys_core.errors import Reason
from agentkeys_core.evidence import MAX_EVIDENCE_BYTES
from agentkeys_core.shapes import text
from agentkeys_runtime.web.endpoints import Call, Endpoint, JsonSchema, Page
from agentkeys_runtime.web.schemas import B64U, HEX16, SECONDS, closed
from broker.ceremonies.codes import ALPHABET, code_shown
from broker.ceremonies.steps import Invitation, detail_of, fingerprint
from broker.ports import Ceremony, CeremonyState
from broker.web.pages import Pages

#: The field of a form in which somebody types the code that their own terminal shows.
TYPED: Final = "code"
#: Beginning one keeps something, and may send a mail.
CEREMONY_PRICE: Final = 5.0
#: A device asks each second how far it is, for as long as its person takes: twenty of them, at one address, as well.
POLL_PRICE: Final = 0.2
_STATES: Final = [state.value for state in CeremonyState]
_COMMON: Final = {
    "device": {"type": "string", "description": "what people compare"},
    "expires_at": SECONDS,
    "id": HEX16,
    "state": {"type": "string", "enum": _STATES},
}
#: A ceremony, for the device that began it.
CEREMONY: Final = closed(
    {
        **_COMMON,
        "evidence": {"type": "object", "description": "passkey: for a bind, once confirmed"},
        "id_token": {"type": "string", "description": "oidc, once confirmed"},
        "passkey": closed({"credential_id": B64U, "x": B64U, "y": B64U}),
    },
    optional=("evidence", "id_token", "passkey"),
)
#: The same as it begins.
BEGUN: Final = closed(
    {
        **_COMMON,
        "code": {
            "type": "string",
            "pattern": f"^[{ALPHABET}]{{3}}-[{ALPHABET}]{{3}}$",
            "description": "for the device's person alone, who types it at the page; a passkey's for a bind; told once",
        },
        "page": {"type": "string", "description": "oidc, passkey: where the person goes on"},
    },
    optional=("code", "page"),
)


def begins(
    path: str, summary: str, begin: Callable[[Call], Mapping[str, object]], *, request: JsonSchema, body_limit: int
) -> Endpoint:
    """The route where a device begins a ceremony, by a proof over a challenge of ours."""
    return Endpoint(
        method="POST",
        path=path,
        summary=summary,
        handler=begin,
        proof="sign-in",
        price=CEREMONY_PRICE,
        body_limit=body_limit,
        request=request,
        response=BEGUN,
    )


def shown_by(path: str, summary: str, page: Callable[[str], Page], pages: Pages, *, waits: bool = False) -> Endpoint:
    """The page of whoever has a link: its last part is the secret. Looking changes nothing."""
    return Endpoint(
        method="GET",
        path=path,
        summary=f"{summary} Looking changes nothing.",
        handler=lambda call: page(call.path["secret"]),
        refusal=pages.refused,
        variable=B64U,
        waits=waits,
    )


def static_file(path: str, summary: str, name: str, media: str, pages: Pages) -> Endpoint:
    """A file that pages load; `name` is that of a file among our templates."""
    content = files("broker.web").joinpath("templates", name).read_text()
    return Endpoint(
        method="GET",
        path=path,
        summary=summary,
        handler=lambda _: Page(html=content, media=media),
        price=0,
        refusal=pages.refused,
        media=media,
        quiet=True,
    )


def told_begun(begun: Invitation) -> dict[str, object]:
    """What the device hears when a ceremony begins."""
    found = told(begun.ceremony)
    if begun.page:
        found["page"] = begun.page
    if begun.code:
        found["code"] = code_shown(begun.code)
    return found


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


def typed_in(call: Call) -> str:
    """What somebody typed into a form whose only field that is. Raises `invalid_body`, `unknown_fields`."""
    members = fields(call.form(), required=(TYPED,), reason=Reason.INVALID_BODY)
    return text(members[TYPED], TYPED, reason=Reason.INVALID_BODY)
