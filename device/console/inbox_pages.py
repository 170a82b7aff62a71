"""The pages of what was brought here: what to compare, and what one would approve."""

from collections.abc import Callable

from agentkeys_core.registry import OperatorState
from device.agents import known_as
from device.approvals import behind
from device.collected import Collected
from device.console.inbox import Inbox
from device.console.pages import ROLES
from device.console.render import page
from device.intent import change_intent
from device.local_web import Reply
from device.masters import pairing_hash_of
from device.pairing import Offer, shown
from device.pairing_desk import Claimed
from device.session import Device


def pair_page(inbox: Inbox, invitation: Callable[[], str]) -> Reply:
    """Asks for a code or an offer, with the line that has a machine show one; or shows the machine that brought it."""
    match inbox.found:
        case Claimed(hash=value, label=label, services=services):
            pass
        case Offer(hash=value, label=label, k11=None):
            services = ()
        case Offer(hash=value):
            roles = [(int(role), words) for role, words in ROLES]
            return page("new_master.html", hash=shown(value), id=inbox.id, roles=roles)
        case _:
            return page("code.html", line=invitation())
    return page(
        "claimed.html",
        by_file=isinstance(inbox.found, Offer),
        by_link=inbox.by_link,
        hash=shown(value),
        id=inbox.id,
        label=label or "",
        services=" ".join(services),
    )


def changes_page(inbox: Inbox, device: Device, state: OperatorState) -> Reply:
    """Shows what another master began, in the very words that K11 is asked with. Raises as `behind`."""
    collected = inbox.found
    if not isinstance(collected, Collected):
        return page("changes_none.html")
    intent = change_intent(collected.change, collected.change.digest(device.profile.domain))
    pairing = pairing_hash_of(device, collected)
    found = behind(device, collected, state)
    return page(
        "changes.html",
        approved_by=[known_as(master) for master in found.by],
        began=known_as(found.began),
        digest=intent.digest.hex(),
        hash=None if pairing is None else shown(pairing),
        id=inbox.id,
        intent=intent,
        ours=device.k10.key_hash in collected.devices,
        threshold=state.threshold,
    )
