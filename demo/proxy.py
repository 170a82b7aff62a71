"""A TCP proxy that somebody on the way could be: it passes bytes on, holds them up, or refuses."""

import socket
import threading
from contextlib import suppress
from typing import Self

from demo.process import free_port

_CHUNK = 65_536


class Detour:
    """Listens on a loopback port of its own and passes every connection on to `target`, another one.

    `hold` keeps back every byte in both directions, connections stay open: silence. `refuse` cuts all connections and
    takes no new ones in. `pass_on` ends either; held bytes then go their way.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.target = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, name="detour", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def hold(self) -> None:
        """Pass nothing on."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Cut what is open and end every new connection at once."""
        self._refusing = True
        self._cut()

    def pass_on(self) -> None:
        """Let everything through."""
        self._refusing = False
        self._flowing.set()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        self._refusing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone does not wake up a thread that accepts
        self._listener.close()
        self._flowing.set()
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            threads = [
                threading.Thread(target=self._pump, args=pair, daemon=True) for pair in ((near, far), (far, near))
            ]
            for thread in threads:
                thread.start()
            threading.Thread(target=self._reap, args=(near, far, threads), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flowing.wait()
                sink.sendall(data)
        self._flowing.wait()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _reap(self, near: socket.socket, far: socket.socket, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()
