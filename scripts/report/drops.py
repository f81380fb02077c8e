"""`drops.parquet`: what each cell loses against the baseline, paired by question and seed, and how sure that is.

Both are asked the same suite. `drop` is accuracy minus baseline, as in the paper: a loss is negative. `avg` resamples
within each benchmark and weighs the suite's benchmarks equally; its sign test pools the questions of all. p is
corrected twice: over the cells for `avg`, over cells × benchmarks for the rest (`comparisons` says how many). A class
"lossless" is a non-inferiority test at a margin of one point: a single one is wrong in 2.5 % of such studies at most,
of n such verdicts 0.025 n are to be expected. Joint classes are all right at once in 95 %.
"""

import pandas as pd
import pyarrow as pa

from scripts.report._pairs import compare
from scripts.report._statistics import classify, holm
from scripts.report._tables import (
    AVERAGE,
    BENCHMARK_OR_AVERAGE,
    CELL,
    COUNT_COLUMNS,
    STUDY_COLUMNS,
    baseline_of,
    by_question,
    counted,
    interval_columns,
    is_baseline,
    verdict_of,
    write_frame,
)
from scripts.run.stage import Input, Output, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_OR_AVERAGE,
        *COUNT_COLUMNS,
        column("seeds", pa.int64(), "answers to each question"),
        column("baseline", pa.float64(), "accuracy of none/full, in percent"),
        column("accuracy", pa.float64(), "accuracy of this cell, in percent"),
        column("drop", pa.float64(), "accuracy minus baseline, in points: a loss is negative"),
        *interval_columns("drop"),
        column("wins", pa.int64(), "questions of which more samples are right than of the baseline's"),
        column("losses", pa.int64(), "questions of which fewer samples are right than of the baseline's"),
        column("p", pa.float64(), "exact two-sided sign test of wins against losses (one seed: McNemar's test)"),
        column(
            "p_noninferior", pa.float64(), "one-sided p that the cell loses more than 1 point (non-inferiority test)"
        ),
        column("p_adjusted", pa.float64(), "p corrected for the number of comparisons (Holm)"),
        column("comparisons", pa.int64(), "tests among which p is corrected: all of avg, or all of single benchmarks"),
        column(
            "class",
            pa.string(),
            "where the whole interval is: lossless (from -1), fair (-3 to -1), risky (below -3); else undetermined",
        ),
        column("low_joint", pa.float64(), "lower end of an interval that holds with those of all comparisons at once"),
        column("high_joint", pa.float64(), "upper end of the same (max-t bootstrap, 95 %)"),
        column("class_joint", pa.string(), "class by these: all such classes of a study are right at once in 95 %"),
        column("recovery", pa.float64(), "accuracy in percent of the baseline's; null where that may be 0"),
        column(
            "recovery_low", pa.float64(), "lower end of the recovery's 95 % interval (paired bootstrap), in percent"
        ),
        column("recovery_high", pa.float64(), "upper end of the recovery's 95 % interval, in percent"),
        column("detectable", pa.float64(), "smallest loss that 80 % of such studies would tell from zero, in points"),
    ]
)


def tabulate(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell but the baseline's and benchmark, `avg` last in each cell, from one row per sample."""
    right = by_question(samples, "right")
    cells = [cell for cell in dict.fromkeys(key[:4] for key in right) if not is_baseline(cell)]
    pairs = compare(right, [(baseline_of(cell), cell) for cell in cells])
    family = pairs.groupby(pairs["benchmark"] == AVERAGE)["p"]
    pairs = pairs.assign(p_adjusted=family.transform(holm), comparisons=family.transform("size"))
    for name, ends in {"class": ["low", "high"], "class_joint": ["low_joint", "high_joint"]}.items():
        pairs[name] = [classify(*pair) for pair in pairs[ends].itertuples(index=False)]
    keys = pd.DataFrame([cells[pair] for pair in pairs["pair"]], columns=CELL, index=pairs.index)
    names = {"first": "baseline", "second": "accuracy", "difference": "drop"}
    table = keys.join(pairs.rename(columns=names)).assign(study=samples["study"].iloc[0])
    return counted(table, samples)[SCHEMA.names]


@stage
def main(samples: Input, output: Output) -> None:
    columns = ["study", *CELL, "benchmark", "id", "seed", "right", "of"]
    rows = pd.read_parquet(samples, columns=columns)
    write_frame(output, tabulate(rows), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
