"""A person with security keys in hand, and a browser that asks them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from fido2.client import DefaultClientDataCollector, Fido2Client, UserInteraction
from fido2.webauthn import PublicKeyCredentialCreationOptions, PublicKeyCredentialRequestOptions

from agentkeys_core.encoding import b64u_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.k11 import K11_ORIGIN
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11.browser import BrowserAuthenticator
from device.k11.page import Task
from device.k11.port import K11Record
from device.k11.security_key import SecurityKeyAuthenticator
from device.k11.usb import PluggedKey
from device.keys import SignedDigest
from tests.fakes.security_key import PIN, SecurityKey

Signed = tuple[SignedDigest, Intent]
WRONG = "314159"


class Hands:
    """The person, as far as the program sees them: types these PINs, and remembers what was said and in which order."""

    def __init__(self, *pins: str, on_touch: Callable[[], None] = lambda: None) -> None:
        self.pins = list(pins)
        self.said: list[str] = []
        self._on_touch = on_touch

    def about(self, intent: Intent) -> None:
        self.said.append(f"intent {intent.digest.hex()}")

    def hint(self, words: str) -> None:
        self.said.append(words)
        if "now:" in words:
            self._on_touch()

    def pin(self, question: str) -> str:
        self.said.append(question)
        if not self.pins:
            raise DeviceError(Trouble.DECLINED, "no more PINs")
        return self.pins.pop(0)

    @property
    def text(self) -> str:
        return "\n".join(self.said)


def using(hands: Hands, *keys: PluggedKey | SecurityKey, **limits: float) -> SecurityKeyAuthenticator:
    plugged = [key.plugged if isinstance(key, SecurityKey) else key for key in keys]
    return SecurityKeyAuthenticator(hands, find=lambda: plugged, **limits)


def made_on(home: Home, key: SecurityKey, *pins: str) -> K11Record:
    return using(Hands(*(pins or (PIN,))), key).create(home, device_key_hash=bytes(32))


@contextmanager
def refused(*reasons: Trouble | Reason, saying: str = "") -> Iterator[None]:
    with pytest.raises((DeviceError, KeyServiceError)) as caught:
        yield
    error = caught.value
    assert isinstance(error, (DeviceError, KeyServiceError))
    assert error.reason in reasons, error
    assert saying in error.detail


class _Browser(UserInteraction):
    def request_pin(self, *_: object) -> str:
        return PIN


def asked_in_a_browser(key: SecurityKey) -> Callable[[Task], None]:
    """Answers a ceremony as a browser does that asks a roaming key."""

    def ceremony(task: Task) -> None:
        with key.plugged.open() as device:
            client = Fido2Client(device, DefaultClientDataCollector(K11_ORIGIN), _Browser())
            if task.kind == "create":
                made = client.make_credential(PublicKeyCredentialCreationOptions.from_dict(task.options))
                parts = {"attestation_object": made.response.attestation_object, "credential_id": made.raw_id}
                task.accept(encoded(parts | {"client_data_json": made.response.client_data}))
            else:
                given = client.get_assertion(PublicKeyCredentialRequestOptions.from_dict(task.options)).get_response(0)
                parts = {"authenticator_data": given.response.authenticator_data, "credential_id": given.raw_id}
                more = {"client_data_json": given.response.client_data, "signature": given.response.signature}
                task.accept(encoded(parts | more))

    def encoded(parts: Mapping[str, bytes]) -> dict[str, str]:
        return {name: b64u_encode(bytes(value)) for name, value in parts.items()}

    return ceremony


def browsing(key: SecurityKey) -> BrowserAuthenticator:
    """K11's page in such a browser."""
    return BrowserAuthenticator(lambda _: None, ceremony=asked_in_a_browser(key))
