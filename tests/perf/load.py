"""The load generator, a process of its own: asks with 16 calls in flight, bytes prepared beforehand, answers uncounted.

    python -m tests.perf.load

Each line of standard input is one JSON object; each is answered by one line.
"""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Final, Self

from agentkeys_runtime import tls13  # noqa: F401 - before grpc

# isort: split
import grpc

from agentkeys.signer.v1 import signer_pb2
from agentkeys_runtime.grpc_errors import from_rpc_error
from agentkeys_runtime.mtls import TlsMaterial
from tests.perf.processes import LOAD_CORE, BenchError, Running

CONCURRENCY: Final = 16
CALL_LIMIT_S: Final = 30.0
RUN_LIMIT_S: Final = 300.0
_LATE: Final = "journal_unavailable"
_LATE_SHARE: Final = 0.1


def write_payloads(path: Path, payloads: Sequence[bytes]) -> Path:
    """Write messages to a file that `read_payloads` reads."""
    path.write_bytes(b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads))
    return path


def read_payloads(path: Path) -> list[bytes]:
    """The messages of a file."""
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        end = place + 4 + int.from_bytes(data[place : place + 4], "big")
        found.append(data[place + 4 : end])
        place = end
    return found


def connect(target: str, certificates: Path, server_name: str | None) -> grpc.Channel:
    """A connection of its own to `target`, with the certificate in that folder."""
    material = TlsMaterial.load(certificates / "cert.pem", certificates / "key.pem", certificates / "ca.pem")
    credentials = grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    channel = grpc.secure_channel(target, credentials, options)
    grpc.channel_ready_future(channel).result(CALL_LIMIT_S)
    return channel


def method_of(channel: grpc.Channel, method: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """A method that takes and gives bytes as they are."""
    found: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return found


def check_served(what: str, refused: Mapping[str, int], *, asked: int) -> None:
    """Return where all was served, but for few that came too late for the journal.

    Raises:
        BenchError: something was refused.
    """
    late = refused.get(_LATE, 0)
    if sum(refused.values()) > late or late > _LATE_SHARE * asked:
        raise BenchError(f"{what}: {dict(refused)}")


class Load:
    """The generator's process, as the bench commands it."""

    def __init__(self, log: Path, cores: set[int] | None = None) -> None:
        self._running = Running("tests.perf.load", log=log, cores=cores or {LOAD_CORE}, stdin=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.stop()

    def connect(
        self, name: str, target: str, certificates: Path, *, server_name: str | None, channels: int = 1
    ) -> None:
        """Open connections under a name."""
        self._ask(
            do="connect",
            name=name,
            target=target,
            certificates=str(certificates),
            server_name=server_name,
            channels=channels,
        )

    def run(self, name: str, method: str, payloads: Path, *, answers: str | None = None) -> int:
        """Send every message once; the number of calls. `answers` names the message of a batch's answers.

        Raises:
            BenchError: a call, or an item of a batch, was refused. Few of them may come too late for the journal: a
                machine that others use as well stands still for half a second now and then.
        """
        answer = self._ask(do="run", name=name, method=method, payloads=str(payloads), seconds=None, answers=answers)
        calls = int(answer["calls"])
        check_served(method, answer["refused"], asked=int(answer["asked"]))
        return calls

    def start(self, name: str, method: str, payloads: Path, *, seconds: float) -> None:
        """As `run`, without waiting; `finish` waits."""
        self._running.tell(
            json.dumps(
                {
                    "do": "run",
                    "name": name,
                    "method": method,
                    "payloads": str(payloads),
                    "seconds": seconds,
                    "answers": None,
                }
            )
        )

    def finish(self) -> dict[str, Any]:
        """What the run that was started found."""
        found: dict[str, Any] = json.loads(self._running.line(RUN_LIMIT_S))
        return found

    def _ask(self, **command: object) -> dict[str, Any]:
        self._running.tell(json.dumps(command))
        return self.finish()


class _Generator:
    """What runs in the process."""

    def __init__(self) -> None:
        self._channels: dict[str, list[grpc.Channel]] = {}

    def answer(self, command: dict[str, Any]) -> dict[str, object]:
        if command["do"] == "connect":
            self._channels[command["name"]] = [
                connect(command["target"], Path(command["certificates"]), command["server_name"])
                for _ in range(command["channels"])
            ]
            return {}
        return self._run(command)

    def _run(self, command: dict[str, Any]) -> dict[str, object]:
        payloads, seconds = read_payloads(Path(command["payloads"])), command["seconds"]
        source = iter(payloads) if seconds is None else cycle(payloads)
        until = None if seconds is None else time.monotonic() + float(seconds)
        channels = self._channels[command["name"]]
        calls = [method_of(channel, command["method"]) for channel in channels]
        refused: Counter[str] = Counter()
        counts, items = [0] * CONCURRENCY, Counter[int]()
        lock = threading.Lock()
        answers = command["answers"] and getattr(signer_pb2, command["answers"])

        def work(number: int) -> None:
            call = calls[number % len(calls)]
            for payload in _shared(source, lock, until):
                counts[number] += 1
                try:
                    answer = call(payload, timeout=CALL_LIMIT_S)
                    if answers:
                        found = answers.FromString(answer).items
                        items[number] += len(found)
                        refused.update(item.error.reason for item in found if item.HasField("error"))
                except grpc.RpcError as error:
                    refused[from_rpc_error(error).reason.value] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(CONCURRENCY)]
        since = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {
            "calls": sum(counts),
            "asked": sum(counts) + items.total(),
            "refused": dict(refused),
            "wall_s": time.perf_counter() - since,
        }


def _shared(source: Iterator[bytes], lock: threading.Lock, until: float | None) -> Iterator[bytes]:
    """The messages that this thread gets of those that all threads share."""
    while until is None or time.monotonic() < until:
        with lock:
            payload = next(source, None)
        if payload is None:
            return
        yield payload


def main() -> None:
    """Do what each line says, until there are no more."""
    generator = _Generator()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(generator.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
