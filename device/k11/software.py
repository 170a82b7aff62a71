"""A software authenticator: for development, tests and the demo only.

It asks nobody. Its key lies in `software-authenticator.json` beside K10, so a thief of the one has both; registries
refuse it unless they were started with `--allow-software-k11`.
"""

import secrets
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from agentkeys_core.encoding import b64u_decode, b64u_encode, canonical_json, fields, parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from agentkeys_core.k11 import RP_ID_HASH, SOFTWARE_ORIGIN, K11Assertion
from agentkeys_core.shapes import integer
from device.errors import DeviceError, Trouble
from device.home import Home
from device.intent import Intent
from device.k11.port import K11Kind, K11Record
from device.keys import SignedDigest

SOFTWARE_FILE: Final = "software-authenticator.json"
BANNER: Final = "DEVELOPMENT ONLY: K11 is a software authenticator; it approves by itself, and its key lies beside K10"
_USER_PRESENT_AND_VERIFIED: Final = 0x05
_VERSION: Final = 1
_LIMIT: Final = 4096
_BAD: Final = Reason.INVALID_ENCODING


class SoftwareAuthenticator:
    """Approves whatever K10 signed, without asking."""

    __slots__ = ("_home",)

    def __init__(self, home: Home) -> None:
        self._home = home

    def create(self, home: Home, *, device_key_hash: bytes) -> K11Record:  # noqa: ARG002 - a real one binds its user handle to it
        """Make a key in the folder and return its public half; one already there is used again."""
        with home.locked():
            stored = _load(home)
            if stored is None:
                private = ec.generate_private_key(ec.SECP256R1())
                stored = (secrets.token_bytes(32), private, 0)
                home.create(SOFTWARE_FILE, _encode(*stored))
        credential_id, private, _ = stored
        numbers = private.public_key().public_numbers()
        x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
        return K11Record(kind=K11Kind.SOFTWARE, credential_id=credential_id, x=x, y=y)

    def approve(self, record: K11Record, signed: SignedDigest, intent: Intent) -> K11Assertion:  # noqa: ARG002 - it shows nothing
        """Return an assertion; the counter on disk has moved on when this returns."""
        signed.check()
        with self._home.locked():
            stored = _load(self._home)
            if stored is None or stored[0] != record.credential_id:
                raise DeviceError(
                    Trouble.K11_MISSING, f"{self._home.path / SOFTWARE_FILE} does not hold this device's K11"
                )
            credential_id, private, counter = stored
            counter += 1
            self._home.write(SOFTWARE_FILE, _encode(credential_id, private, counter))
        client_data = _client_data(signed.challenge)
        authenticator_data = RP_ID_HASH + bytes([_USER_PRESENT_AND_VERIFIED]) + counter.to_bytes(4, "big")
        signature = private.sign(authenticator_data + sha256(client_data), ec.ECDSA(SHA256()))
        return K11Assertion(
            authenticator_data=authenticator_data,
            client_data_json=client_data,
            credential_id=credential_id,
            signature=signature,
        )


def _client_data(challenge: bytes) -> bytes:
    members = {
        "type": "webauthn.get",
        "challenge": b64u_encode(challenge),
        "origin": SOFTWARE_ORIGIN,
        "crossOrigin": False,
    }
    return canonical_json(members)


def _encode(credential_id: bytes, private: ec.EllipticCurvePrivateKey, counter: int) -> bytes:
    return canonical_json(
        {
            "counter": counter,
            "credential_id": b64u_encode(credential_id),
            "private_key": b64u_encode(private.private_numbers().private_value.to_bytes(32, "big")),
            "ver": _VERSION,
            "warning": BANNER,
        }
    )


def _load(home: Home) -> tuple[bytes, ec.EllipticCurvePrivateKey, int] | None:
    data = home.read(SOFTWARE_FILE)
    if data is None:
        return None
    try:
        members = fields(
            parse_canonical(data, limit=_LIMIT, not_canonical=_BAD),
            required=("counter", "credential_id", "private_key", "ver", "warning"),
            reason=_BAD,
        )
        scalar = int.from_bytes(b64u_decode(members["private_key"], length=32), "big")
        private = ec.derive_private_key(scalar, ec.SECP256R1())
        counter = integer(members["counter"], "counter", high=2**32 - 2, reason=_BAD)
        return b64u_decode(members["credential_id"]), private, counter
    except (KeyServiceError, ValueError) as exc:
        raise DeviceError(Trouble.BAD_FILE, f"{home.path / SOFTWARE_FILE} is damaged") from exc
