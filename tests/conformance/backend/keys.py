"""What the backend asks of the process that holds K3."""

import hashlib
import hmac
import json
import subprocess
import sys
import threading
from functools import lru_cache
from typing import Any, Final

from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import ObjectClass
from tests.conformance.backend.breakages import Broken

_CLASS_TAG: Final = b"agentkeys.object.v1"


class Keys:
    """A line to the key process; one question at a time."""

    def __init__(self, epochs: dict[str, str], broken: Broken) -> None:
        command = [sys.executable, "-m", "tests.conformance.backend.keyholder"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._lock = threading.Lock()
        self._broken = broken
        self.current = max(int(epoch) for epoch in epochs)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(epochs) + "\n")
        self.holds = lru_cache(self._holds)
        self.public = lru_cache(self._public)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, do: str, epoch: int, **more: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"do": do, "epoch": epoch, **more}) + "\n")
            return json.loads(self._process.stdout.readline())

    def advance(self) -> None:
        """Have a new epoch begin, of a secret that nobody outside the process ever sees."""
        self.current = self._ask("advance", self.current)
        self.holds.cache_clear()

    def _holds(self, epoch: int) -> bool:
        return bool(self._ask("holds", epoch))

    def _public(self, epoch: int, purpose: str) -> ES256PublicKey:
        return ES256PublicKey.from_jwk(self._ask("es256-public", epoch, purpose=purpose))

    def address(self, epoch: int, omni: bytes) -> bytes:
        return bytes.fromhex(self._ask("address", epoch, omni=omni.hex()))

    def wallet_sign(self, epoch: int, omni: bytes, digest: bytes) -> bytes:
        return bytes.fromhex(self._ask("wallet-sign", epoch, omni=omni.hex(), digest=digest.hex()))

    def es256_sign(self, epoch: int, purpose: str, message: bytes) -> bytes:
        return bytes.fromhex(self._ask("es256-sign", epoch, purpose=purpose, message=message.hex()))

    def _derive(self, epoch: int, salt: bytes, info: bytes, length: int = 32) -> bytes:
        return bytes.fromhex(self._ask("derive", epoch, salt=salt.hex(), info=info.hex(), length=length))

    def object_key(self, epoch: int, kind: ObjectClass, owner: bytes, service: str, salt: bytes) -> tuple[bytes, bytes]:
        """Key and commitment of one version of one object."""
        named = hashlib.sha256(service.encode()).digest()
        info = _CLASS_TAG + bytes((kind,)) + owner + named + salt
        if "wrong-hkdf-info" in self._broken:
            info = _CLASS_TAG + owner + named + salt
        both = self._derive(epoch, b"agentkeys.object-salt.v1", info, 64)
        return both[:32], both[32:]

    def legacy_key(self, epoch: int, omni: bytes) -> bytes:
        """The one key that an owner's old envelopes were made with."""
        return self._derive(epoch, b"agentkeys.kek-salt.v2", b"agentkeys.user.v1" + omni)

    def mac(self, epoch: int, message: bytes) -> bytes:
        """Under the journal MAC key."""
        key = self._derive(epoch, b"agentkeys.journal-salt.v1", b"agentkeys.journal.v1")
        return hmac.digest(key, message, "sha256")
