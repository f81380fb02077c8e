"""`difficulty.parquet`: whether hard questions lose more, by their stated level and by the baseline's own solve rate.

Binned by the very answers that are then compared, questions that the baseline solved by luck would lose, those that it
missed by bad luck would win, even if nothing had changed (regression to the mean). So each seed is compared in the bin
that the baseline's *other* seeds put the question in; with one seed there is no such bin.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.report._statistics import drop_replicates, interval
from scripts.report._tables import (
    BASELINE,
    CELL,
    COUNT_COLUMNS,
    STUDY_COLUMNS,
    by_question,
    counted,
    in_order,
    interval_columns,
    is_baseline,
    verdict_of,
    write_frame,
)
from scripts.run.stage import Input, Output, stage
from scripts.table import BENCHMARK_COLUMN, column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_COLUMN,
        *COUNT_COLUMNS,
        column("by", pa.string(), "level: as the benchmark states it; solve_rate: of the baseline in its other seeds"),
        column("bin", pa.string(), "the level, or right answers of the baseline / its other seeds, as in 1/2"),
        column("n", pa.int64(), "answers compared: question × seed"),
        column("baseline", pa.float64(), "accuracy of none/full in this bin, in percent"),
        column("accuracy", pa.float64(), "accuracy of this cell in this bin, in percent"),
        column("drop", pa.float64(), "accuracy minus baseline, in points: a loss is negative"),
        *interval_columns("drop"),
    ]
)


def bins(baseline: np.ndarray, levels: np.ndarray) -> Iterator[tuple[str, str, np.ndarray]]:
    """(by, bin, mask) of each bin that is not empty, from `(questions, seeds)` verdicts; the mask has that shape."""
    for level in sorted(set(levels) - {None}, key=lambda name: (len(name), name)):
        yield "level", level, np.broadcast_to((levels == level)[:, None], baseline.shape)
    others = baseline.shape[1] - 1
    solved = baseline.sum(axis=1, keepdims=True) - baseline
    for count in np.unique(solved) if others else []:
        yield "solve_rate", f"{count}/{others}", solved == count


def compare(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell but the baseline's, benchmark and bin, from one row per sample."""
    right = by_question(samples, "right")
    groups = samples.groupby(["suite", "benchmark"], sort=False)
    levels = {key: rows.drop_duplicates("id").sort_values("id")["level"].to_numpy() for key, rows in groups}
    tables = [SCHEMA.empty_table().to_pandas()]
    for model, suite, benchmark in dict.fromkeys((key[0], *key[3:]) for key in right):
        same = (model, suite, benchmark)
        cells = [key[:4] for key in right if (key[0], *key[3:]) == same and not is_baseline(key)]
        baseline = right[model, *BASELINE, suite, benchmark]
        for by, name, mask in bins(baseline, levels[suite, benchmark]) if cells else []:
            questions = mask.any(axis=1)
            asked = mask[questions].sum(axis=1)
            counts = np.stack([(right[*cell, benchmark] & mask)[questions].sum(axis=1) for cell in cells], axis=1)
            solved = (baseline & mask)[questions].sum(axis=1, keepdims=True)
            low, high = interval(drop_replicates(counts - solved, asked, f"{benchmark} {by} {name}"))
            accuracy, share = 100 * counts.sum(axis=0) / asked.sum(), 100 * solved.sum() / asked.sum()
            table = pd.DataFrame(cells, columns=CELL).assign(benchmark=benchmark, by=by, bin=name, n=asked.sum())
            table = table.assign(baseline=share, accuracy=accuracy, drop=accuracy - share, low=low, high=high)
            tables.append(table.assign(study=samples["study"].iloc[0]))
    table = in_order(pd.concat(tables).drop(columns=["questions", "of"]), (key[:4] for key in right))
    return counted(table, samples)[SCHEMA.names]


@stage
def main(samples: Input, output: Output) -> None:
    write_frame(output, compare(pd.read_parquet(samples)), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
