"""One line every few seconds on standard output: what runs, how much is left, how fast.

Lines instead of a bar: several jobs share one terminal, and a Slurm log is a file.
"""

import time

INTERVAL_SECONDS = 10


class Progress:
    """Counts finished units and tokens from the moment it is made; `seconds` is final once closed."""

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.tokens = 0
        self.started = self.printed = time.monotonic()

    def add(self, count: int, tokens: int = 0) -> None:
        self.done += count
        self.tokens += tokens
        if time.monotonic() - self.printed >= INTERVAL_SECONDS:
            self.printed = time.monotonic()
            left = self.seconds / self.done * (self.total - self.done)
            self.print(f", about {left:.0f} s left")

    def close(self) -> None:
        self.print(f" in {self.seconds:.0f} s")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def print(self, ending: str = "") -> None:
        rate = f", {self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s" if self.tokens else ""
        print(f"{self.label}: {self.done:,} of {self.total:,} {self.unit}{rate}{ending}", flush=True)
