"""`python -m demo [--credential PATH]` shows the whole system; `python -m demo up` leaves it running."""

import argparse
import fcntl
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from demo.drills import GROUPS
from demo.process import StackError
from demo.screen import Screen, size
from demo.stack import MEMORY, fresh
from demo.steps import MAIN_JOB
from demo.up import usage
from demo.world import DEPLOYMENT, PEOPLE, World

MAX_CREDENTIAL_BYTES = 64 * 1024
_BUILD = Path("build")
_INTERRUPTED = 130
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class UsageError(Exception):
    """The command line cannot be served; the message says why."""


def credential(path: Path | None) -> tuple[bytes, str]:
    """Return the credential to store, and where it is from.

    Raises:
        UsageError: the file cannot be read, is empty, or has more than 64 KiB.
    """
    if path is None:
        return f"sk-demo-{secrets.token_urlsafe(32)}".encode(), "a generated one (CREDENTIAL=path for your own)"
    try:
        with path.open("rb") as file:
            value = file.read(MAX_CREDENTIAL_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"the credential file {path} cannot be read: {exc.strerror}") from exc
    if not value:
        raise UsageError(f"the credential file {path} is empty; a credential has 1 to {MAX_CREDENTIAL_BYTES:,} bytes")
    if len(value) > MAX_CREDENTIAL_BYTES:
        raise UsageError(f"the credential file {path} has more than {MAX_CREDENTIAL_BYTES:,} bytes")
    return value, str(path)


@contextmanager
def only_run(root: Path) -> Iterator[None]:
    """Hold a lock beside `root`: a second run would remove what the first one works on. Raises UsageError."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UsageError(f"another run works in {root}") from exc
        yield


@contextmanager
def world_in(root: Path, value: bytes) -> Iterator[World]:
    """Yield a world that is not built yet; afterwards none of its processes runs, whatever happened."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in _ENDINGS:  # SIGINT too: a shell that starts us in the background lets us ignore it
        signal.signal(number, interrupt)
    with only_run(root):
        world = World(root=fresh(root), value=value)
        try:
            yield world
        finally:
            for number in _ENDINGS:
                signal.signal(number, signal.SIG_IGN)  # nothing cuts the cleaning up short
            world.close()


def demonstrate(value: bytes, source: str) -> int:
    """Run the main job and every attack; 0 when each step succeeded and each attempt was refused as it must be."""
    screen, started, root = Screen(), time.monotonic(), _BUILD / "demo"
    screen.say(f"AgentKeys: real processes on 127.0.0.1, everything in {root}/")
    screen.say(f"The credential: {source}, {size(len(value))}")
    with world_in(root, value) as world:
        screen.heading("The main job")
        for title, step in (*DEPLOYMENT, *PEOPLE, *MAIN_JOB):
            screen.step(title, partial(step, world))
        for group in GROUPS:
            screen.heading(f"Attack: {group.title}")
            for drill in group.drills:
                screen.attempt(drill.title, drill.expected, partial(drill.attempt, world))
    took = f"{time.monotonic() - started:.0f} s"
    screen.say()
    if screen.failed:
        screen.say(f"{screen.failed} of {screen.attempts} attempts got through, or got another reason ({took})")
        return 1
    screen.say(f"All {screen.attempts} attempts were refused, each for its reason; every process has ended ({took})")
    return 0


def stay_up() -> int:
    """Start a deployment with one enrolled master, say how to use it, and wait for Ctrl-C."""
    screen, root = Screen(), _BUILD / "up"
    with world_in(root, b"") as world:
        screen.heading("Starting")
        for title, step in DEPLOYMENT:
            screen.step(title, partial(step, world))
        world.stack.start(MEMORY)
        screen.say(usage(world))
        try:
            while True:  # a Ctrl-C that comes just before an endless pause begins would be lost in it
                time.sleep(0.5)
        except KeyboardInterrupt:
            screen.say("\nstopping")
    return 0


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["up"], help="start the stack and leave it running")
    parser.add_argument("--credential", type=Path, metavar="PATH", help="the credential to store: 1 byte to 64 KiB")
    chosen = parser.parse_args()
    try:
        return stay_up() if chosen.command == "up" else demonstrate(*credential(chosen.credential))
    except UsageError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 2
    except StackError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody reads on; every process has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; every process has ended", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
