"""Records as an auditor reads them: which there are, what each says, and what an artifact goes back to."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from scripts.run.errors import UserError
from scripts.run.record import SCHEMA

# Without which it is no record.
FIELDS = {"schema": int, "rule": str, "module": str, "sha256": str}
FIELDS |= dict.fromkeys(("outputs", "inputs", "chain", "code", "parameters", "wildcards", "lock", "frame"), dict)
HARMLESS = re.compile(r"\.(snakemake_timestamp|DS_Store|nfs\w+)")  # what other programs leave in a folder
STAGES = (
    "models",
    "published",
    "datasets",
    "questions",
    "calibrate",
    "quantize",
    "generate",
    "score",
    "report",
)  # as data flows
BASELINE = {"quantizer": "none", "scheme": "full"}


@dataclass(frozen=True)
class Results:
    """A results folder; its artifacts go by the names that the records give them, below `results/`."""

    folder: Path
    records: dict[str, dict] = field(default_factory=dict)  # name of the record's file → record
    artifacts: dict[str, dict] = field(default_factory=dict)  # name of an artifact → its record
    unreadable: list[str] = field(default_factory=list)  # names of records that are no records
    files: dict[str, list[str]] = field(default_factory=dict)  # stage → names of all its files, records left out

    def path(self, name: str) -> Path:
        """Where an artifact lies, or a source of one, which is named from the root of the repository."""
        below = name.removeprefix("results/")
        return self.folder / below if below != name else self.folder.parent / Path(name).expanduser()


def read_results(folder: Path) -> Results:
    """Find all records below a results folder.

    Raises:
        UserError: there are none.
    """
    results = Results(folder)
    for stage in STAGES:
        found = results.files.setdefault(stage, [])
        # Unlike Path.glob this follows symlinks: a folder may lie on a larger disk.
        for below in sorted(glob(f"{stage}/**", root_dir=folder, recursive=True, include_hidden=True)):  # noqa: PTH207
            path, name = folder / below, f"results/{below}"
            if not path.is_file() and not (path.is_symlink() and not path.exists()):
                continue  # but a link that leads nowhere is a file that is not there
            if path.name != "record.json" and not path.name.endswith(".record.json"):
                found.append(name)
            elif record := _read(path):
                results.records[name] = record
                results.artifacts.update(dict.fromkeys(record["outputs"], record))
            else:
                results.unreadable.append(name)
    if not results.records and not results.unreadable:
        raise UserError(f"{folder}: no records in it: name a results folder, or run `snakemake --cores all` first")
    return results


def _read(path: Path) -> dict | None:
    """A record of this version of the project, else None."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
        whole = record["schema"] == SCHEMA and all(isinstance(record[key], kind) for key, kind in FIELDS.items())
        digests = [value for key in ("outputs", "inputs", "chain", "code", "frame") for value in record[key].values()]
        return record if whole and record["outputs"] and all(isinstance(x, str) for x in digests) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def is_source(results: Results, name: str) -> bool:
    """Has a file no record of its own, as those of the repository, records and timings?"""
    stage = f"{name}/".split("/")[1]
    return not name.startswith("results/") or name in results.records or stage not in STAGES


def record_of(results: Results, path: Path) -> tuple[str, dict]:
    """Name and record of the artifact at `path`, which may be a file inside it, or its record.

    Raises:
        UserError: nothing at `path` has a record.
    """
    absolute = path.resolve()
    if results.folder.resolve() in absolute.parents:
        for place in (absolute, *absolute.parents):
            name = f"results/{place.relative_to(results.folder.resolve())}"
            if name in results.artifacts:
                return name, results.artifacts[name]
            if name in results.records:
                return sorted(results.records[name]["outputs"])[0], results.records[name]
            if place == results.folder.resolve():
                break
    raise UserError(f"{path}: no artifact of {results.folder} with a record: name one of its files or checkpoints")


def lineage(results: Results, name: str, rows: list[dict] | None = None) -> dict[str, list[str]]:
    """Inputs of an artifact and of all that it goes back to, by artifact, itself first.

    What a table's `rows` do not go back to is left out. A name without an entry has no record: it is a file of the
    repository, or a gap.
    """
    found: dict[str, list[str]] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop(0)
        record = results.artifacts.get(current)
        if record is None or current in found:
            continue
        found[current] = _inputs(results, record, rows) if rows else list(record["inputs"])
        waiting += found[current]
    return found


def _inputs(results: Results, record: dict, rows: list[dict]) -> list[str]:
    """The inputs of a table that one of the rows goes back to, by the keys that both name.

    A row that states a drop goes back to the baseline of its model, too; an average names no benchmark of its own.
    """
    if record["rule"] != "report":
        return list(record["inputs"])
    keys = {name: results.artifacts.get(name, {}).get("wildcards", {}) for name in record["inputs"]}
    benchmarks = {key["benchmark"] for key in keys.values() if "benchmark" in key}

    def matches(key: dict[str, str], row: dict) -> bool:
        wanted = [row, *([row | BASELINE] if any(column.startswith("drop") for column in row) else [])]
        same = {k for k in key if k in row and (k != "benchmark" or row[k] in benchmarks)}
        return any(all(key[k] == w[k] for k in same) for w in wanted)

    kept = [name for name, key in keys.items() if any(matches(key, row) for row in rows)]
    return kept or list(record["inputs"])


def select(path: Path, where: str) -> list[dict]:
    """The rows of a Parquet file for which an expression of SQL (DuckDB's) holds.

    Raises:
        UserError: the file is no Parquet file, the expression is none of its columns, or holds for no row.
    """
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {error}") from None
    columns = f"its columns are {', '.join(table.column_names)}"
    try:
        # A pasted expression sees the table, and no file.
        with duckdb.connect(config={"enable_external_access": "false"}) as connection:
            rows = connection.from_arrow(table).filter(where).to_arrow_table().to_pylist()
    except duckdb.Error as error:
        example = "model == 'tiny-qwen-s' and seed == 42"
        raise UserError(f"--where {where!r}: {str(error).splitlines()[0]}; write e.g. {example!r}; {columns}") from None
    if not rows:
        raise UserError(f"{path}: no row with {where}; {columns}")
    return rows


def in_order(names: Iterable[str]) -> list[str]:
    """Names of artifacts as data flows; files of the repository come first."""
    stages = {stage: position for position, stage in enumerate(STAGES)}
    return sorted(names, key=lambda name: (stages.get(f"{name}/".split("/")[1], -1), name.split("/")))
