"""The process that holds K3: each epoch's secret in two halves that are put together for one derivation at a time.

Speaks one JSON object a line on standard input and output. It answers with what is derived and what is signed, never with
a secret. The first line brings the epochs.
"""

import json
import secrets
import sys
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from agentkeys_core.hashes import hkdf_sha256
from agentkeys_core.keys import DeviceKey, ES256PublicKey, es256_sign

_WALLET_SALT: Final = b"agentkeys-signer-v0"
_ES256_SALT: Final = b"agentkeys.es256-salt.v1"


class Module:
    """One of the two: keeps a half of each epoch and can only add it to the other's."""

    def __init__(self) -> None:
        self._halves: dict[int, bytes] = {}

    def keep(self, epoch: int, half: bytes) -> None:
        self._halves[epoch] = half

    def holds(self, epoch: int) -> bool:
        return epoch in self._halves

    def add(self, epoch: int, other: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(self._halves[epoch], other, strict=True))


class KeyHolder:
    """Answers requests."""

    def __init__(self, epochs: dict[str, str]) -> None:
        self._left, self._right = Module(), Module()
        for epoch, secret in epochs.items():
            self._split(int(epoch), bytes.fromhex(secret))

    def _split(self, epoch: int, secret: bytes) -> None:
        mask = secrets.token_bytes(32)
        self._left.keep(epoch, mask)
        self._right.keep(epoch, bytes(a ^ b for a, b in zip(secret, mask, strict=True)))

    def _derive(self, epoch: int, salt: bytes, info: bytes, length: int) -> bytes:
        whole = self._right.add(epoch, self._left.add(epoch, bytes(32)))
        return hkdf_sha256(whole, salt=salt, info=info, length=length)

    def _wallet(self, asked: dict[str, Any]) -> DeviceKey:
        info = b"\x01agentkeys-evm-wallet" + bytes.fromhex(asked["omni"])
        return DeviceKey.from_bytes(self._derive(asked["epoch"], _WALLET_SALT, info, 32))

    def _es256(self, asked: dict[str, Any]) -> ec.EllipticCurvePrivateKey:
        info = f"agentkeys.{asked['purpose']}.v1".encode() + b"\x00"
        scalar = self._derive(asked["epoch"], _ES256_SALT, info, 32)
        return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())

    def answer(self, asked: dict[str, Any]) -> Any:  # noqa: PLR0911 - one return a question
        match asked["do"]:
            case "advance":
                self._split(asked["epoch"] + 1, secrets.token_bytes(32))
                return asked["epoch"] + 1
            case "holds":
                return self._left.holds(asked["epoch"])
            case "address":
                return self._wallet(asked).address.hex()
            case "wallet-sign":
                return self._wallet(asked).sign_recoverable(bytes.fromhex(asked["digest"])).hex()
            case "es256-sign":
                return es256_sign(self._es256(asked), bytes.fromhex(asked["message"])).hex()
            case "es256-public":
                return ES256PublicKey.of(self._es256(asked).public_key()).jwk()
            case "derive":
                salt, info = bytes.fromhex(asked["salt"]), bytes.fromhex(asked["info"])
                return self._derive(asked["epoch"], salt, info, asked["length"]).hex()
        raise ValueError(asked["do"])


def main() -> None:
    holder = KeyHolder(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        print(json.dumps(holder.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
