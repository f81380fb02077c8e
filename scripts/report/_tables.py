"""What the tables share: their first columns, and the samples of a study as one matrix per cell and benchmark."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.table import CELL_COLUMNS, SUITE_COLUMN, column, read_said, write_table

CHECKPOINT = ["model", "quantizer", "scheme"]
CELL = [*CHECKPOINT, "suite"]
Cell = tuple[str, str, str, str]
BASELINE = ("none", "full")
AVERAGE = "avg"
LIMITS = ["thinking_tokens", "think_again", "discourage", "stop_loops"]  # columns of samples: how a suite cures or cuts
# What a study's tables may rest on, in words for readers; its key `verdict` in the config says which.
VERDICTS = {
    "correct": "An answer is right by the study's rule, which searches the whole output (correct).",
    "correct_final": "An answer is right if a careful human would say so of what stands behind the thought "
    "(correct_final).",
}
STUDY_COLUMNS = [column("study", pa.string(), "name of the study"), *CELL_COLUMNS, SUITE_COLUMN]
BENCHMARK_OR_AVERAGE = column(
    "benchmark", pa.string(), f"name of the benchmark, or {AVERAGE}: the plain mean of the suite's"
)
COUNT_COLUMNS = [
    column("questions", pa.int64(), "questions that the suite asks"),
    column("of", pa.int64(), "questions that the benchmark has"),
]


def interval_columns(number: str) -> list[pa.Field]:
    """The ends of a number's interval."""
    return [
        column("low", pa.float64(), f"lower end of the {number}'s 95 % interval (paired bootstrap), in points"),
        column("high", pa.float64(), f"upper end of the {number}'s 95 % interval, in points"),
    ]


def with_averages(table: pd.DataFrame, values: list[str]) -> pd.DataFrame:
    """Rows of each cell and benchmark, and behind them the means of the values over each cell's benchmarks."""
    averages = table.groupby(CELL, sort=False, as_index=False)[values].mean()
    return pd.concat([table, averages.assign(benchmark=AVERAGE)])


def write_frame(path: Path, frame: pd.DataFrame, schema: pa.Schema, **said: str) -> None:
    """Write a table with the schema's columns in their order; NaN becomes null.

    Args:
        said: what the file's metadata says, as the verdict on which the table rests.

    Raises:
        ValueError: the frame lacks a column or has one too many.
    """
    write_table(path, pa.Table.from_pandas(frame, preserve_index=False), schema, **said)


def verdict_of(table: Path) -> str:
    """The verdict on which a table rests, a key of `VERDICTS`."""
    return read_said(table, "verdict")


def is_baseline(cell: Cell) -> bool:
    return cell[1:3] == BASELINE


def baseline_of(cell: Cell) -> Cell:
    """The cell that it is paired with: full precision, of the same model, asked the same suite."""
    return (cell[0], *BASELINE, cell[3])


def by_question(samples: pd.DataFrame, value: str) -> dict[tuple[str, str, str, str, str], np.ndarray]:
    """`(questions, seeds)` of a column for each model, quantizer, scheme, suite and benchmark, in the study's order.

    Questions and seeds are sorted, so that the same row and column of two cells are the same question and seed.
    """
    return {
        key: rows.sort_values(["id", "seed"])[value].to_numpy().reshape(rows["id"].nunique(), -1)
        for key, rows in samples.groupby([*CELL, "benchmark"], sort=False)
    }


def counted(table: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The table with how many questions were asked of how many, of each suite and benchmark; `avg` has the sums."""
    groups = samples.groupby(["suite", "benchmark"], sort=False, as_index=False)
    counts = groups.agg(questions=("id", "nunique"), of=("of", "first"))
    sums = counts.groupby("suite", as_index=False)[["questions", "of"]].sum().assign(benchmark=AVERAGE)
    keys = ["suite", "benchmark"]
    return table.merge(pd.concat([counts, sums]), on=keys, how="left", validate="many_to_one")


def in_order(table: pd.DataFrame, cells: Iterable[Cell]) -> pd.DataFrame:
    """The table's rows cell by cell; those of one cell keep their order."""
    position = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
    found = [position[cell] for cell in table[CELL].itertuples(index=False, name=None)]
    return table.iloc[np.argsort(found, kind="stable")]
