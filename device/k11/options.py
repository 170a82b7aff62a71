"""What an authenticator is asked, as WebAuthn's JSON: the same by a browser and over USB, so that keys fit both."""

from typing import Final

from agentkeys_core.encoding import b64u_encode, hex_encode
from agentkeys_core.k11 import RP_ID
from device.k11.port import K11Record

_ES256: Final = -7


def creation_options(challenge: bytes, *, device_key_hash: bytes, timeout_s: float) -> dict[str, object]:
    """Ask for a fresh ES256 key with user verification; it need not be discoverable, since its id is on record."""
    return {
        "attestation": "none",
        "authenticatorSelection": {"residentKey": "discouraged", "userVerification": "required"},
        "challenge": b64u_encode(challenge),
        "pubKeyCredParams": [{"alg": _ES256, "type": "public-key"}],
        "rp": {"id": RP_ID, "name": "AgentKeys on this machine"},
        "timeout": int(timeout_s * 1000),
        "user": {
            "displayName": "AgentKeys master",
            "id": b64u_encode(device_key_hash),
            "name": hex_encode(device_key_hash)[:16],
        },
    }


def request_options(challenge: bytes, *, record: K11Record, timeout_s: float) -> dict[str, object]:
    """Ask the recorded key alone, with user verification."""
    return {
        "allowCredentials": [{"id": b64u_encode(record.credential_id), "type": "public-key"}],
        "challenge": b64u_encode(challenge),
        "rpId": RP_ID,
        "timeout": int(timeout_s * 1000),
        "userVerification": "required",
    }
