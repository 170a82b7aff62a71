"""First bind by an e-mail address. It rests on the broker's word, which nobody can check: such a tree is marked low."""

import time
from typing import Final

from agentkeys_core.changes import Enrol
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.evidence import EmailEvidence
from agentkeys_core.ids import IdentityType, identity_omni
from device.broker_session import Prover
from device.enrol import Enrolment
from device.errors import DeviceError, Trouble
from device.identities.binding import bound, change_members, signature_in, signed_enrol, standing
from device.identities.ceremony import Asked, Proving, fingerprint
from device.k11.port import K11Kind
from device.session import Device
from device.setting_up import own_k11
from device.waiting import Pause

EMAIL_PATH: Final = "/v1/identity/email"
ENROL_PATH: Final = "/v1/enrolments/email"
_WARNING: Final = (
    "An address is proved to the broker alone, and your tree will rest on its word (assurance low): whoever runs the"
    " broker, or reads your mail, could bind it too. Where that is not enough, use a passkey, a provider or a wallet."
)


def bind_by_email(device: Device, address: str, *, kind: K11Kind, pause: Pause = time.sleep) -> Enrolment:
    """Enrol this device as the first master of whoever answers the mail to this address.

    Raises:
        DeviceError: `usage` for no address; `identity_not_offered`; else as `Proving.confirmed`, `bound` and the
            authenticator.
        KeyServiceError: a refusal of the broker, the signer or the registry.
    """
    identity = _identity(address)
    done = standing(device, IdentityType.EMAIL, identity)
    if done is not None:
        return done
    show = device.show
    show.need_person()
    show.warn(_WARNING)
    own_k11(device, kind)  # before the mail: its ten minutes are for the mail alone
    shown = fingerprint(device)
    asked = Asked(path=EMAIL_PATH, members={"address": address})
    told = Proving(device, pause=pause).confirmed(
        asked, lambda asks: show.mail(address, shown, asks.code, again=asks.again)
    )
    show.note(f"{address} is confirmed for this device.")

    def ask(change: Enrol) -> bytes:
        members = {"ceremony": told.id, "change": change_members(change)}
        return signature_in(Prover(device).ask("request", "POST", ENROL_PATH, members))

    return bound(device, signed_enrol(device, IdentityType.EMAIL, identity), ask)


def _identity(address: str) -> bytes:
    """The identity omni (32 bytes), in which only A-Z are lowered. Raises `usage` for no address."""
    try:
        EmailEvidence.from_json({"address": address, "type": "email"})
        return identity_omni(IdentityType.EMAIL, address)
    except KeyServiceError as exc:
        raise DeviceError(Trouble.USAGE, "--email names no e-mail address") from exc
