"""The user's wallet of the tests: Anvil, a process of its own, whose keys and signatures nobody here made."""

import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from tests.services import program

_READY = "Listening on "


class WalletError(Exception):
    """What a wallet refuses with (EIP-1193): a code and words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


@dataclass
class Anvil:
    """Accounts with fresh keys, each unlocked. It mines nothing and asks nobody on any network."""

    accounts: int = 2
    _client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10, trust_env=False))
    _process: subprocess.Popen[str] | None = None
    _address: str = ""

    def start(self) -> None:
        """Listen on a free port of loopback."""
        words = ["--host", "127.0.0.1", "--port", "0", "--accounts", str(self.accounts), "--mnemonic-random"]
        self._process = subprocess.Popen(
            [str(program("anvil")), *words, "--no-mining"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_READY):
                self._address = f"http://{line.removeprefix(_READY).strip()}"
                return
        raise RuntimeError("Anvil did not start")

    def stop(self) -> None:
        """End it by its process id."""
        self._client.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            assert self._process.stdout is not None
            with suppress(OSError):
                self._process.stdout.close()
            self._process = None

    def request(self, method: str, params: Any = ()) -> Any:
        """One call, as a page makes it. Raises `WalletError`."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or []}
        answer = self._client.post(self._address, json=call).json()
        if "error" in answer:
            raise WalletError(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
