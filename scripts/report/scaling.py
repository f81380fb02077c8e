"""`scaling.parquet`: what more thinking buys, over suites that differ only in how long a thought is let or made to be.

Such suites are a ladder: from the smallest budget to the largest, then the one without, then those whose thoughts are
made to go on. A cell is compared with itself one rung below, paired by question and seed.
"""

import pandas as pd
import pyarrow as pa

from scripts.report._pairs import compare
from scripts.report._tables import (
    BENCHMARK_OR_AVERAGE,
    CELL,
    CHECKPOINT,
    COUNT_COLUMNS,
    STUDY_COLUMNS,
    by_question,
    counted,
    interval_columns,
    verdict_of,
    with_averages,
    write_frame,
)
from scripts.run.stage import Input, Output, Settings, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_OR_AVERAGE,
        *COUNT_COLUMNS,
        column("thinking_tokens", pa.int64(), "budget of the thought; null: the suite has none"),
        column("think_again", pa.int64(), "ends of the thought that are replaced by Wait; null: none"),
        column("mean_tokens", pa.float64(), "mean length of the outputs, in tokens"),
        column("accuracy", pa.float64(), "share of right answers, in percent"),
        column("below", pa.string(), "the suite one rung below; null: none is"),
        column("gain", pa.float64(), "accuracy minus that of the same cell one rung below, in points"),
        *interval_columns("gain"),
        column("p", pa.float64(), "exact two-sided sign test over questions, not corrected for the number of rungs"),
    ]
)


def tabulate(samples: pd.DataFrame, ladders: list[list[str]]) -> pd.DataFrame:
    """One row per cell of a ladder and benchmark, `avg` last in each cell, from one row per sample.

    Args:
        samples: one row per sample.
        ladders: of suites, the shortest thoughts first.
    """
    rungs = [(suite, below) for ladder in ladders for suite, below in zip(ladder, [None, *ladder], strict=False)]
    right = by_question(samples, "right")
    checkpoints = dict.fromkeys(key[:3] for key in right)
    found = [(cell, suite, below) for cell in checkpoints for suite, below in rungs]
    # The lowest rung is paired with itself, for its accuracy alone.
    pairs = compare(right, [((*cell, below or suite), (*cell, suite)) for cell, suite, below in found])
    keys = pd.DataFrame(
        [(*found[pair][0], *found[pair][1:]) for pair in pairs["pair"]],
        columns=[*CHECKPOINT, "suite", "below"],
        index=pairs.index,
    )
    table = keys.join(pairs.rename(columns={"second": "accuracy", "difference": "gain"}))
    table.loc[table["below"].isna(), ["gain", "low", "high", "p"]] = None
    lengths = samples.drop_duplicates("suite")[["suite", "thinking_tokens", "think_again"]]
    table = table.merge(lengths, on="suite").assign(study=samples["study"].iloc[0])
    return counted(table.merge(_lengths(samples), on=[*CELL, "benchmark"]), samples)[SCHEMA.names]


def _lengths(samples: pd.DataFrame) -> pd.DataFrame:
    """`mean_tokens` of each cell and benchmark, and their means over benchmarks."""
    groups = samples.groupby([*CELL, "benchmark"], sort=False, as_index=False)
    return with_averages(groups.agg(mean_tokens=("output_tokens", "mean")), ["mean_tokens"])


@stage
def main(samples: Input, output: Output, settings: Settings) -> None:
    """`settings`: `ladders`, of suites."""
    table = tabulate(pd.read_parquet(samples), settings["ladders"])
    write_frame(output, table, SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
