"""JSON schemas of what broker and workers share, for readers of OpenAPI documents; agentkeys_core does the parsing."""

from collections.abc import Mapping
from typing import Final

JsonSchema = Mapping[str, object]

HEX32: Final[JsonSchema] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
HEX16: Final[JsonSchema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
SECONDS: Final[JsonSchema] = {"type": "integer", "description": "Unix seconds"}
B64U: Final[JsonSchema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]*$", "description": "base64url, no padding"}
B64U32: Final[JsonSchema] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$",
    "description": "32 bytes, base64url, no padding",
}
ADDRESS: Final[JsonSchema] = {"type": "string", "pattern": "^0x[0-9a-f]{40}$"}
EPOCH: Final[JsonSchema] = {"type": "integer", "minimum": 1, "maximum": 2**32 - 1}


def closed(properties: Mapping[str, object], *, optional: tuple[str, ...] = ()) -> dict[str, object]:
    """Return the schema of an object with exactly these members."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


ROW: Final[JsonSchema] = closed(
    {
        "actor": HEX32,
        "envelope": B64U,
        "epoch": EPOCH,
        "kid": {"type": "string"},
        "prev": HEX32,
        "row_hash": HEX32,
        "seq": {"type": "integer"},
        "sig": B64U,
        "ver": {"const": 2},
    }
)
K11: Final[JsonSchema] = {
    "oneOf": [
        {"type": "null"},
        closed({"authenticator_data": B64U, "client_data_json": B64U, "credential_id": B64U, "signature": B64U}),
    ]
}
UNCOSIGNED_CAP: Final[JsonSchema] = closed(
    {"device_public_key": B64U, "device_signature": B64U, "k11": K11, "request": B64U}
)
CAP: Final[JsonSchema] = closed(
    {
        "cosign": B64U,
        "device_public_key": B64U,
        "device_signature": B64U,
        "k11": K11,
        "kid": {"type": "string"},
        "request": B64U,
    }
)
_DEVICE: Final[JsonSchema] = {
    "type": "object",
    "required": ["assurance", "counter_fell", "device_key_hash", "evidence", "revoked", "roles", "tier"],
    "properties": {
        "actor_omni": HEX32,
        "address": ADDRESS,
        "assurance": {"enum": ["high", "low"]},
        "counter_fell": {"type": "boolean", "description": "A lower K11 counter came after a higher one."},
        "device_key_hash": HEX32,
        "evidence": {"enum": ["wallet", "oidc", "passkey", "email", "master"]},
        "operator_omni": HEX32,
        "registered_at": {"type": "integer"},
        "revoked": {"type": "boolean"},
        "roles": {"type": "integer", "minimum": 0, "maximum": 7},
        "sign_count": {"type": "integer"},
        "tier": {"enum": [1, 2]},
    },
}
OPERATOR_STATE: Final[JsonSchema] = {
    "type": "object",
    "description": "Without a registered operator `devices` is empty.",
    "required": ["devices", "epoch", "freeze_nonce", "frozen", "incarnation", "nonce", "scopes"],
    "properties": {
        "devices": {"type": "array", "items": _DEVICE},
        "epoch": EPOCH,
        "freeze_nonce": {"type": "integer"},
        "frozen": {"type": "boolean"},
        "incarnation": {"type": "integer"},
        "nonce": {"type": "integer"},
        "operator_omni": HEX32,
        "rotations": {
            "type": "array",
            "items": closed({"device": HEX32, "due_at": {"type": "integer"}, "new_address": ADDRESS}),
        },
        "scopes": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
        "threshold": {"type": "integer"},
        "torn_down": {
            "type": "object",
            "description": "Class bits by owner: 1 credentials, 2 memory.",
            "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 3},
        },
        "wallet": ADDRESS,
        "wallet_epoch": {"type": "integer"},
    },
}
SIGNED_CHANGE: Final[JsonSchema] = closed(
    {
        "change": closed({"message": {"type": "object"}, "type": {"type": "string"}}),
        "signatures": closed(
            {
                "k10": B64U,
                "k11": {"type": "array", "items": {"type": "object"}},
                "new_device": B64U,
                "pair": closed({"message": {"type": "object"}, "signature": B64U}),
                "wallet": B64U,
            },
            optional=("new_device", "pair", "wallet"),
        ),
    }
)
