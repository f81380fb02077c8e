"""The sample store: every finished sample under the digest of what determines it, kept for good.

    results/store/samples/{checkpoint digest}/{SHA-256 of the segment}.parquet

A segment is written once, whole, under the digest of its bytes: any number of jobs on a shared file system add
segments without locks, and a torn, truncated or altered segment no longer matches its name. Its metadata say which
run on which machine made it, and how fast.

    python -m scripts.generate.store stats | verify | gc [--delete] | import FOLDER
"""

import hashlib
import json
import logging
import os
import shutil
import socket
import time
from array import array
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.progress import Progress

SAMPLES = Path("results/store/samples")
DAMAGED = Path("results/store/damaged")
FLUSH_SECONDS = 20
# Written by whoever saves a checkpoint last, without any effect on what it computes.
VOLATILE = {"config.json": ("transformers_version",), "generation_config.json": ("transformers_version",)}
NOT_SERVED = ("packed/", "recipe.json")  # files of a checkpoint that the engine does not read
SCHEMA = pa.schema(
    [
        pa.field("sample", pa.string(), metadata={"meaning": "address: digest of all that determines the sample"}),
        pa.field("output", pa.string(), metadata={"meaning": "generated text without the final EOS"}),
        pa.field(
            "token_ids", pa.list_(pa.int32()), metadata={"meaning": "the output as drawn, the final EOS included"}
        ),
        pa.field("output_tokens", pa.int64(), metadata={"meaning": "tokens, the final EOS included"}),
        pa.field("finish_reason", pa.string(), metadata={"meaning": "stop, length or repetition"}),
    ]
)
log = logging.getLogger(__name__)


def checkpoint_digest(checkpoint: Path) -> str:
    """Digest of what the engine reads of a checkpoint, from the manifest beside it; volatile fields left out."""
    files = json.loads(checkpoint.with_name("manifest.json").read_text(encoding="utf-8"))["files"]
    content = {}
    for name, entry in files.items():
        if name in VOLATILE:
            fields = json.loads((checkpoint / name).read_text(encoding="utf-8"))
            content[name] = {key: value for key, value in fields.items() if key not in VOLATILE[name]}
        elif not name.startswith(NOT_SERVED):
            content[name] = entry["sha256"]
    return digest_of(content)


