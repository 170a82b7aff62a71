"""K11 on a security key over USB, without a browser: asked through the FIDO2 library, believed as little as one."""

import secrets
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, TypeVar

from fido2.client import DefaultClientDataCollector, Fido2Client, UserInteraction
from fido2.ctap2.pin import ClientPin
from fido2.webauthn import PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions

from agentkeys_core.encoding import b64u_encode, hex_encode
from agentkeys_core.k11 import K11_ORIGIN, K11Assertion
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11 import usb
from device.k11.ceremony import read_assertion, read_creation
from device.k11.errand import Errand
from device.k11.key_refusals import ERR, code_of, refusal
from device.k11.key_ring import OpenKey, holding, open_keys, suitable, touched
from device.k11.options import creation_options, request_options
from device.k11.page import TIMEOUT_S
from device.k11.port import Holder, K11Kind, K11Record, check_shown
from device.k11.usb import PluggedKey
from device.keys import SignedDigest

T = TypeVar("T")
#: A key that is not waiting for a person answers within this.
ANSWER_S: Final = 10.0
#: A PIN is typed, or a finger put down, this many times at most; keys block themselves earlier.
_TRIES: Final = 10
_SHORTEST, _LONGEST = 4, 63  # CTAP 2.1, 6.5.1: code points; bytes of UTF-8


class SecurityKeyAuthenticator:
    """Asks the key that holds this device's K11, or for a new one the key that the person touches."""

    __slots__ = ("_answer_s", "_find", "_holder", "_timeout_s")

    def __init__(
        self,
        holder: Holder,
        *,
        find: Callable[[], Sequence[PluggedKey]] | None = None,
        timeout_s: float = TIMEOUT_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._holder = holder
        self._find = find or usb.plugged_in
        self._timeout_s = timeout_s
        self._answer_s = answer_s

    def create(self, home: Home, *, device_key_hash: bytes) -> K11Record:  # noqa: ARG002 - nothing of it is kept in the folder
        """Have a key make an ES256 key with user verification and return its public half."""
        challenge = secrets.token_bytes(32)
        options = creation_options(challenge, device_key_hash=device_key_hash, timeout_s=self._timeout_s)
        self._holder.hint(f"Making the K11 key of device {hex_encode(device_key_hash)}.")

        def ask(errand: Errand[K11Record], keys: Sequence[OpenKey]) -> K11Record:
            key = self._chosen(suitable(keys), errand)
            answer = _answered(errand, key, lambda client: _created(client, options, errand))
            return read_creation(answer, challenge=challenge, kind=K11Kind.SECURITY_KEY)

        return self._run(ask)

    def approve(self, record: K11Record, signed: SignedDigest, intent: Intent) -> K11Assertion:
        """Show the intent, and return the assertion of whoever touched the key after that."""
        check_shown(signed, intent)
        self._holder.about(intent)
        options = request_options(signed.challenge, record=record, timeout_s=self._timeout_s)

        def ask(errand: Errand[K11Assertion], keys: Sequence[OpenKey]) -> K11Assertion:
            key = self._chosen(suitable(holding(keys, record)), errand)
            answer = _answered(errand, key, lambda client: _asserted(client, options, errand))
            return read_assertion(answer, challenge=signed.challenge, record=record)

        return self._run(ask)

    def _run(self, ask: Callable[[Errand[T], Sequence[OpenKey]], T]) -> T:
        def work(errand: Errand[T]) -> T:
            try:
                with ExitStack() as stack:
                    return ask(errand, open_keys(self._find(), stack, errand))
            except Exception as exc:  # what a key says of itself is its answer too
                raise refusal("a security key", exc) from exc

        late = DeviceError(Trouble.K11_KEY_LOST, "a security key does not answer; pull it out and plug it in again")
        return Errand[T](self._holder).run(work, limit_s=self._answer_s, late=late)

    def _chosen(self, keys: Sequence[OpenKey], errand: Errand[T]) -> OpenKey:
        late = DeviceError(Trouble.K11_TIMEOUT, f"nobody approved within {self._timeout_s:.0f} s")
        errand.within(self._timeout_s, late)
        return touched(keys, errand)


class _Person(UserInteraction):
    """Passes the library's questions on."""

    def __init__(self, errand: Errand[T], name: str) -> None:
        self._errand = errand
        self._name = name
        self.wrong = ""

    def prompt_up(self) -> None:
        self._errand.hint(f"Touch your security key now: {self._name}")

    def request_uv(self, permissions: ClientPin.PERMISSION, rp_id: str | None) -> bool:  # noqa: ARG002 - one purpose
        self._errand.hint(f"{self.wrong}Put your finger on the sensor of your security key now: {self._name}")
        return True

    def request_pin(self, permissions: ClientPin.PERMISSION, rp_id: str | None) -> str:  # noqa: ARG002 - one purpose
        said = self.wrong
        while True:
            pin = unicodedata.normalize("NFC", self._errand.pin(f"{said}PIN of {self._name}: "))
            if not pin or (len(pin) >= _SHORTEST and len(pin.encode()) <= _LONGEST):
                return pin
            said = f"A PIN has {_SHORTEST} characters or more, and {_LONGEST} bytes at most. "


def _answered(errand: Errand[T], key: OpenKey, ask: Callable[[Fido2Client], dict[str, str]]) -> dict[str, str]:
    """Return a key's answer, after as many PINs or fingers as the key takes."""
    person = _Person(errand, key.name)
    for _ in range(_TRIES):
        try:
            return ask(Fido2Client(key.device, DefaultClientDataCollector(K11_ORIGIN), person, extensions=()))
        except Exception as exc:
            match code_of(exc):
                case ERR.PIN_INVALID:
                    person.wrong = f"Wrong PIN; {_tries_left(key)} before the key blocks it. "
                case ERR.UV_INVALID:
                    person.wrong = "Not recognised. "
                case _:
                    raise refusal(key.name, exc) from exc
    raise DeviceError(Trouble.K11_PIN_BLOCKED, f"{key.name}: {_TRIES} tries and none was right")


def _tries_left(key: OpenKey) -> str:
    if key.ctap2 is None:
        return "few tries left"
    try:
        left = int(ClientPin(key.ctap2).get_pin_retries()[0])
    except Exception as exc:
        raise refusal(key.name, exc) from exc
    return f"{left} {'try' if left == 1 else 'tries'} left"


def _created(client: Fido2Client, options: Mapping[str, object], errand: Errand[K11Record]) -> dict[str, str]:
    made = client.make_credential(PublicKeyCredentialCreationOptions.from_dict(options), errand.cancelled)
    return {
        "attestation_object": b64u_encode(bytes(made.response.attestation_object)),
        "client_data_json": b64u_encode(bytes(made.response.client_data)),
        "credential_id": b64u_encode(bytes(made.raw_id)),
    }


def _asserted(client: Fido2Client, options: Mapping[str, object], errand: Errand[K11Assertion]) -> dict[str, str]:
    chosen = client.get_assertion(PublicKeyCredentialRequestOptions.from_dict(options), errand.cancelled)
    given = chosen.get_response(0)
    return {
        "authenticator_data": b64u_encode(bytes(given.response.authenticator_data)),
        "client_data_json": b64u_encode(bytes(given.response.client_data)),
        "credential_id": b64u_encode(bytes(given.raw_id)),
        "signature": b64u_encode(bytes(given.response.signature)),
    }
