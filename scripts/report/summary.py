"""`summary.parquet`: mean and standard deviation over seeds, their average over benchmarks, and the drop.

As in "Quantization Hurts Reasoning?" (arXiv 2504.04823): deviation with n - 1, Avg the plain mean of the benchmarks,
Drop = Avg minus the Avg of the unquantized model. Intervals of the drop stand in `drops.parquet`.
A majority among programs, which are hardly ever written alike, comes out as the mean.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.report._statistics import majority, pass_at_k
from scripts.report._tables import (
    AVERAGE,
    BASELINE,
    BENCHMARK_OR_AVERAGE,
    CELL,
    COUNT_COLUMNS,
    STUDY_COLUMNS,
    by_question,
    counted,
    in_order,
    verdict_of,
    with_averages,
    write_frame,
)
from scripts.report.accuracy import tabulate
from scripts.run.stage import Input, Output, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_OR_AVERAGE,
        *COUNT_COLUMNS,
        column("seeds", pa.int64(), "number of seeds"),
        column("mean", pa.float64(), "mean accuracy over seeds, in percent"),
        column(
            "std", pa.float64(), "standard deviation of the accuracy over seeds (n - 1), in points; null for one seed"
        ),
        column(
            "drop", pa.float64(), "mean minus the mean of none/full, in points; null where that is not in the study"
        ),
        column(
            "pass_k",
            pa.float64(),
            "share of questions that one of k samples gets right, k the number of seeds, in percent; null for one seed",
        ),
        column(
            "majority",
            pa.float64(),
            "share of questions that the most frequent answer gets right, in percent; null for fewer than three seeds",
        ),
    ]
)


def summarize(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and benchmark, `avg` last in each cell, from one row per sample."""
    keys = ["study", *CELL, "benchmark"]
    by_seed = tabulate(samples)
    averages = by_seed.groupby(["study", *CELL, "seed"], sort=False, as_index=False)["accuracy"].mean()
    both = pd.concat([by_seed, averages.assign(benchmark=AVERAGE)])
    table = both.groupby(keys, sort=False)["accuracy"].agg(seeds="size", mean="mean", std="std").reset_index()
    table = table.merge(votes(samples), on=[*CELL, "benchmark"])
    baselines = table[(table["quantizer"] == BASELINE[0]) & (table["scheme"] == BASELINE[1])]
    same = ["model", "suite", "benchmark"]
    baseline = baselines.set_index(same)["mean"].reindex(pd.MultiIndex.from_frame(table[same]))
    table = counted(table.assign(drop=table["mean"].to_numpy() - baseline.to_numpy()), samples)
    return in_order(table, samples[CELL].itertuples(index=False, name=None))[SCHEMA.names]


def votes(samples: pd.DataFrame) -> pd.DataFrame:
    """`pass_k` and `majority` in percent of each cell and benchmark, and their means over benchmarks."""
    answers = by_question(samples, "extracted")
    rows = []
    for key, right in by_question(samples, "right").items():
        seeds = right.shape[1]
        passed = pass_at_k(seeds, right.sum(axis=1), seeds).mean() if seeds > 1 else None
        pairs = zip(answers[key], right, strict=True)
        voted = np.mean([majority(*pair) for pair in pairs]) if seeds > 2 else None
        rows.append((*key, passed, voted))
    table = pd.DataFrame(rows, columns=[*CELL, "benchmark", "pass_k", "majority"])
    table[["pass_k", "majority"]] = 100 * table[["pass_k", "majority"]].astype(float)
    return with_averages(table, ["pass_k", "majority"])


@stage
def main(samples: Input, output: Output) -> None:
    write_frame(output, summarize(pd.read_parquet(samples)), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