def digest_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Store:
    """Samples of one checkpoint: those wanted are read once, new ones are added in segments.

    Args:
        checkpoint: digest of the checkpoint, the store's folder.
        wanted: addresses to read; others stay on disk.
        run: what is worth knowing of this run, written into each segment's metadata.
        root: folder of all checkpoints' samples.

    Raises:
        UserError: two segments hold different samples of one address.
    """

    def __init__(self, checkpoint: str, wanted: set[str], run: dict, root: Path = SAMPLES) -> None:
        self.folder = root / checkpoint
        self.run = run
        self.samples: dict[str, dict] = {}
        self._pending: list[dict] = []
        self._oldest = 0.0
        self._tokens, self._seconds = 0, 0.0
        self.ranks = set[int]()  # how many GPUs shared the model where the samples that are here were drawn
        self.start_clock()
        for segment in segments(self.folder):
            if (table := read_segment(segment)) is None:
                print(set_aside(segment), flush=True)
                continue
            rows = rows_of(table.filter(pc.is_in(table["sample"], pa.array(wanted, pa.string()))))
            if twin := differing(self.samples, rows):
                raise UserError(f"{segment}: {twin}: delete the wrong one and run again")
            rows = [row for row in rows if row["sample"] not in self.samples]
            drawn = json.loads(table.schema.metadata[b"run"])
            if rows:
                self.ranks.add(drawn.get("tensor_parallel_size", 1))
            if speed := drawn.get("tokens_per_second"):
                tokens = sum(row["output_tokens"] for row in rows)
                self._tokens += tokens
                self._seconds += tokens / speed
            self.samples |= {row.pop("sample"): row for row in rows}

    @property
    def tokens_per_second(self) -> float | None:
        """Of the samples that are here, in whatever run they were generated; None if their segments do not say."""
        return round(self._tokens / self._seconds, 3) if self._seconds else None

    def start_clock(self) -> None:
        """What is added from now on was generated from now on."""
        self._flushed = time.monotonic()

    def add(self, sample: str, row: dict) -> None:
        """Keep a finished sample, on disk within `FLUSH_SECONDS` if `tick` is called often enough."""
        if not self._pending:
            self._oldest = time.monotonic()
        self.samples[sample] = row
        self._pending.append({"sample": sample} | row)

    def tick(self) -> None:
        """Write what has waited long enough."""
        if self._pending and time.monotonic() - self._oldest >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all that is not on disk yet, as one segment, with the speed at which it came."""
        if self._pending:
            now = time.monotonic()
            tokens, seconds = sum(row["output_tokens"] for row in self._pending), now - self._flushed
            write_segment(self.folder, self._pending, self.run | {"tokens_per_second": tokens / max(seconds, 1e-9)})
            self._tokens += tokens
            self._seconds += seconds
            self.ranks.add(self.run.get("tensor_parallel_size", 1))
            self._pending, self._flushed = [], now


def write_segment(folder: Path, rows: list[dict], run: dict) -> Path:
    """Write rows as one new segment, whole or not at all, named by the digest of its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}"
    table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({"run": json.dumps(run, sort_keys=True)})
    try:
        pq.write_table(table, temporary, compression="zstd")
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        segment = folder / f"{sha256(temporary)}.parquet"
        temporary.replace(segment)
    finally:
        temporary.unlink(missing_ok=True)
    return segment


def segments(folder: Path) -> list[Path]:
    """Segments of a checkpoint, or of all checkpoints below the store's root, in order."""
    return sorted(path for path in folder.rglob("*.parquet") if path.is_file())


def differing(known: dict[str, dict], rows: list[dict]) -> str | None:
    """Which of the rows is not what is known of its address, in words; None if none is.

    One address is one sample. Who finds another there cannot tell which is right: it was altered, or drawn on a machine
    whose name it does not carry.
    """
    for row in rows:
        other = known.get(row["sample"])
        if other is not None and any(other[key] != row[key] for key in SCHEMA.names[1:]):
            return f"its sample {row['sample'][:16]}… is not what another segment holds under that address"
    return None


def read_segment(segment: Path) -> pa.Table | None:
    """A segment, None if its bytes are not those it was written with, or not of its form."""
    content = segment.read_bytes()
    if hashlib.sha256(content).hexdigest() != segment.stem:
        return None
    try:
        # By no thread but this one: another that frees the bytes while the interpreter exits aborts the process.
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        run = json.loads(table.schema.metadata[b"run"])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    speed = run.get("tokens_per_second", 1) if isinstance(run, dict) else None
    return table if table.schema.equals(SCHEMA) and isinstance(speed, int | float) and speed > 0 else None


def rows_of(table: pa.Table) -> list[dict]:
    """The rows of a segment, or of samples, the token ids as arrays: lists of numbers take ten times the memory."""
    rows = table.drop_columns(["token_ids"]).to_pylist()
    for row, ids in zip(rows, table["token_ids"], strict=True):
        row["token_ids"] = array("i", ids.values.to_numpy().tobytes())
    return rows


def set_aside(segment: Path) -> str:
    """Move a damaged segment out of the store, and say so; only its own samples are lost."""
    DAMAGED.mkdir(parents=True, exist_ok=True)
    target = DAMAGED / f"{segment.parent.name[:16]}.{segment.name}"
    segment.replace(target)
    why = "is damaged (truncated, altered, or of another form)"
    message = f"store: {segment} {why}; set aside as {target}, its samples are missing"
    log.warning(message)
    return message


