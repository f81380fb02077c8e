"""`accuracy.parquet`: one row per model, quantizer, scheme, benchmark and seed."""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from scripts.report._scores import CELL, read_scores
from scripts.run.stage import Output, Parameter, Settings, stage
from scripts.table import BENCHMARK_COLUMN, CELL_COLUMNS, SEED_COLUMN, column, write_table

SCHEMA = pa.schema(
    [
        column("study", pa.string(), "name of the study"),
        *CELL_COLUMNS,
        BENCHMARK_COLUMN,
        SEED_COLUMN,
        column("n", pa.int64(), "questions"),
        column("accuracy", pa.float64(), "share of right answers, whole output searched, in percent"),
        column("accuracy_final", pa.float64(), "share of right answers behind </think>, in percent"),
        column("truncated", pa.float64(), "share of outputs cut off at the token limit, in percent"),
        column("no_answer", pa.int64(), "outputs without an answer"),
        column("timeouts", pa.int64(), "outputs whose judging ran out of time, counted as wrong"),
        column("errors", pa.int64(), "outputs whose judging failed, counted as wrong"),
        column("mean_tokens", pa.float64(), "mean length of the outputs in tokens"),
        column("median_tokens", pa.float64(), "median length of the outputs in tokens"),
    ]
)


def tabulate(rows: pd.DataFrame, study: str) -> pd.DataFrame:
    """One row per cell, benchmark and seed from one row per verdict."""
    table = rows.groupby([*CELL, "benchmark", "seed"], sort=False).agg(
        n=("id", "size"),
        accuracy=("correct", lambda c: 100 * c.mean()),
        accuracy_final=("correct_final", lambda c: 100 * c.mean()),
        truncated=("finish_reason", lambda r: 100 * (r == "length").mean()),
        no_answer=("status", lambda s: (s == "no_answer").sum()),
        timeouts=("status", lambda s: (s == "timeout").sum()),
        errors=("status", lambda s: (s == "error").sum()),
        mean_tokens=("output_tokens", "mean"),
        median_tokens=("output_tokens", "median"),
    )
    return table.reset_index().assign(study=study)[SCHEMA.names]


@stage
def main(scores: Parameter, questions: Parameter, output: Output, study: Parameter, settings: Settings) -> None:
    rows = read_scores(Path(scores), Path(questions), settings)
    write_table(output, tabulate(rows, study).to_dict("records"), SCHEMA)


if __name__ == "__main__":
    main()
