"""The security keys of one ceremony, opened: which of them can serve, which holds the key, which one is touched."""

import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from fido2.client import DefaultClientDataCollector, Fido2Client
from fido2.ctap2.base import Ctap2
from fido2.hid import CAPABILITY, CtapHidDevice

from agentkeys_core.k11 import K11_ORIGIN, RP_ID
from device.errors import DeviceError, Trouble
from device.k11.errand import Errand
from device.k11.key_refusals import ERR, code_of, refusal, unsuitable
from device.k11.port import K11Record
from device.k11.usb import PluggedKey

_LOOK_S: Final = 0.2
#: How long the keys that were not touched may take to stop blinking, before they are left alone.
_GRACE_S: Final = 2.0
_NOT_MINE: Final = frozenset({ERR.NO_CREDENTIALS, ERR.INVALID_CREDENTIAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKey:
    """A key that answered. `ctap2` is None for one that speaks U2F alone."""

    name: str
    device: CtapHidDevice
    ctap2: Ctap2 | None


def open_keys(plugged: Sequence[PluggedKey], stack: ExitStack, errand: Errand[Any]) -> list[OpenKey]:
    """Open all keys that can be; `stack` closes them. Where none can, raise what the first one's trouble was."""
    opened: list[OpenKey] = []
    troubles: list[Exception] = []
    for key in plugged:
        try:
            device = stack.enter_context(key.open())
            speaks = CAPABILITY.CBOR.supported(CAPABILITY(device.capabilities))
            opened.append(OpenKey(name=key.name, device=device, ctap2=Ctap2(device) if speaks else None))
        except Exception as exc:  # noqa: BLE001 - the library raises anything at what a key answers
            troubles.append(refusal(key.name, exc))
    if not opened:
        raise troubles[0]
    for trouble in troubles:
        errand.hint(f"left out: {trouble}")
    return opened


def suitable(keys: Sequence[OpenKey]) -> list[OpenKey]:
    """Return the keys that can verify their user. Raises `k11_key_unsuitable` or `k11_pin_not_set`."""
    troubles = [unsuitable(key.name, key.ctap2.info if key.ctap2 else None) for key in keys]
    fitting = [key for key, trouble in zip(keys, troubles, strict=True) if trouble is None]
    told = [trouble for trouble in troubles if trouble is not None]
    if not fitting:
        raise DeviceError(told[0].reason, "; ".join(trouble.detail for trouble in told))
    return fitting


def holding(keys: Sequence[OpenKey], record: K11Record) -> list[OpenKey]:
    """Return the keys that say, without a touch, that they hold this K11; what they say only chooses whom to ask.

    Raises:
        DeviceError: `k11_missing` where none does; `k11_key_unsuitable` where none could; what was wrong with the
            first that gave no answer.
    """
    speaking = [(key, key.ctap2) for key in keys if key.ctap2 is not None]
    if not speaking:
        return suitable(keys)
    sure: list[OpenKey] = []
    maybe: list[OpenKey] = []
    troubles: list[Exception] = []
    for key, ctap2 in speaking:
        try:
            allow: list[Mapping[str, object]] = [{"id": record.credential_id, "type": "public-key"}]
            ctap2.get_assertion(RP_ID, bytes(32), allow, options={"up": False})
            sure.append(key)
        except Exception as exc:  # noqa: BLE001 - the library raises anything at what a key answers
            code = code_of(exc)
            if code is None:
                troubles.append(refusal(key.name, exc))
            elif code not in _NOT_MINE:
                maybe.append(key)
    if sure or maybe:
        return sure or maybe
    if troubles:
        raise troubles[0]
    asked = ", ".join(key.name for key, _ in speaking)
    words = f"no key that is plugged in holds this device's K11 (asked: {asked}); "
    raise DeviceError(
        Trouble.K11_MISSING,
        words + "one that a browser made may be built into that machine, and is asked with --approve-with browser",
    )


def touched(keys: Sequence[OpenKey], errand: Errand[Any]) -> OpenKey:
    """Return the one key, or of several the one that the person touches; the others stop blinking.

    Raises:
        DeviceError: of the last key that gave up, where none was touched.
    """
    if len(keys) == 1:
        return keys[0]
    errand.hint(f"Several security keys are plugged in. Touch the one to use: {', '.join(key.name for key in keys)}.")
    answers: queue.SimpleQueue[tuple[OpenKey, Exception | None]] = queue.SimpleQueue()
    over = threading.Event()
    threads = [threading.Thread(target=_select, args=(key, over, answers), daemon=True) for key in keys]
    for thread in threads:
        thread.start()
    try:
        return _first(len(keys), answers, errand.cancelled)
    finally:
        over.set()
        for thread in threads:
            thread.join(_GRACE_S)


def _first(
    waiting: int, answers: "queue.SimpleQueue[tuple[OpenKey, Exception | None]]", cancelled: threading.Event
) -> OpenKey:
    while True:
        try:
            key, error = answers.get(timeout=_LOOK_S)
        except queue.Empty:
            if cancelled.is_set():
                raise DeviceError(Trouble.K11_TIMEOUT, "no key was touched") from None
            continue
        if error is None:
            return key
        waiting -= 1
        if not waiting:
            raise refusal(key.name, error) from error


def _select(
    key: OpenKey, over: threading.Event, answers: "queue.SimpleQueue[tuple[OpenKey, Exception | None]]"
) -> None:
    try:
        Fido2Client(key.device, DefaultClientDataCollector(K11_ORIGIN)).selection(over)
        answers.put((key, None))
    except Exception as exc:  # noqa: BLE001 - raised again where it is waited for
        answers.put((key, exc))
