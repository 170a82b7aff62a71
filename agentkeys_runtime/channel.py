"""A gRPC channel that takes up replaced client certificates: gRPC for Python reads them only when a channel is made."""

from collections.abc import Callable
from typing import Any, Self

import grpc

from agentkeys_runtime.files import Watched


class ReloadingChannel(grpc.Channel):
    """Sends each call through the newest channel that `channels` holds.

    Calls that run on an older one end by themselves there; that one is dropped, not closed, so that none is cut off.
    """

    def __init__(self, channels: Watched[grpc.Channel]) -> None:
        self._channels = channels
        self._closed = False

    def current(self) -> grpc.Channel:
        """Return the channel that the next call uses."""
        if self._closed:
            raise ValueError("the channel is closed")  # as gRPC's own channels do
        return self._channels.get()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for a unary RPC."""
        return _Method(self, lambda channel: channel.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for an RPC that answers with a stream."""
        return _Method(self, lambda channel: channel.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for an RPC that takes a stream."""
        return _Method(self, lambda channel: channel.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return a callable for an RPC of two streams."""
        return _Method(self, lambda channel: channel.stream_stream(method, *args, **kwargs))

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Follow the state of the current channel."""
        self.current().subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Stop following; nothing where the callback followed an older channel."""
        self.current().unsubscribe(callback)

    def close(self) -> None:
        """Close the current channel and end its calls; repeatable."""
        if not self._closed:
            channel = self.current()
            self._closed = True
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Method:
    """One RPC of a stub: the inner callable is made anew when the channel was replaced."""

    def __init__(self, owner: ReloadingChannel, make: Callable[[grpc.Channel], Any]) -> None:
        self._owner = owner
        self._make = make
        channel = owner.current()
        self._made = (channel, make(channel))

    def _inner(self) -> Any:
        channel, callable_ = self._made
        current = self._owner.current()
        if current is not channel:
            callable_ = self._make(current)
            self._made = (current, callable_)
        return callable_

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner()(*args, **kwargs)

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner().with_call(*args, **kwargs)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        return self._inner().future(*args, **kwargs)