def used_samples(results: Path) -> set[str]:
    """Addresses that the artifacts below a results folder use."""
    used: set[str] = set()
    for path in results.glob("generate/**/*.parquet"):
        used |= set(pq.read_table(path, columns=["sample"])["sample"].to_pylist())
    return used


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="The sample store.")


@app.command()
def stats() -> None:
    """Print how much the store holds, by checkpoint."""
    total_rows = total_bytes = 0
    for folder in sorted(path for path in SAMPLES.glob("*") if path.is_dir()):
        found = segments(folder)
        rows = sum(pq.read_metadata(path).num_rows for path in found)
        size = sum(path.stat().st_size for path in found)
        print(f"{folder.name[:16]}  {len(found):5} segments  {rows:9,} samples  {size / 1e6:9.1f} MB")
        total_rows, total_bytes = total_rows + rows, total_bytes + size
    print(f"in all: {total_rows:,} samples, {total_bytes / 1e6:.1f} MB")


@app.command()
def verify() -> None:
    """Read every segment; set damaged ones aside by name, and name samples that differ. Exit 1 if there were any."""
    found = segments(SAMPLES)
    progress = Progress("store verify", len(found), "segments")
    damaged, folder, known = 0, None, {}
    for segment in found:
        if segment.parent != folder:
            folder, known = segment.parent, {}
        if (table := read_segment(segment)) is None:
            damaged += 1
            print(set_aside(segment))
        else:
            rows = rows_of(table)
            if twin := differing(known, rows):
                damaged += 1
                print(f"store: {segment}: {twin}: delete the wrong one")
            known |= {row["sample"]: row for row in rows}
        progress.add(1)
    progress.close()
    raise typer.Exit(1 if damaged else 0)


@app.command()
def gc(
    delete: Annotated[bool, typer.Option(help="Delete; without it, only say what would be deleted.")] = False,
) -> None:
    """Find samples that no artifact below results/generate/ uses."""
    used = used_samples(Path("results"))
    dropped = freed = 0
    for segment in segments(SAMPLES):
        if (table := read_segment(segment)) is None:
            print(set_aside(segment))
            continue
        keep = table.filter(pc.is_in(table["sample"], pa.array(used, pa.string())))
        if keep.num_rows == table.num_rows:
            continue
        dropped += table.num_rows - keep.num_rows
        freed += segment.stat().st_size * (table.num_rows - keep.num_rows) // table.num_rows
        if delete:
            if keep.num_rows:
                write_segment(segment.parent, rows_of(keep), json.loads(table.schema.metadata[b"run"]))
            segment.unlink()
    print(f"{dropped:,} samples unused, about {freed / 1e6:.1f} MB" + ("" if delete else "; delete them with --delete"))


@app.command(name="import")
def adopt(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Another results folder.")],
) -> None:
    """Adopt the samples of another results folder; exit 1 if any are not what is held here."""
    source = folder / "store/samples"
    adopted = refused = 0
    place, known = None, {}
    for segment in segments(source):
        target = SAMPLES / segment.relative_to(source)
        if target.exists():
            continue
        if target.parent != place:
            place = target.parent
            tables = [table for own in segments(place) if (table := read_segment(own)) is not None]
            known = {row["sample"]: row for table in tables for row in rows_of(table)}
        if (table := read_segment(segment)) is None:
            print(f"{segment} is damaged (truncated, altered, or of another form); not adopted")
            refused += 1
            continue
        rows = rows_of(table)
        if twin := differing(known, rows):
            print(f"{segment}: {twin}; not adopted")
            refused += 1
            continue
        known |= {row["sample"]: row for row in rows}
        write_atomically(target, lambda path, segment=segment: shutil.copyfile(segment, path))
        adopted += 1
    print(f"{adopted:,} segments adopted from {source}" + (f", {refused:,} not" if refused else ""))
    raise typer.Exit(1 if refused else 0)


if __name__ == "__main__":
    app()
