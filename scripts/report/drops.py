"""`drops.parquet`: what each cell loses against the baseline, paired by question and seed, and how sure that is.

`drop` is accuracy minus baseline, as in the paper: a loss is negative. `avg` resamples within each benchmark and
weighs benchmarks equally; its sign test pools the questions of all. p is corrected twice: over the cells for `avg`,
over cells × benchmarks for the rest (`comparisons` says how many).
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.report._statistics import classify, detectable, drop_replicates, holm, interval, sign_test
from scripts.report._tables import (
    AVERAGE,
    BASELINE,
    BENCHMARK_OR_AVERAGE,
    CELL,
    STUDY_COLUMNS,
    by_question,
    in_order,
    write_frame,
)
from scripts.run.stage import Input, Output, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_OR_AVERAGE,
        column("questions", pa.int64(), "questions that both have answered"),
        column("seeds", pa.int64(), "answers to each question"),
        column("baseline", pa.float64(), "accuracy of none/full, in percent"),
        column("accuracy", pa.float64(), "accuracy of this cell, in percent"),
        column("drop", pa.float64(), "accuracy minus baseline, in points: a loss is negative"),
        column("low", pa.float64(), "lower end of the drop's 95 % interval (paired bootstrap), in points"),
        column("high", pa.float64(), "upper end of the drop's 95 % interval, in points"),
        column("wins", pa.int64(), "questions of which more samples are right than of the baseline's"),
        column("losses", pa.int64(), "questions of which fewer samples are right than of the baseline's"),
        column("p", pa.float64(), "exact two-sided sign test of wins against losses (one seed: McNemar's test)"),
        column("p_adjusted", pa.float64(), "p corrected for the number of comparisons (Holm)"),
        column("comparisons", pa.int64(), "tests among which p is corrected: all of avg, or all of single benchmarks"),
        column(
            "class",
            pa.string(),
            "where the whole interval is: lossless (from -1), fair (-3 to -1), risky (below -3); else undetermined",
        ),
        column("detectable", pa.float64(), "smallest loss that 80 % of such studies would tell from zero, in points"),
    ]
)


def compare(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell but the baseline's and benchmark, `avg` last in each cell, from one row per sample."""
    right = by_question(samples, "correct")
    cells = [cell for cell in dict.fromkeys(key[:3] for key in right) if cell[1:] != BASELINE]
    if not cells:
        return SCHEMA.empty_table().to_pandas()
    tables, replicates = [], []
    for benchmark in samples["benchmark"].unique():
        counts = np.stack([right[*cell, benchmark].sum(axis=1) for cell in cells], axis=1)
        baselines = np.stack([right[cell[0], *BASELINE, benchmark].sum(axis=1) for cell in cells], axis=1)
        seeds = right[*cells[0], benchmark].shape[1]
        replicates.append(drop_replicates(counts - baselines, np.full(len(counts), seeds), benchmark))
        table = pd.DataFrame(cells, columns=CELL).assign(
            benchmark=benchmark,
            questions=len(counts),
            seeds=seeds,
            baseline=100 * baselines.mean(axis=0) / seeds,
            accuracy=100 * counts.mean(axis=0) / seeds,
            wins=(counts > baselines).sum(axis=0),
            losses=(counts < baselines).sum(axis=0),
        )
        tables.append(with_interval(table, replicates[-1]))
    singles = pd.concat(tables)
    how = {"questions": "sum", "seeds": "first", "baseline": "mean", "accuracy": "mean", "wins": "sum", "losses": "sum"}
    average = singles.groupby(CELL, sort=False, as_index=False).agg(how).assign(benchmark=AVERAGE)
    average = with_interval(average, np.mean(replicates, axis=0))
    families = [family.assign(p_adjusted=holm(family["p"]), comparisons=len(family)) for family in (singles, average)]
    return in_order(pd.concat(families), cells).assign(study=samples["study"].iloc[0])[SCHEMA.names]


def with_interval(table: pd.DataFrame, replicates: np.ndarray) -> pd.DataFrame:
    """The table's cells with what follows from `(RESAMPLES, cells)` of their drops and from wins and losses."""
    low, high = interval(replicates)
    return table.assign(
        drop=table["accuracy"] - table["baseline"],
        low=low,
        high=high,
        p=sign_test(table["wins"].to_numpy(), table["losses"].to_numpy()),
        detectable=detectable(replicates),
        **{"class": [classify(*ends) for ends in zip(low, high, strict=True)]},
    )


@stage
def main(samples: Input, output: Output) -> None:
    columns = ["study", *CELL, "benchmark", "id", "seed", "correct"]
    write_frame(output, compare(pd.read_parquet(samples, columns=columns)), SCHEMA)


if __name__ == "__main__":
    main()
