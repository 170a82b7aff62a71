"""Devices by the dozen before a worker: HTTPS requests prepared beforehand, 32 at a time over connections kept open.

    python -m tests.perf.web_load CA

Each line of standard input is one JSON object: the worker's origin, a path and a file of bodies; each is answered by one.
"""

import http.client
import json
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.perf.load import read_payloads

CONCURRENCY: Final = 32
_LIMIT_S: Final = 30.0


def _trusting(ca: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False  # a worker is known by its SPIFFE name; the bench trusts its own authority
    return context


def _run(command: dict[str, Any], context: ssl.SSLContext) -> dict[str, object]:
    where = urlsplit(command["origin"])
    assert where.hostname is not None
    source, lock = iter(read_payloads(Path(command["payloads"]))), threading.Lock()
    refused: Counter[str] = Counter()
    calls: Counter[int] = Counter()
    connections = [
        http.client.HTTPSConnection(where.hostname, where.port, context=context, timeout=_LIMIT_S)
        for _ in range(CONCURRENCY)
    ]
    for connection in connections:
        connection.connect()

    def work(number: int) -> None:
        connection = connections[number]
        for body in _shared(source, lock):
            connection.request("POST", command["path"], body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = json.loads(answer.read())
            calls[number] += 1
            if answer.status != http.HTTPStatus.OK:
                refused[said["reason"]] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CONCURRENCY)]
    since = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - since
    for connection in connections:
        connection.close()
    return {"calls": calls.total(), "refused": dict(refused), "wall_s": wall_s}


def _shared(source: Iterator[bytes], lock: threading.Lock) -> Iterator[bytes]:
    while True:
        with lock:
            body = next(source, None)
        if body is None:
            return
        yield body


def main(ca: Path) -> None:
    """Do what each line says, until there are no more."""
    context = _trusting(ca)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), context)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
