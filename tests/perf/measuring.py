"""What one run of the bench measures with: its scale, its folder, its deployments, and what it found."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.perf.deployment import SIGNER_NAME, Certificates, Deployment
from tests.perf.figures import Results
from tests.perf.load import Load, write_payloads
from tests.perf.processes import cpu_us

SMALL: Final = 20
#: How long one measurement goes on, in seconds, and how many rounds it has however long they take.
_SHARE_S: Final = 50.0
_LEAST_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured: rounds, calls in each, and how many users the large population has."""

    rounds: int
    calls: int
    large: int
    starts: int


FULL: Final = Scale(rounds=7, calls=2000, large=20_000, starts=3)
QUICK: Final = Scale(rounds=3, calls=800, large=2_000, starts=1)


@dataclass(slots=True, kw_only=True)
class Bench:
    """One run: its folder, what it found, and the deployments that several figures share."""

    root: Path
    scale: Scale
    certificates: Certificates
    results: Results = field(default_factory=Results)
    _small: Deployment | None = None

    @property
    def small(self) -> Deployment:
        """A signer with 100 devices and 1,000 objects."""
        if self._small is None:
            self._small = self.deployment("small", operators=SMALL)
        return self._small

    def deployment(self, name: str, *, operators: int, processes: int = 1) -> Deployment:
        """A signer of its own; however many users it has, 20 of them are active."""
        made = Deployment(root=self.root / name, certificates=self.certificates, processes=processes)
        made.prepare(operators=operators, active=SMALL)
        return made

    def turns(self) -> Iterator[bool]:
        """Once to warm up, then once a round; whether what is found counts. No more rounds than there is time for."""
        since = time.monotonic()
        yield False
        for turn in range(self.scale.rounds):
            if turn >= _LEAST_ROUNDS and time.monotonic() - since > _SHARE_S:
                return
            yield True

    @contextmanager
    def load(self, cores: set[int] | None = None) -> Iterator[Load]:
        """A load generator."""
        with Load(self.root / "load.log", cores) as load:
            yield load

    def payloads(self, messages: Sequence[bytes]) -> Path:
        """A file of messages."""
        return write_payloads(self.root / "payloads", messages)

    def connect(self, load: Load, name: str, target: str, *, worker: str = "credentials", channels: int = 1) -> None:
        """Connect the generator to a server."""
        load.connect(name, target, self.certificates.folder(worker), server_name=SIGNER_NAME, channels=channels)

    def cost(
        self,
        load: Load,
        name: str,
        processes: Sequence[int],
        method: str,
        messages: Sequence[bytes],
        *,
        answers: str | None = None,
    ) -> float:
        """Server CPU per call, in microseconds; every call, and every item of `answers`, must have been served."""
        payloads = self.payloads(messages)
        before = cpu_us(processes)
        calls = load.run(name, method, payloads, answers=answers)
        return (cpu_us(processes) - before) / calls
