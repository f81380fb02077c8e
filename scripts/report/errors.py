"""`errors.parquet`: how judging and generating ended, counted for each cell and benchmark."""

import pandas as pd
import pyarrow as pa

from scripts.report._tables import CELL, COUNT_COLUMNS, STUDY_COLUMNS, counted, verdict_of, write_frame
from scripts.run.stage import Input, Output, stage
from scripts.table import BENCHMARK_COLUMN, column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_COLUMN,
        *COUNT_COLUMNS,
        column("status", pa.string(), "of judging: ok, no_answer, timeout, error, or how a program ended otherwise"),
        column(
            "finish_reason", pa.string(), "of the output: stop, length: truncated, or repetition: a loop was stopped"
        ),
        column("count", pa.int64(), "outputs"),
        column("share", pa.float64(), "of the outputs of this cell and benchmark, in percent"),
    ]
)


def count(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, benchmark, status and finish reason that occurs."""
    keys = ["study", *CELL, "benchmark"]
    pieces = []
    for key, rows in samples.groupby(keys, sort=False):
        ends = rows.groupby(["status", "finish_reason"], as_index=False).agg(count=("id", "size"))
        ends = ends.assign(share=100 * ends["count"] / len(rows))
        pieces.append(ends.assign(**dict(zip(keys, key, strict=True))))
    return counted(pd.concat(pieces), samples)[SCHEMA.names]


@stage
def main(samples: Input, output: Output) -> None:
    write_frame(output, count(pd.read_parquet(samples)), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
