"""`summary.parquet`: mean and standard deviation over seeds, their average over benchmarks, and the drop.

As in "Quantization Hurts Reasoning?" (arXiv 2504.04823): deviation with n - 1, Avg the plain mean of the benchmarks,
Drop = Avg minus the Avg of the unquantized model.
"""

import pandas as pd
import pyarrow as pa

from scripts.report._tables import AVERAGE, BENCHMARK_OR_AVERAGE, STUDY_COLUMNS, write_frame
from scripts.report.accuracy import tabulate
from scripts.run.stage import Input, Output, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_OR_AVERAGE,
        column("seeds", pa.int64(), "number of seeds"),
        column("mean", pa.float64(), "mean accuracy over seeds, in percent"),
        column(
            "std", pa.float64(), "standard deviation of the accuracy over seeds (n - 1), in points; null for one seed"
        ),
        column(
            "drop", pa.float64(), "mean minus the mean of none/full, in points; null where that is not in the study"
        ),
    ]
)


def summarize(accuracy: pd.DataFrame) -> pd.DataFrame:
    """From one row per cell, benchmark and seed to one per cell and benchmark, `avg` last in each cell."""
    cell = ["study", "model", "quantizer", "scheme"]
    averages = accuracy.groupby([*cell, "seed"], sort=False, as_index=False)["accuracy"].mean()
    both = pd.concat([accuracy, averages.assign(benchmark=AVERAGE)])
    # By order of appearance: cells as in the study, benchmarks as in the suite.
    order = {key: i for i, key in enumerate(accuracy[cell].itertuples(index=False, name=None))}
    summary = both.groupby([*cell, "benchmark"], sort=False, as_index=False)["accuracy"].agg(
        seeds="size", mean="mean", std="std"
    )
    position = summary[cell].apply(lambda row: order[tuple(row)], axis=1)
    summary = summary.assign(position=position).sort_values("position", kind="stable").drop(columns="position")
    is_baseline = (summary["quantizer"] == "none") & (summary["scheme"] == "full")
    baseline = summary[is_baseline].set_index(["study", "model", "benchmark"])["mean"]
    keys = pd.MultiIndex.from_frame(summary[["study", "model", "benchmark"]])
    return summary.assign(drop=summary["mean"].to_numpy() - baseline.reindex(keys).to_numpy())


@stage
def main(samples: Input, output: Output) -> None:
    write_frame(output, summarize(tabulate(pd.read_parquet(samples))), SCHEMA)


if __name__ == "__main__":
    main()
