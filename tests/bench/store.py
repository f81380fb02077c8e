"""How fast the sample store writes and reads, and how a lookup grows with what is stored.

python -m tests.bench.store
"""

import hashlib
import random
import statistics
import tempfile
import time
from pathlib import Path

from scripts.generate.store import Store, write_segment
from tests.bench import size

ROWS = size((10_000, 100_000, 1_000_000), (100, 200))
SEGMENT = size(5_000, 50)  # rows
WANTED = size(7_359, 50)  # samples of one of the paper's cells: 2,453 questions and three seeds
TEXT = 1_000  # characters of an output
WORDS = [*"0123456789=+*", "so", "the", "sum", "is", "then", "carry", "one", "and", "add", "it", "to", "which", "gives"]


def row(number: int, draw: random.Random) -> dict:
    text = " ".join(draw.choices(WORDS, k=TEXT // 4))[:TEXT]
    sample = hashlib.sha256(str(number).encode()).hexdigest()
    return {
        "sample": sample,
        "output": text,
        "token_ids": list(range(TEXT)),
        "output_tokens": TEXT,
        "finish_reason": "stop",
    }


def lookup(root: Path, checkpoint: str, wanted: set[str]) -> float:
    """Median seconds of three lookups, all of which find what they want."""
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        found = Store(checkpoint, wanted, {}, root).samples
        seconds.append(time.monotonic() - started)
        assert found.keys() == wanted
    return statistics.median(seconds)


def main() -> None:
    draw = random.Random(0)
    rows = [row(number, draw) for number in range(max(ROWS))]
    wanted = {row["sample"] for row in draw.sample(rows[: min(ROWS)], WANTED)}
    characters = sum(len(row["output"]) for row in rows)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        print(f"(e) rows of {TEXT:,} characters in segments of {SEGMENT:,}, {WANTED:,} wanted")
        written = seconds = 0
        for count in ROWS:
            started = time.monotonic()
            for start in range(written, count, SEGMENT):
                write_segment(root / "one", rows[start : start + SEGMENT], {})
            seconds += time.monotonic() - started
            written = count
            print(
                f"    lookup among {count:9,} rows of its checkpoint: {lookup(root, 'one', wanted):6.2f} s", flush=True
            )
        size = sum(path.stat().st_size for path in root.rglob("*.parquet"))
        print(f"    written: {max(ROWS) / seconds:,.0f} rows/s, {characters / seconds / 1e6:,.0f} MB/s of text")
        read = lookup(root, "one", wanted)
        print(f"    read:    {max(ROWS) / read:,.0f} rows/s, {characters / read / 1e6:,.0f} MB/s of text")
        print(f"    on disk: {size / 1e6:,.0f} MB of {characters / 1e6:,.0f} MB of text")
        write_segment(root / "two", [row for row in rows[: min(ROWS)] if row["sample"] in wanted], {})
        print(f"    lookup beside {max(ROWS):9,} rows of another checkpoint: {lookup(root, 'two', wanted):.2f} s")


if __name__ == "__main__":
    main()
