"""`paper.parquet`: this study's accuracies beside the published ones (arXiv 2504.04823), where both exist.

Ours are by the study's rule (`correct`), as the paper's, whatever verdict the other tables rest on. Both have answered
the same questions, so what parts two runs of the same thing is the chance in their samples. Ours is known by question:
the variance of its answers over seeds (with one seed the binomial one, which is too large). The paper's is its
deviation over three seeds, pooled over its 117 rows of the benchmark, for two degrees of freedom alone say little.
`standard_error` is the root of the sum of both squares; `within` is true up to 1.96 of them.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.report._statistics import sampling_error
from scripts.report._tables import (
    AVERAGE,
    BENCHMARK_OR_AVERAGE,
    CELL,
    CHECKPOINT,
    COUNT_COLUMNS,
    LIMITS,
    STUDY_COLUMNS,
    by_question,
    write_frame,
)
from scripts.report.summary import summarize
from scripts.run.stage import Input, Output, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_OR_AVERAGE,
        *COUNT_COLUMNS,
        column("seeds", pa.int64(), "seeds of this study; the paper has three"),
        column("mean", pa.float64(), "our mean accuracy over seeds, in percent"),
        column("std", pa.float64(), "our standard deviation over seeds (n - 1), in points; null for one seed"),
        column("paper_mean", pa.float64(), "the paper's mean accuracy, in percent"),
        column("paper_std", pa.float64(), "the paper's standard deviation over seeds, in points"),
        column("difference", pa.float64(), "our mean minus the paper's, in points"),
        column("standard_error", pa.float64(), "of the difference, by chance in the samples of both, in points"),
        column("within", pa.bool_(), "the difference is at most 1.96 standard errors"),
    ]
)
SEEDS = 3  # of the paper


def compare(samples: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and benchmark of the study that the paper has too; `avg` where both average the same.

    The paper's tables have no budgets of thinking and no cures: suites that have some are left out.
    """
    samples = samples[samples[LIMITS].isna().all(axis=1)]
    keys = [*CELL, "benchmark"]
    summary = summarize(samples.assign(right=samples["correct"]))
    right = by_question(samples, "correct")
    ours = pd.DataFrame([(*key, sampling_error(verdicts)) for key, verdicts in right.items()], columns=[*keys, "error"])
    groups = ours.groupby(CELL, sort=False, as_index=False)
    averages = groups.agg(error=("error", lambda e: np.sqrt((e**2).sum()) / len(e)))
    pooled = (published["std"] ** 2).groupby(published["benchmark"]).mean().rename("variance").reset_index()
    published = published.rename(columns={"mean": "paper_mean", "std": "paper_std"}).merge(pooled, on="benchmark")
    both = pd.concat([ours, averages.assign(benchmark=AVERAGE)])
    table = summary.merge(both, on=keys).merge(published.drop(columns="drop"), on=[*CHECKPOINT, "benchmark"])
    asked = summary.groupby("suite")["benchmark"].agg(set)
    alike = [suite for suite, names in asked.items() if names == set(published["benchmark"])]
    table = table[(table["benchmark"] != AVERAGE) | table["suite"].isin(alike)]
    difference = table["mean"] - table["paper_mean"]
    error = np.sqrt(table["error"] ** 2 + table["variance"] / SEEDS)
    return table.assign(difference=difference, standard_error=error, within=difference.abs() <= 1.96 * error)[
        SCHEMA.names
    ]


@stage
def main(samples: Input, paper: Input, output: Output) -> None:
    write_frame(output, compare(pd.read_parquet(samples), pd.read_csv(paper)), SCHEMA, verdict="correct")


if __name__ == "__main__":
    main()
