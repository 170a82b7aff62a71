"""What is about to be signed, in plain words: the same lines on the terminal and on the K11 page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agentkeys_core.caprequest import CapRequest
from agentkeys_core.changes import (
    AddAgent,
    AddMaster,
    Change,
    Enrol,
    Freeze,
    Pair,
    RevokeDevice,
    RotateKey,
    SetRoles,
    SetScope,
    SetThreshold,
    Teardown,
    Unfreeze,
)
from agentkeys_core.encoding import address_encode, hex_encode
from agentkeys_core.ops import ObjectClass, Op
from agentkeys_core.pairing import NO_K11
from agentkeys_core.registry import Role

_LAST_MOMENT: Final = 253_402_300_799  # 9999-12-31 23:59:59 UTC
_OPS: Final = {
    Op.CRED_STORE: "Store a credential",
    Op.CRED_DELETE: "Delete a credential for ever",
    Op.CRED_FETCH: "Read a credential",
    Op.CRED_LIST: "List the names of credentials",
    Op.MEMORY_PUT: "Store a memory",
    Op.MEMORY_DELETE: "Delete a memory for ever",
    Op.MEMORY_GET: "Read a memory",
    Op.MEMORY_LIST: "List the names of memories",
    Op.AUDIT_LIST: "Read audit rows",
    Op.SIWE_SIGN: "Sign in with the wallet",
    Op.TYPED_DATA_SIGN: "Sign typed data with the wallet",
}


def moment(unix: int) -> str:
    """A time in UTC, as people read it; what lies beyond the calendar is shown as its last second."""
    return datetime.fromtimestamp(min(unix, _LAST_MOMENT), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A title and lines of (what, value).

    Values come from what is signed, never from an answer of a broker or worker.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    digest: bytes


def request_intent(
    request: CapRequest, *, replaces: bytes | None = None, details: Sequence[tuple[str, str]] = ()
) -> Intent:
    """Describe a capability request.

    `replaces` is the store that a new one puts an end to, `details` are lines about the body that it commits to.
    """
    title = _OPS.get(request.op, str(request.op))
    lines = [
        *details,
        ("service", request.service.text),
        ("for actor", hex_encode(request.actor_omni)),
        ("by device", hex_encode(request.device)),
        ("valid until", moment(request.expires_at)),
    ]
    if replaces is not None:
        title = title.replace("Store", "Replace")
        lines.insert(1, ("ends store", hex_encode(replaces)))
    return Intent(title=title, lines=tuple(lines), digest=request.digest)


def change_intent(change: Change, digest: bytes) -> Intent:
    """Describe a registry change or a `Pair`."""
    title, lines = _described(change)
    lines.append(("operator", hex_encode(change.operator_omni)))
    deadline = getattr(change, "deadline", None)
    if deadline is not None:
        lines.append(("valid until", moment(deadline)))
    return Intent(title=title, lines=tuple(lines), digest=digest)


_ROLE_WORDS: Final = {
    Role.CAP_MINT: "use credentials",
    Role.RECOVERY: "let masters in and out",
    Role.SCOPE_MGMT: "manage agents",
}


def role_words(roles: int) -> str:
    """What a master with these role bits may do."""
    return ", ".join(words for role, words in _ROLE_WORDS.items() if roles & role) or "nothing"


def class_words(classes: int) -> str:
    """The object classes of these bits."""
    return " and ".join(entry.name.lower() for entry in ObjectClass if classes & entry)


def _services(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"


def _restored(incarnation: int) -> list[tuple[str, str]]:
    """A registry's first incarnation is 1, each later one the time of a restore: what followed its backup was lost."""
    if incarnation <= 1:
        return []
    return [("restored", f"{moment(incarnation)}; a device revoked shortly before it may be back: revoke it again")]


def _described(  # noqa: C901, PLR0911, PLR0912 - one return a type reads best
    change: Change,
) -> tuple[str, list[tuple[str, str]]]:
    match change:
        case Enrol():
            return "Make this device the first master of a new tree", [
                ("wallet", address_encode(change.wallet)),
                ("device", address_encode(change.device)),
                ("K11 key", hex_encode(change.k11_cred_id)),
            ]
        case AddMaster():
            return "Let a further master in", [
                ("device", address_encode(change.device)),
                ("K11 key", hex_encode(change.k11_cred_id)),
                ("may", role_words(change.roles)),
            ]
        case SetRoles():
            lines = [("device", hex_encode(change.device_key_hash)), ("may from now on", role_words(change.roles))]
            return "Change what a master may do", lines
        case SetThreshold():
            lines = [("masters needed", str(change.threshold)), ("for", "letting masters in and out, roles, this")]
            return "Change how many masters it takes", lines
        case RotateKey():
            lines = [("old key of", hex_encode(change.old_device_key_hash))]
            return "Replace a master's device key", [*lines, ("new key", address_encode(change.new_device))]
        case Teardown():
            lines = [("refused for ever", f"every key of {class_words(change.classes)}"), ("way back", "none")]
            return "Destroy stored data for ever", [*lines, ("owner", hex_encode(change.actor_omni))]
        case AddAgent():
            return "Let a new agent device in", [
                ("agent", f"{change.label}, generation {change.generation}"),
                ("is granted", _services(change.services)),
                ("device", address_encode(change.device)),
                ("actor", hex_encode(change.actor_omni)),
            ]
        case SetScope():
            lines = [("grant", _services(change.grant)), ("take away", _services(change.revoke))]
            return "Change what an agent may use", [*lines, ("actor", hex_encode(change.actor_omni))]
        case RevokeDevice():
            return "Revoke a device for ever", [("device", hex_encode(change.device_key_hash))]
        case Freeze():
            return "Freeze everything of this operator", [("until", "a master unfreezes it")]
        case Unfreeze():
            return "End the freeze", _restored(change.incarnation)
        case Pair():
            lines = [("device", address_encode(change.device)), ("profile", hex_encode(change.profile_hash))]
            if change.k11_cred_id != NO_K11:
                lines.append(("as a master, K11 key", hex_encode(change.k11_cred_id)))
            return "Ask to join an operator", [*lines, ("offer ends", moment(change.expires_at))]
        case _:
            return f"Registry change {change.type}", [(name, str(value)) for name, value in change.to_message().items()]
