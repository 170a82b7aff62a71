"""A clock that stands still until a test moves it; implements `signer.ports.Clock`."""


class StillClock:
    def __init__(self, at: float = 1_764_000_000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += seconds
