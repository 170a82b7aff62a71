"""What the page asks of a wallet. It is composed here, and an answer counts only as far as it proves itself here.

Whatever runs in the browser may lie, the wallet and other extensions included: a signature is good if the account that
the person chose is recovered from it over this program's own digest.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final

from agentkeys_core.checksum import checksum_encode
from agentkeys_core.encoding import fields, hex_decode, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import eip191_digest, recover_address
from agentkeys_core.shapes import boolean, text
from agentkeys_core.siwe import SiweMessage
from device.errors import DeviceError, Trouble
from device.intent import Intent
from device.k11.page import Task

_BAD: Final = Reason.INVALID_ENCODING
_ADDRESS_BYTES: Final = 20
_SIGNATURE_BYTES: Final = 65
_LEGACY_V: Final = 27
_OTHER_ACCOUNT: Final = {"other_account": True}

Ask = Callable[[Task], None]


def choose_account(ask: Ask, check: Callable[[bytes], None]) -> bytes:
    """Return the account (20 bytes) that the person chose in a wallet; it has proven nothing yet.

    `check` raises KeyServiceError or DeviceError for an account that cannot be taken: the person may choose another.

    Raises:
        DeviceError: as `ask`.
    """
    chosen: list[bytes] = []

    def accept(obj: object) -> None:
        address = _address(obj)
        check(address)
        chosen.append(address)

    ask(
        Task(
            kind="account",
            title="Choose the wallet that names you",
            lines=(),
            digest="",
            options={},
            accept=accept,
        )
    )
    return chosen[0]


def agreed(
    ask: Ask,
    title: str,
    words: str,
    *,
    yes: str,
    no: str = "",
    lines: tuple[tuple[str, str], ...] = (),
    digest: str = "",
) -> bool:
    """Return what the person answers with one of two buttons; without `no` there is but one, and a way to decline.

    Raises:
        DeviceError: as `ask`.
    """
    given: list[bool] = []
    options = {"no": no, "words": words, "yes": yes}

    def accept(obj: object) -> None:
        given.append(boolean(fields(obj, required=("confirmed",), reason=_BAD)["confirmed"], "confirmed", reason=_BAD))

    ask(Task(kind="confirm", title=title, lines=lines, digest=digest, options=options, accept=accept))
    return given[0]


def sign_change(ask: Ask, intent: Intent, typed_data: Mapping[str, object], wallet: bytes) -> bytes | None:
    """Return the wallet's signature (65 bytes) over `intent.digest`; None where the person wants another account.

    Args:
        ask: has the person answer a task.
        intent: what is signed, in words, and the EIP-712 digest of it.
        typed_data: the same as the JSON that wallets take.
        wallet: the account that must have signed.

    Raises:
        DeviceError: as `ask`.
    """
    task, given = _signing(
        kind="typed_data",
        intent=intent,
        wallet=wallet,
        digest=intent.digest,
        content={"typed_data": json.dumps(typed_data)},
        may_change=True,
    )
    ask(task)
    return given[0]


def sign_message(ask: Ask, intent: Intent, message: SiweMessage) -> bytes:
    """Return the EIP-191 signature (65 bytes) of the message's own address over it. Raises as `ask`."""
    words = message.encode()
    task, given = _signing(
        kind="message",
        intent=intent,
        wallet=message.address,
        digest=eip191_digest(words.encode("ascii")),
        content={"message": words},
        may_change=False,
    )
    ask(task)
    signature = given[0]
    if signature is None:
        raise DeviceError(Trouble.INTERNAL, "no signature")
    return signature


def _signing(
    *, kind: str, intent: Intent, wallet: bytes, digest: bytes, content: Mapping[str, object], may_change: bool
) -> tuple[Task, list[bytes | None]]:
    given: list[bytes | None] = []

    def accept(obj: object) -> None:
        if may_change and obj == _OTHER_ACCOUNT:
            given.append(None)
            return
        signature = _signature(obj)
        if recover_address(digest, signature) != wallet:
            raise DeviceError(
                Trouble.WALLET_SIGNATURE_INVALID,
                f"that is not the signature of {checksum_encode(wallet)} over what is asked. Was another account "
                "active in the wallet, or did it sign something else? Contract accounts cannot sign here.",
            )
        given.append(signature)

    options = {**content, "address": checksum_encode(wallet), "may_change": may_change}
    task = Task(
        kind=kind, title=intent.title, lines=intent.lines, digest=hex_encode(digest), options=options, accept=accept
    )
    return task, given


def _address(obj: object) -> bytes:
    """Read the account. Capitals may be a checksum or none: wallets write both. Raises `invalid_encoding`."""
    return _hex(fields(obj, required=("address",), reason=_BAD)["address"], "account", length=_ADDRESS_BYTES)


def _signature(obj: object) -> bytes:
    """Read r||s||v, and write its v as the registry does: wallets give 0 or 1 as well. Raises `invalid_encoding`."""
    signature = _hex(fields(obj, required=("signature",), reason=_BAD)["signature"], "signature", length=None)
    if len(signature) != _SIGNATURE_BYTES:
        raise KeyServiceError(_BAD, f"a signature of {len(signature)} bytes; contract accounts cannot sign here")
    v = signature[-1]
    return signature[:-1] + bytes([v + _LEGACY_V if v < 2 else v])  # noqa: PLR2004 - 0 and 1


def _hex(value: object, what: str, *, length: int | None) -> bytes:
    digits = text(value, what, reason=_BAD).lower()
    if not digits.startswith("0x"):
        raise KeyServiceError(_BAD, f"the {what} is not hex")
    return hex_decode(digits[2:], length=length, reason=_BAD)
