"""Proof of an e-mail address: a link that is good once, for ten minutes, and says what it will do before it does it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkeys_core.errors import Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.mailbox import check_email, without_tag
from broker.ceremonies.steps import LIFETIME_S, Begun, Invitation, Steps, detail_of, fingerprint
from broker.networks import site_of
from broker.ports import Ceremony, CeremonyKind, CeremonyState, Counters, Mailer
from broker.proofs import Claim, Proofs
from broker.rates import HOUR_S, Rates

#: Mails in an hour: that one site causes to one address, that go to it in all, and that one client causes.
PER_SITE: Final = 5
PER_ADDRESS: Final = 20
PER_CLIENT: Final = 40
_SUBJECT: Final = "Confirm your address for AgentKeys"
_TEXT: Final = """\
Somebody, hopefully you, asked to bind this address to a device for AgentKeys.

Device   {device}

If your own terminal shows that device right now, open this page. It says what will happen, and asks you for the code
that your terminal shows:

{link}

It is good once, for {minutes} minutes. Never type a code that somebody sent you or told you. If you did not ask for
this, do nothing: without your click nothing happens.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailRequest:
    """What a link would confirm, as people read it."""

    address: str
    device: str


class EmailDesk:
    """Sends links and confirms addresses. Its answers never tell whether an address is known."""

    def __init__(
        self,
        *,
        origin: str,
        proofs: Proofs,
        steps: Steps,
        counters: Counters,
        mailer: Mailer,
        clock: Callable[[], float],
    ) -> None:
        self._origin = origin
        self._proofs = proofs
        self._steps = steps
        self._rates = Rates(counters, clock)
        self._mailer = mailer

    def begin(self, claim: Claim, address: str) -> Invitation:
        """Mail a link for the device that signed `claim` over a challenge of ours (purpose sign-in).

        Raises:
            KeyServiceError: `invalid_body` for no address; as `Proofs.check`; `rate_limited`; as `Outbox.send`, which
                depends on no address.
        """
        proof = self._proofs.check(claim, "sign-in")
        check_email(address, reason=Reason.INVALID_BODY)
        self._proofs.redeem(proof)
        self._charge(b"mail-client:" + claim.client.encode(), PER_CLIENT)
        mailbox = sha256(without_tag(address).encode())
        # One site alone cannot use an address up for its owner; it is charged first, so that its refusals take nothing.
        self._charge(b"mail-site:" + mailbox + site_of(claim.client).encode(), PER_SITE)
        self._charge(b"mail-address:" + mailbox, PER_ADDRESS)
        begun, code = self._steps.invite(proof.device, CeremonyKind.EMAIL, {"address": address})
        self._mailer.send(to=address, subject=_SUBJECT, text=self._text(begun), client=claim.client)
        return Invitation(ceremony=begun.ceremony, code=code)

    def shown(self, secret: str) -> EmailRequest:
        """What the link would confirm; nothing is changed. Raises `ceremony_ended`."""
        found = self._steps.shown(secret, CeremonyKind.EMAIL, CeremonyState.PENDING)
        return _request(found)

    def confirm(self, secret: str, typed: str) -> EmailRequest:
        """Take the address for confirmed, once, by somebody who typed the code that the device shows.

        Raises:
            KeyServiceError: `ceremony_ended`; as `Steps.recognised`.
        """
        found = self._steps.shown(secret, CeremonyKind.EMAIL, CeremonyState.PENDING)
        with self._steps.recognised(found, typed) as known:
            self._steps.move(known, CeremonyState.CONFIRMED)
        return _request(found)

    def _charge(self, name: bytes, limit: int) -> None:
        self._rates.charge(name, limit=limit, window_s=HOUR_S, what="too many mails in this hour")

    def _text(self, begun: Begun) -> str:
        link = f"{self._origin}/identity/email/{begun.secret}"
        return _TEXT.format(device=fingerprint(begun.ceremony.device), link=link, minutes=LIFETIME_S // 60)


def _request(found: Ceremony) -> EmailRequest:
    return EmailRequest(address=detail_of(found)["address"], device=fingerprint(found.device))
