"""Parquet as every stage writes it: a declared schema, whole or not there, equal content in equal bytes."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scripts.run.files import write_atomically
from scripts.run.record import identity


def column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    """A field that carries its meaning, unit included, into the file."""
    return pa.field(name, kind, metadata={"meaning": meaning})


CELL_COLUMNS = [
    column("model", pa.string(), "name of a file in config/models/"),
    column("quantizer", pa.string(), "algorithm, a file in scripts/quantize/"),
    column("scheme", pa.string(), "numbers of the algorithm, a key in config/quantizers.yaml"),
]
BENCHMARK_COLUMN = column("benchmark", pa.string(), "name of the benchmark")
SEED_COLUMN = column("seed", pa.int64(), "seed of the run")
SUITE_COLUMN = column("suite", pa.string(), "name of the suite in the study's config")
SAMPLE_COLUMNS = [
    *CELL_COLUMNS,
    SUITE_COLUMN,
    BENCHMARK_COLUMN,
    column("id", pa.string(), "name of the question"),
    SEED_COLUMN,
]


def write_table(path: Path, rows: list[dict] | pa.Table, schema: pa.Schema, **said: str) -> None:
    """Write rows, or a table, of exactly the schema's columns; the file's metadata says what made it.

    Args:
        said: what else the metadata says.

    Raises:
        ValueError: a row, or the table, lacks a column or has one too many.
    """
    for names in [rows.column_names] if isinstance(rows, pa.Table) else rows:
        if set(names) != set(schema.names):
            raise ValueError(f"{path}: columns {sorted(names)} are not those of the schema, {sorted(schema.names)}")
    table = rows.select(schema.names) if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=schema)
    table = table.cast(schema).replace_schema_metadata({"made_by": json.dumps(identity(), sort_keys=True), **said})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read_said(path: Path, key: str) -> str:
    """What the metadata of a table says under a key that its writer gave."""
    return pq.read_schema(path).metadata[key.encode()].decode()


def read_rows(path: Path, *, without: str | None = None) -> list[dict]:
    """All rows of a table, without a column that would take more memory than it is worth."""
    names = [name for name in pq.read_schema(path).names if name != without]
    return pq.read_table(path, columns=names).to_pylist()
