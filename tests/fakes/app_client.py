"""Asks an ASGI application without a socket: its event loop runs on a thread of its own, so tests can ask from several."""

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

import httpx
from starlette.types import ASGIApp


class AppClient:
    """A blocking client of one application. Errors that the application lets through are raised here."""

    def __init__(self, app: ASGIApp, address: str = "127.0.0.1") -> None:
        """`address` is where its requests come from."""
        self.app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="app-client")
        self._thread.start()
        transport = httpx.ASGITransport(app, raise_app_exceptions=True, client=(address, 50_000))
        self._client = httpx.AsyncClient(transport=transport, base_url="https://service.test")

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Send and wait."""
        asked = asyncio.run_coroutine_threadsafe(self._client.request(method, path, **given), self._loop)
        return asked.result(60)

    def get(self, path: str, **given: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        """POST."""
        return self.request("POST", path, **given)

    def close(self) -> None:
        """End the loop and its threads."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
