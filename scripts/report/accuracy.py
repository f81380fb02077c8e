"""`accuracy.parquet`: one row per model, quantizer, scheme, benchmark and seed."""

import pandas as pd
import pyarrow as pa

from scripts.report._tables import CELL, COUNT_COLUMNS, STUDY_COLUMNS, verdict_of, write_frame
from scripts.run.stage import Input, Output, stage
from scripts.table import BENCHMARK_COLUMN, SEED_COLUMN, column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_COLUMN,
        SEED_COLUMN,
        *COUNT_COLUMNS,
        column("accuracy", pa.float64(), "share of right answers by the study's verdict, in percent"),
        column("accuracy_whole", pa.float64(), "the same by `correct`: the study's rule, whole output searched"),
        column("accuracy_final", pa.float64(), "the same by `correct_final`: what stands behind the thought"),
        column("truncated", pa.float64(), "share of outputs cut off at the token limit, in percent"),
        column("no_answer", pa.int64(), "outputs without an answer"),
        column("unparsed", pa.int64(), "outputs with an answer that could not be read, counted as wrong"),
        column("timeouts", pa.int64(), "outputs whose judging ran out of time, counted as wrong"),
        column("errors", pa.int64(), "outputs whose judging failed, counted as wrong"),
        column("mean_tokens", pa.float64(), "mean length of the outputs in tokens"),
        column("median_tokens", pa.float64(), "median length of the outputs in tokens"),
    ]
)
COUNTED = {"no_answer": "no_answer", "unparsed": "unparsed", "timeouts": "timeout", "errors": "error"}


def tabulate(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, benchmark and seed from one row per sample."""
    samples = samples.assign(
        accuracy=100.0 * samples["right"],
        accuracy_whole=100.0 * samples["correct"],
        accuracy_final=100.0 * samples["correct_final"],
        truncated=100.0 * (samples["finish_reason"] == "length"),
        **{column: samples["status"] == status for column, status in COUNTED.items()},
    )
    groups = samples.groupby(["study", *CELL, "benchmark", "seed"], sort=False, as_index=False)
    return groups.agg(
        questions=("id", "size"),
        of=("of", "first"),
        **{column: (column, "mean") for column in ("accuracy", "accuracy_whole", "accuracy_final", "truncated")},
        **{column: (column, "sum") for column in COUNTED},
        mean_tokens=("output_tokens", "mean"),
        median_tokens=("output_tokens", "median"),
    )


@stage
def main(samples: Input, output: Output) -> None:
    rows = pd.read_parquet(samples)
    write_frame(output, tabulate(rows), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
