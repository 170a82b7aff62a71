"""A wallet extension of the tests: put into every page, announced by EIP-6963, its answers given by Anvil."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import BrowserContext

from tests.fakes.anvil import Anvil, WalletError

REJECTED = WalletError(4001, "MetaMask Tx Signature: User denied message signature.")

# As an extension does it: a provider, an announcement, and another one for each page that asks.
_SCRIPT = """
(() => {
  const provider = {
    request: async ({ method, params }) => {
      const told = await window[BINDING](method, params === undefined ? null : params);
      if (told.error) throw Object.assign(new Error(told.error.message), { code: told.error.code });
      return told.result;
    },
  };
  const detail = Object.freeze({ info: Object.freeze(INFO), provider });
  const announce = () => window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }));
  window.addEventListener("eip6963:requestProvider", announce);
  announce();
})();
"""

Request = Callable[[str, Any], Any]


@dataclass
class BrowserWallet:
    """One extension. `act` may stand in for Anvil, and ask it by `honest`; `asked` lists the methods that were called.

    `offers` are the accounts that it lets pages see, Anvil's by number.
    """

    anvil: Anvil
    name: str = "Test Wallet"
    rdns: str = "test.wallet"
    icon: str = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>"
    uuid: str = "350670db-19fa-4704-a166-e52e178b59d2"
    offers: Sequence[int] = (0, 1)
    act: Request | None = None
    asked: list[str] = field(default_factory=list)

    def account(self, number: int) -> str:
        """An account of Anvil's, lower-case."""
        accounts: list[str] = self.anvil.request("eth_accounts")
        return accounts[number]

    def honest(self, method: str, params: Any) -> Any:
        """What the wallet of an honest person does."""
        if method in ("eth_requestAccounts", "eth_accounts"):
            return [self.account(number) for number in self.offers]
        return self.anvil.request(method, params)

    def put_into(self, context: BrowserContext) -> None:
        """Have every page of the context meet it."""
        binding = f"wallet_{self.uuid.replace('-', '')}"
        context.expose_binding(binding, self._answer)
        info = {"uuid": self.uuid, "name": self.name, "icon": self.icon, "rdns": self.rdns}
        context.add_init_script(_SCRIPT.replace("BINDING", json.dumps(binding)).replace("INFO", json.dumps(info)))

    def _answer(self, _: object, method: str, params: Any) -> dict[str, Any]:
        self.asked.append(method)
        try:
            return {"result": (self.act or self.honest)(method, params)}
        except WalletError as exc:
            return {"error": {"code": exc.code, "message": exc.message}}
