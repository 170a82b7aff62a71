"""A console on a free port, over a master's folder, for tests that ask it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from device.console.site import Console
from device.home import Home
from device.local_web import TOKEN_HEADER, serving
from device.show import Show


@dataclass
class Visitor:
    """Asks as the console's own page does; `headers` in place of its own."""

    console: Console
    address: str
    client: httpx.Client

    @property
    def root(self) -> str:
        """Everything of this console lies below it."""
        return self.address.partition("/#")[0]

    @property
    def origin(self) -> str:
        return self.root.rpartition("/")[0]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(self.root + path, headers={TOKEN_HEADER: self.console.token} | headers)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        own = {TOKEN_HEADER: self.console.token, "Origin": self.origin, "Content-Type": "application/json"}
        given = {name: value for name, value in (own | headers).items() if value}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(self.root + path, content=content, headers=given)

    def handed(self, text: str) -> dict[str, Any]:
        """Bring what a file holds."""
        return self.send("/hand-in", text=text)

    def id_on(self, page: str) -> str:
        """The id of what a page shows; empty where there is none."""
        shown = re.search('name="id" value="([0-9a-f]{32})"', self.get(f"/page/{page}").text)
        return "" if shown is None else shown[1]

    def approve(self, page: str = "pair", /, **fields: str | list[str]) -> dict[str, Any]:
        """Approve what a page shows, by the id that it carries."""
        given: dict[str, str | list[str]] = {"id": self.id_on(page), "compared": "yes"}
        return self.send("/approve", **(given | fields))

    def answer(self, answer: str) -> httpx.Response:
        """Answer what is asked just now, by the id that the page carries."""
        return self.post("/answer", {"id": [self.id_on("job")], "answer": [answer]})

    def agree(self) -> str:
        """Agree to what is asked; the page that follows."""
        assert self.answer("confirmed").json() == {"go": "job"}
        return self.get("/page/job").text

    def stop(self, page: str = "job") -> dict[str, Any]:
        """Stop what a page shows."""
        return self.send("/stop", id=self.id_on(page))

    def file(self) -> httpx.Response:
        """The file that the page of the last job links to."""
        link = re.search('data-download="([^"]+)"', self.get("/page/job").text)
        return self.get("/page/file" if link is None else link[1])

    def send(self, path: str, **fields: str | list[str]) -> dict[str, Any]:
        """Submit a form; what was told."""
        body = {name: [value] if isinstance(value, str) else value for name, value in fields.items()}
        told: dict[str, Any] = self.post(path, body).json()
        return told


@contextmanager
def console_at(folder: Path, terminal: Show | None = None) -> Iterator[Visitor]:
    """A console that serves."""
    with Home.open(folder) as home, httpx.Client(trust_env=False, timeout=40) as client:
        console = Console(home, terminal or Show(as_json=True), pause_s=0.05)
        try:
            with serving(console) as address:
                yield Visitor(console, address, client)
        finally:
            console.close()
