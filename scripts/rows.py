"""Rows of published data: Parquet, CSV, lines of JSON, compressed by zstd or not.

Files come from the hub or from whoever saved them last: what is wrong with one is said with file, row and cure.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from scripts.run.errors import UserError

LONGEST = 1 << 28  # characters of a line; the longest of a known data set has a fifth of them
AGAIN = "correct it there, or take the file of the stated revision"


def data_files(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their names, but hidden ones (snakemake leaves a time stamp)."""
    return sorted(path for path in folder.rglob("[!.]*") if path.is_file())


def count_rows(path: Path) -> int:
    """Number of rows of a file.

    Raises:
        UserError: the file cannot be read.
    """
    if path.suffix == ".parquet":
        return _parquet(path).metadata.num_rows
    return sum(1 for _ in (_csv(path) if path.suffix == ".csv" else _lines(path)))


def read_folder(
    folder: Path,
    columns: list[str],
    *,
    numbers: list[str] | None = None,
    optional: list[str] | None = None,
    unique: str | None = None,
) -> Iterator[dict]:
    """Rows of all files below a folder, in the order of their names.

    Args:
        columns: those that hold text.
        numbers: those that hold text or a number.
        optional: those that may be missing and hold anything.
        unique: one in which no value may stand twice, in whatever file.

    Raises:
        UserError: there is no file; one cannot be read or has no rows; a column is missing, a value of another kind or
            there already.
    """
    kinds: dict[str, type | tuple] = dict.fromkeys(columns, str) | dict.fromkeys(numbers or [], (str, int, float))
    seen: dict[str, str] = {}
    paths = data_files(folder)
    if not paths:
        raise UserError(f"{folder}: no files in it: take the dataset anew")
    for path in paths:
        place = None
        for place, row in _rows(path, [*kinds, *(optional or [])]):
            for column, kind in kinds.items():
                if column not in row:
                    only = ", ".join(row) or "nothing"
                    raise UserError(f"{path}: no column {column!r}, only {only}: not the dataset expected ({place})")
                value = row[column]
                fits = isinstance(value, kind) and not isinstance(value, bool)
                if not fits or (isinstance(value, float) and not math.isfinite(value)):
                    wanted = "text" if kind is str else "text or a number"
                    raise UserError(
                        f"{path}, {place}: {column!r} is {value!r:.80}, where {wanted} is expected: {AGAIN}"
                    )
            if unique and (first := seen.setdefault(str(row[unique]), f"{path}, {place}")) != f"{path}, {place}":
                raise UserError(f"{path}, {place}: {unique!r} is {row[unique]!r:.80}, as in {first}: {AGAIN}")
            yield row
        if place is None:
            raise UserError(f"{path}: no rows: take the file of the stated revision")


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[str, dict]]:
    """Each row with its place in the file, in words."""
    if path.suffix == ".parquet":
        file, rows = _parquet(path), 0
        try:
            for batch in file.iter_batches(columns=[name for name in columns if name in file.schema_arrow.names]):
                for row in batch.to_pylist():
                    rows += 1
                    yield f"row {rows}", row
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error, f" behind row {rows}") from None
    elif path.suffix == ".csv":
        yield from _csv(path)
    else:
        for number, line in _lines(path):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: no JSON ({error}): {AGAIN}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: {line.strip():.80} is no JSON object with columns: {AGAIN}")
            yield f"line {number}", row


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception, where: str = "") -> Exception:
    """What to raise; errors of the system keep their own words."""
    if isinstance(error, OSError) and error.errno:
        return error
    return UserError(f"{path}: damaged or cut off{where} ({error}): delete it, and take it anew")


def _csv(path: Path) -> Iterator[tuple[str, dict]]:
    rows = 0
    with _opened(path) as stream:
        reader = csv.DictReader(_text(path, stream, newline=""))
        try:
            for row in reader:
                rows += 1
                place = f"row {rows} below the header, which ends in line {reader.line_num}"
                if None in row or None in row.values():
                    header = len(reader.fieldnames or [])
                    fields = header + len(row.get(None) or []) - list(row.values()).count(None)
                    raise UserError(
                        f"{path}, {place}: {fields} fields, where the header has {header}: a quote or a comma is "
                        f"missing, or one too many, there or in the row before; {AGAIN}"
                    )
                yield place, row
        except csv.Error as error:
            raise UserError(
                f"{path}, row {rows + 1} below the header, read up to line {reader.line_num}: no CSV ({error}): most "
                f"likely a quote that is not closed; {AGAIN}"
            ) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers."""
    # Only line feeds part the lines: other separators may stand inside a JSON string.
    with _opened(path) as stream:
        for number, line in enumerate(_text(path, stream, newline="\n"), start=1):
            if line.strip():
                yield number, line


def _opened(path: Path) -> BinaryIO:
    return pa.input_stream(path, compression="zstd" if path.suffix == ".zst" else None)


def _text(path: Path, stream: BinaryIO, newline: str) -> Iterator[str]:
    """Lines of a file in UTF-8, with a byte order mark or without."""
    try:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline)
        while line := text.readline(LONGEST):
            if len(line) == LONGEST:  # a KB of zstd may hold it
                raise UserError(f"{path}: a line of more than {LONGEST:,} characters: {AGAIN}")
            yield line
    except UnicodeDecodeError:
        with _opened(path) as again:
            for number, line in enumerate(io.BufferedReader(again), start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}: byte 0x{line[error.start]:02x} at {error.start + 1} is no UTF-8: save "
                        "the file as UTF-8, or take the file of the stated revision"
                    ) from None
        raise
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
