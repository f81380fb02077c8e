"""`lengths.parquet`: how long the outputs are, beside the baseline's on the same questions.

A truncated output counts with the length that it reached: read a mean together with `truncated`.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.report._statistics import interval, ratio_replicates
from scripts.report._tables import (
    CELL,
    COUNT_COLUMNS,
    STUDY_COLUMNS,
    baseline_of,
    by_question,
    counted,
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
        column("mean", pa.float64(), "mean length of the outputs, in tokens"),
        column("median", pa.float64(), "median length, in tokens"),
        column("p90", pa.float64(), "length that a tenth of the outputs exceeds, in tokens"),
        column("max", pa.int64(), "greatest length, in tokens"),
        column("ratio", pa.float64(), "mean length over that of none/full; null for none/full itself"),
        column("low", pa.float64(), "lower end of the ratio's 95 % interval (paired bootstrap over questions)"),
        column("high", pa.float64(), "upper end of the ratio's 95 % interval"),
        column("truncated", pa.float64(), "share of outputs cut off at the token limit, in percent"),
        column("mean_right", pa.float64(), "mean length of the outputs that are right, in tokens; null: none is"),
        column("mean_wrong", pa.float64(), "mean length of the outputs that are wrong, in tokens; null: none is"),
    ]
)


def measure(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and benchmark from one row per sample."""
    keys = ["study", *CELL, "benchmark"]
    lengths = samples["output_tokens"]
    groups = samples.assign(
        truncated=100.0 * (samples["finish_reason"] == "length"),
        right=lengths.where(samples["right"]),
        wrong=lengths.where(~samples["right"]),
    ).groupby(keys, sort=False)
    table = groups.agg(
        mean=("output_tokens", "mean"),
        median=("output_tokens", "median"),
        p90=("output_tokens", lambda tokens: tokens.quantile(0.9)),
        max=("output_tokens", "max"),
        truncated=("truncated", "mean"),
        mean_right=("right", "mean"),
        mean_wrong=("wrong", "mean"),
    )
    return counted(table.join(ratios(samples)).reset_index(), samples)[SCHEMA.names]


def ratios(samples: pd.DataFrame) -> pd.DataFrame:
    """`ratio`, `low` and `high` of each cell and benchmark; NaN for the baseline's."""
    tokens = {key: values.sum(axis=1) for key, values in by_question(samples, "output_tokens").items()}
    pieces = []
    for suite, benchmark in dict.fromkeys(key[3:] for key in tokens):
        keys = [key for key in tokens if key[3:] == (suite, benchmark)]
        values = np.stack([tokens[key] for key in keys], axis=1)
        baselines = np.stack([tokens[*baseline_of(key[:4]), benchmark] for key in keys], axis=1)
        low, high = interval(ratio_replicates(values, baselines, benchmark))
        ends = {"ratio": values.sum(axis=0) / baselines.sum(axis=0), "low": low, "high": high}
        pieces.append(pd.DataFrame(ends, pd.MultiIndex.from_tuples(keys, names=[*CELL, "benchmark"])))
    table = pd.concat(pieces)
    return table[[not is_baseline(key) for key in table.index]]


@stage
def main(samples: Input, output: Output) -> None:
    write_frame(output, measure(pd.read_parquet(samples)), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
