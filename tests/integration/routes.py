"""The operations of a service as its own OpenAPI document lists them: a route that is added tomorrow is among them."""

import re
from dataclasses import dataclass
from typing import Any

from tests.fakes.app_client import AppClient

_VARIABLE = re.compile(r"\{[a-z_]+\}")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path; `told` is what the document says of it."""

    method: str
    path: str
    told: dict[str, Any]

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.method} {self.path}"

    @property
    def is_page(self) -> bool:
        """Whether a person looks at what comes."""
        return "2XX" in self.told["responses"]

    def at(self, value: str) -> str:
        """The path with this in place of every variable."""
        return _VARIABLE.sub(value, self.path)

    def junk(self) -> dict[str, Any]:
        """What a request needs to be looked at, with a body that nobody can use."""
        content = self.told.get("requestBody", {}).get("content", {"application/json": {}})
        (media,) = content
        return {"content": b"{", "headers": {"Content-Type": media}} if self.method != "GET" else {}


def operations(client: AppClient) -> list[Operation]:
    """Every operation of the service, with the methods that its document names."""
    paths: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    return [
        Operation(method=method.upper(), path=path, told=told)
        for path, methods in paths.items()
        for method, told in methods.items()
    ]
