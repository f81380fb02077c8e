"""`drops.parquet`: what each cell loses against the baseline, paired by question and seed, and how sure that is.

Both are asked the same suite. `drop` is accuracy minus baseline, as in the paper: a loss is negative. `avg` resamples
within each benchmark and weighs the suite's benchmarks equally; its sign test pools the questions of all. p is
corrected twice: over the cells for `avg`, over cells × benchmarks for the rest (`comparisons` says how many). A class
"lossless" is a non-inferiority test at the study's margin: a single one is wrong in 2.5 % of such studies at most, and
so is any other class; of n classes up to 0.025 n wrong ones are to be expected. Joint classes are all right at once in
95 %. What more seeds would do follows from how much of an interval's variance is theirs: the variance of the answers
to one question over its seeds.
"""

import pandas as pd
import pyarrow as pa

from scripts.report._classes import MARGINS
from scripts.report._pairs import judged
from scripts.report._statistics import holm
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
from scripts.run.stage import Input, Output, Settings, stage
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
            "p_noninferior", pa.float64(), "one-sided p that it loses more than margin_lossless (non-inferiority test)"
        ),
        column("p_adjusted", pa.float64(), "p corrected for the number of comparisons (Holm)"),
        column("comparisons", pa.int64(), "tests among which p is corrected: all of avg, or all of single benchmarks"),
        column(
            "class",
            pa.string(),
            "where the whole interval is: lossless, fair (between the margins) or risky; else undetermined",
        ),
        column("margin_lossless", pa.float64(), "points that what is lossless may lose, as was stated"),
        column("margin_risky", pa.float64(), "points that what is risky loses more than, as was stated"),
        column("low_joint", pa.float64(), "lower end of an interval that holds with those of all comparisons at once"),
        column("high_joint", pa.float64(), "upper end of the same (max-t bootstrap, 95 %)"),
        column("class_joint", pa.string(), "class by these: all such classes of a study are right at once in 95 %"),
        column("recovery", pa.float64(), "accuracy in percent of the baseline's; null where that may be 0"),
        column(
            "recovery_low", pa.float64(), "lower end of the recovery's 95 % interval (paired bootstrap), in percent"
        ),
        column("recovery_high", pa.float64(), "upper end of the recovery's 95 % interval, in percent"),
        column("detectable", pa.float64(), "smallest loss that 80 % of such studies would tell from zero, in points"),
        column(
            "seed_share",
            pa.float64(),
            "share of the drop's variance that is seeds, the rest questions; null: one seed",
        ),
        column(
            "seeds_needed",
            pa.int64(),
            "seeds with which an interval around this drop would lie in one class; null: no number of seeds on these "
            "questions, or unknown with one seed",
        ),
    ]
)


def tabulate(samples: pd.DataFrame, margins: dict[str, float] = MARGINS) -> pd.DataFrame:
    """One row per cell but the baseline's and benchmark, `avg` last in each cell, from one row per sample."""
    right = by_question(samples, "right")
    cells = [cell for cell in dict.fromkeys(key[:4] for key in right) if not is_baseline(cell)]
    pairs = judged(right, [(baseline_of(cell), cell) for cell in cells], margins)
    family = pairs.groupby(pairs["benchmark"] == AVERAGE)["p"]
    pairs = pairs.assign(p_adjusted=family.transform(holm), comparisons=family.transform("size"))
    keys = pd.DataFrame([cells[pair] for pair in pairs["pair"]], columns=CELL, index=pairs.index)
    names = {"first": "baseline", "second": "accuracy", "difference": "drop"}
    table = keys.join(pairs.rename(columns=names)).assign(study=samples["study"].iloc[0])
    return counted(table, samples)[SCHEMA.names]


@stage
def main(samples: Input, output: Output, settings: Settings) -> None:
    """`settings`: the study's `margins`."""
    columns = ["study", *CELL, "benchmark", "id", "seed", "right", "of"]
    rows = pd.read_parquet(samples, columns=columns)
    write_frame(output, tabulate(rows, settings["margins"]), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
