"""Benches: what something costs, printed. Each is `python -m tests.bench.NAME`, or a target of the Makefile.

With BENCH_SIZE=smallest in the environment a bench runs once at its smallest size, where its numbers mean nothing:
that is how tests/test_bench.py keeps it from rotting unseen.
"""

import os
from typing import TypeVar

T = TypeVar("T")


def size(full: T, smallest: T) -> T:
    """What a bench is to be run with."""
    return smallest if os.environ.get("BENCH_SIZE") == "smallest" else full
