"""The routes of passkeys as identities: what devices ask, and the one page with a script."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from agentkeys_core.encoding import fields
from agentkeys_core.errors import Reason
from agentkeys_core.shapes import text
from agentkeys_core.signed_change import MAX_CHANGE_BYTES
from agentkeys_runtime.web.endpoints import Call, Endpoint, Page, always
from agentkeys_runtime.web.schemas import B64U, closed
from broker.ceremonies.passkey import PasskeyAction, PasskeyAsked, PasskeyDesk
from broker.passkeys import MAX_ANSWER
from broker.web.ceremony_routes import CEREMONY, CEREMONY_PRICE, told
from broker.web.pages import Pages
from broker.web.session_routes import claim_of

#: An answer of the largest size, each of its bytes written with three.
_FORM_LIMIT: Final = 4 * MAX_ANSWER
_SAID: Final = {
    PasskeyAction.REGISTER: "Your passkey is made, and device {device} knows of it.",
    PasskeyAction.SIGN_IN: "Device {device} knows your passkey now.",
    PasskeyAction.BIND: "Your passkey signed the enrolment of device {device}.",
}
_SCRIPT: Final = files("broker.web").joinpath("templates", "passkey.js").read_text()
_ASKED: Final = closed(
    {
        "action": {"type": "string", "enum": [action.value for action in PasskeyAction]},
        "change": closed({"message": {"type": "object"}, "type": {"const": "Enrol"}}),
        "credential_id": B64U,
    },
    optional=("change", "credential_id"),
)


def passkey_endpoints(desk: PasskeyDesk, pages: Pages) -> tuple[Endpoint, ...]:
    """Return the routes of passkeys."""

    def begin(call: Call) -> Mapping[str, object]:
        begun = desk.begin(claim_of(call), PasskeyAsked.from_json(call.json()))
        return {**told(begun.ceremony), "page": begun.page}

    def answer(call: Call) -> Page:
        members = fields(call.form(), required=("answer",), reason=Reason.INVALID_BODY)
        done = desk.answered(call.path["secret"], text(members["answer"], "answer", reason=Reason.INVALID_BODY))
        return pages.done(_SAID[done.action].format(device=done.device))

    return (
        Endpoint(
            method="POST",
            path="/v1/identity/passkey",
            summary="Begins to make, find or use a passkey for the device whose proof (purpose sign-in) this is.",
            handler=begin,
            proof="sign-in",
            price=CEREMONY_PRICE,
            body_limit=MAX_CHANGE_BYTES,
            request=_ASKED,
            response=CEREMONY,
        ),
        Endpoint(
            method="GET",
            path="/identity/passkey.js",
            summary="The script of that page.",
            handler=lambda _: Page(html=_SCRIPT, media="text/javascript"),
            price=0,
            refusal=pages.refused,
            media="text/javascript",
            quiet=True,
        ),
        Endpoint(
            method="GET",
            path="/identity/passkey/{secret}",
            summary="Shows what the passkey is wanted for. Looking changes nothing.",
            handler=lambda call: pages.passkey(desk.shown(call.path["secret"])),
            given_back=always,
            refusal=pages.refused,
            variable=B64U,
        ),
        Endpoint(
            method="POST",
            path="/identity/passkey/{secret}",
            summary="Takes the browser's answer, once.",
            handler=answer,
            given_back=always,
            body_limit=_FORM_LIMIT,
            request=closed({"answer": {"type": "string"}}),
            refusal=pages.refused,
            variable=B64U,
        ),
    )
