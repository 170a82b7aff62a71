"""A signer's host side without its sockets: real vault file, real state file, and as many serving processes as asked for."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from agentkeys_core.keys import ES256PublicKey, parse_jwks
from signer.adapters.committer import Committer
from signer.adapters.database import initialise, open_state
from signer.adapters.epoch_store import EpochStore
from signer.adapters.registry_stamp import SharedStamp
from signer.adapters.unseal_keyfile import KeyFileUnsealer
from signer.epoch_board import EpochBoard, EpochKeeper
from signer.gate import Gate
from signer.keyring import Keyring
from signer.private_files import write_private
from signer.rotation import Rotation
from signer.vault import Vault, new_k3
from tests.fakes.clock import StillClock

REGISTRY_ID = "ab" * 32


@dataclass
class Published:
    """What the issuer's origin serves: nothing at first."""

    files: dict[str, str] = field(default_factory=dict)

    def keys(self, path: str) -> Mapping[str, ES256PublicKey]:
        return parse_jwks(self.files.get(path, '{"keys":[]}').encode())


class Deployment:
    """Opens (first: makes) a deployment in a folder, as a start of the signer does."""

    def __init__(self, folder: Path, *, processes: int = 1, clock: StillClock | None = None) -> None:
        self.folder = folder
        self.vault = Vault(folder / "vault.bin")
        self.unsealer = KeyFileUnsealer(folder / "key")
        self.clock = clock or StillClock()
        if not self.vault.path.exists():
            write_private(folder / "key", os.urandom(32), replace=False)
            self.vault.create(self.unsealer, {1: new_k3()})
            with Keyring(self.vault.open(self.unsealer)) as keys:
                initialise(folder / "state.db", registry_id=REGISTRY_ID, keyring=keys, now=int(self.clock.now()))
        secrets, self.key = self.vault.unlock(self.unsealer)
        self.keyring = Keyring(secrets)
        self.keyring.forget_too(self.key.wipe)
        self.database = open_state(folder / "state.db", self.keyring)
        self.committer = Committer(self.database, self.keyring, self.clock)
        self.stamp = SharedStamp.beside(self.database.path, REGISTRY_ID)
        self.gate, self.board = Gate(), EpochBoard(processes)
        self.served = Published()
        self.registry = EpochStore(self.database, self.committer, self.stamp)
        self.others = [Keyring(self.vault.open(self.unsealer)) for _ in range(processes - 1)]
        self.keepers = [
            EpochKeeper(keys, self.vault, self.key, self.board, number)
            for number, keys in enumerate((self.keyring, *self.others))
        ]
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(keeper,)) for keeper in self.keepers]
        for thread in self._threads:
            thread.start()

    def _watch(self, keeper: EpochKeeper) -> None:
        while not self._stopping.wait(0.005):
            keeper.look()

    def stop_watching(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_watching()
        self.committer.close()
        self.database.close()
        self.stamp.close()
        for keys in (self.keyring, *self.others):
            keys.seal()

    def rotation(self, **changed: Any) -> Rotation:
        members: dict[str, Any] = {
            "keyring": self.keyring,
            "vault": self.vault,
            "key": self.key,
            "board": self.board,
            "registry": self.registry,
            "served": self.served.keys,
            "gate": self.gate,
            "clock": self.clock,
        }
        return Rotation(**(members | changed))

    def publish(self, prepared: Mapping[str, object]) -> None:
        files = prepared["files"]
        assert isinstance(files, dict)
        self.served.files = files

    def rotate(self) -> None:
        """Both steps, as the host does them, an hour later."""
        self.clock.forward(3601)
        rotation = self.rotation()
        self.publish(rotation.prepare())
        rotation.commit()

    def methods(self) -> list[str]:
        with self.database.reading() as conn:
            query = "SELECT json_extract(CAST(line AS TEXT), '$.method') FROM journal ORDER BY seq"
            return [method for (method,) in conn.execute(query)]
