"""A first bind in one sitting, on one page: the person chooses a wallet, K10 signs, K11 approves, the wallet signs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agentkeys_core.encoding import hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ids import IdentityType, operator_omni
from device.broker_session import BrokerSession
from device.enrol import Enrolment, complete, offer, sent_before
from device.errors import DeviceError, Trouble
from device.identity import Identity, Part
from device.intent import Intent, change_intent
from device.k11.browser import BrowserAuthenticator
from device.k11.page import Task
from device.k11.port import Authenticator, K11Kind, K11Record
from device.pending_enrol import Pending
from device.registry import operator_path, state_of
from device.session import Device
from device.show import Show
from device.signed_in import SignedIn
from device.wallet_page.questions import agreed, choose_account, sign_change, sign_message
from device.wallet_page.sitting import Sitting, sitting
from device.wallet_sign_in import sign_in

_BACK: Final = "You can close this page and go back to your terminal."


def enrol_on_page(device: Device, kind: K11Kind) -> Enrolment:
    """Enrol this device as the first master of whoever's wallet signs on the page; may be run again at any point.

    Raises:
        DeviceError: `already_initialised` for an agent's folder; `declined`, `k11_timeout`, `k11_page_unavailable`;
            else as `complete` and the authenticator.
        KeyServiceError: the registry's refusal.
    """
    identity = Identity.load(device.home)
    if identity is not None and identity.part is not Part.MASTER:
        raise DeviceError(Trouble.ALREADY_INITIALISED, f"{device.home.path} is an agent's; use another --home")
    if identity is not None:
        return Enrolment(identity=identity)
    done = sent_before(device, Pending.load(device.home), IdentityType.EVM, None)
    if done is not None:
        return done
    with sitting(device.show.wallet_page) as page, _AtPage(device, page, kind) as here:
        try:
            made = _enrol(here, page, kind)
        except (DeviceError, KeyServiceError) as exc:
            page.end("Not enrolled", (str(exc), _BACK))
            raise
        signed_in = _sign_in(here, page, made)
        page.end("Done", (f"This device is enrolled. {_BACK}",))
        return replace(made, signed_in=signed_in)


def _enrol(device: Device, page: Sitting, kind: K11Kind) -> Enrolment:
    while True:
        wallet = choose_account(page.ask, lambda address: _check_free(device, address))
        pending = offer(device, wallet, kind)
        change = pending.change
        intent = change_intent(change, change.digest(device.profile.domain))
        signature = sign_change(page.ask, intent, change.typed_data(device.profile.domain), wallet)
        if signature is not None:
            return complete(device, pending, signature)


def _check_free(device: Device, wallet: bytes) -> None:
    """Refuse a wallet that has a tree already, before anybody signs in vain; the registry is what decides."""
    operator = operator_omni(wallet)
    if device.routes.agreed(operator_path(operator), state_of(operator)):
        detail = "this wallet has a tree already; a master of it can let this machine in (agentkeys pair --master)"
        raise KeyServiceError(Reason.ALREADY_BOUND, detail)


def _sign_in(device: Device, page: Sitting, made: Enrolment) -> SignedIn | None:
    """Sign in with the wallet, if the person wants to; the enrolment stands whatever comes of it."""
    identity = made.identity
    if identity is None or identity.wallet is None:
        return None
    session = BrokerSession(device)
    try:
        done = "This device is the first master of your tree. Its signed row has come back and was verified here."
        if not agreed(page.ask, "Enrolled", done, yes="Sign in at the broker", no="Not now"):
            return None
        return sign_in(
            device, session, identity.wallet, lambda intent, message: sign_message(page.ask, intent, message)
        )
    except (DeviceError, KeyServiceError) as exc:
        device.show.warn(f"Enrolled, but not signed in with the wallet: {exc}")
        return None
    finally:
        session.end()


class _AtPage(Device):
    """The same device, while its person sits at the page: whatever it asks, it asks there."""

    def __init__(self, device: Device, page: Sitting, kind: K11Kind) -> None:
        record, wished = K11Record.load(device.home), device.show.asked_by
        asked = record.kind if record else kind
        show = _PageShow(device.show, page.ask, asked=wished.instead_of(asked) if wished else asked)
        super().__init__(device.home, device.profile, device.k10, show, clock=device.clock)
        self._page = page

    def authenticator(self, kind: K11Kind) -> Authenticator:
        if kind is K11Kind.BROWSER:
            return BrowserAuthenticator(self.show.k11_page, ceremony=self._page.ask)
        return super().authenticator(kind)


class _PageShow(Show):
    """Shows on the terminal as ever, where no page can change it, and has the person agree on the page.

    K11's own question on the page shows what is signed and can be declined, so that nothing is asked twice. `asked` is
    where K11 is.
    """

    def __init__(self, terminal: Show, ask: Callable[[Task], None], *, asked: K11Kind) -> None:
        super().__init__(as_json=terminal.as_json, asked_by=terminal.asked_by)
        self._ask = ask
        self._asks = asked is not K11Kind.BROWSER
        self._intent: Intent | None = None

    def signing(self, intent: Intent) -> None:
        """Show it, in every mode, and keep it for the question that follows."""
        self.about(intent)
        self._intent = intent

    def confirm(self, question: str, *, instead: str = "") -> None:  # noqa: ARG002 - a page can always be asked
        """Have the person agree to what was shown last."""
        intent = self._intent
        if not self._asks:
            return
        if intent is None:
            raise DeviceError(Trouble.INTERNAL, "asked without saying what is signed")
        lines, digest = intent.lines, hex_encode(intent.digest)
        if not agreed(self._ask, intent.title, "", yes="Sign", lines=lines, digest=digest):
            raise DeviceError(Trouble.DECLINED, f"{question} Not confirmed; nothing was signed")
