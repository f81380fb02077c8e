"""Some of a benchmark's questions, where all would take too long."""

import hashlib
from collections.abc import Iterable


def chosen(names: Iterable[str], count: int | None) -> set[str]:
    """So many of the questions of these names, all the same wherever it is asked; None: all.

    They are scattered over the benchmark, and who asks for more gets the same and others.
    """
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])


def count_of(suite: dict, benchmark: str) -> int | None:
    """How many of a benchmark's questions a suite asks: its `questions`, for all benchmarks or by name; None: all."""
    stated = suite.get("questions")
    return stated.get(benchmark) if isinstance(stated, dict) else stated
