"""The routes of passkeys as identities: what devices ask, and the one page with a script."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.encoding import fields
from agentkeys_core.errors import Reason
from agentkeys_core.shapes import text
from agentkeys_core.signed_change import MAX_CHANGE_BYTES
from agentkeys_runtime.web.endpoints import Call, Endpoint, Page
from agentkeys_runtime.web.schemas import B64U, closed
from broker.ceremonies.passkey import PasskeyAction, PasskeyAsked, PasskeyDesk
from broker.ceremonies.steps import OtherCodeError
from broker.passkeys import MAX_ANSWER
from broker.web.ceremony_shapes import TYPED, begins, shown_by, static_file, told_begun
from broker.web.pages import Pages
from broker.web.session_routes import claim_of

#: An answer of the largest size, each of its bytes written with three.
_FORM_LIMIT: Final = 4 * MAX_ANSWER
_SAID: Final = {
    PasskeyAction.REGISTER: "Your passkey is made, and device {device} knows of it.",
    PasskeyAction.SIGN_IN: "Device {device} knows your passkey now.",
    PasskeyAction.BIND: "Your passkey signed the enrolment of device {device}.",
}
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
        return told_begun(desk.begin(claim_of(call), PasskeyAsked.from_json(call.json())))

    def answer(call: Call) -> Page:
        members = fields(call.form(), required=("answer",), optional=(TYPED,), reason=Reason.INVALID_BODY)
        secret, typed = call.path["secret"], text(members.get(TYPED, ""), TYPED, reason=Reason.INVALID_BODY)
        try:
            done = desk.answered(secret, text(members["answer"], "answer", reason=Reason.INVALID_BODY), typed)
        except OtherCodeError:
            return pages.passkey(desk.shown(secret), again=True)
        return pages.done(_SAID[done.action].format(device=done.device))

    return (
        begins(
            "/v1/identity/passkey",
            "Begins to make, find or use a passkey for the device whose proof (purpose sign-in) this is.",
            begin,
            request=_ASKED,
            body_limit=MAX_CHANGE_BYTES,
        ),
        static_file("/identity/passkey.js", "The script of that page.", "passkey.js", "text/javascript", pages),
        shown_by(
            "/identity/passkey/{secret}",
            "Shows what the passkey is wanted for.",
            lambda secret: pages.passkey(desk.shown(secret)),
            pages,
        ),
        Endpoint(
            method="POST",
            path="/identity/passkey/{secret}",
            summary="Takes the browser's answer, once.",
            handler=answer,
            body_limit=_FORM_LIMIT,
            request=closed({"answer": {"type": "string"}, TYPED: {"type": "string"}}, optional=(TYPED,)),
            refusal=pages.refused,
            variable=B64U,
        ),
    )
