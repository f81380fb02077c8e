"""One line every few seconds on standard output: what runs, how much is left, how fast.

Lines instead of a bar: several jobs share one terminal, and a Slurm log is a file.
"""

import time
from collections.abc import Callable

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


class Answers(Progress):
    """Answers that an engine generates many at a time: their tokens count as they come, not only when one is finished.

    With the longest first nothing is finished for a long time, and what finishes first is shorter than the rest.
    """

    def __init__(self, label: str, expected: dict[str, int], running: Callable[[], dict[str, int]]) -> None:
        """Expected tokens of each answer, by its name, and what tells the tokens that unfinished ones have so far."""
        super().__init__(label, len(expected), "samples")
        self.expected, self.running = dict(expected), running
        self.as_expected = self.tokens_printed = 0

    def finish(self, name: str, tokens: int) -> None:
        self.as_expected += self.expected.pop(name)
        self.done += 1
        self.tokens += tokens

    def tick(self) -> None:
        """Print, if it is time."""
        if (passed := time.monotonic() - self.printed) < INTERVAL_SECONDS:
            return
        self.printed += passed
        so_far = self.running()
        tokens = self.tokens + sum(so_far.values())
        rate = (tokens - self.tokens_printed) / passed
        self.tokens_printed = tokens
        ending = f", about {self.left(so_far) / rate:.0f} s left" if rate else ""
        print(
            f"{self.label}: {self.done:,} of {self.total:,} samples, {tokens:,} tokens, {rate:,.0f} tokens/s{ending}",
            flush=True,
        )

    def left(self, so_far: dict[str, int]) -> float:
        """Tokens that are left, from those expected, times how much longer than expected answers have become."""
        expected = self.as_expected + sum(min(self.expected[name], tokens) for name, tokens in so_far.items())
        longer = (self.tokens + sum(so_far.values())) / max(expected, 1)
        return sum(max(longer * self.expected[name] - so_far.get(name, 0), 0) for name in self.expected)
