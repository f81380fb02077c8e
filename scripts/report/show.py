"""Print a study's accuracy table and say where its Parquet files lie.

python -m scripts.report.show results/report/default
"""

import sys
from pathlib import Path

import pandas as pd
import typer
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from scripts.report.summary import AVERAGE


def main(folder: Path) -> None:
    if not (folder / "summary.parquet").exists():
        sys.exit(f"error: no {folder / 'summary.parquet'}: run `snakemake --cores all` first")
    summary = pd.read_parquet(folder / "summary.parquet")
    benchmarks = list(dict.fromkeys(summary["benchmark"]))
    table = Table(box=MARKDOWN)
    for name in ("model", "quantizer/scheme"):
        table.add_column(name, no_wrap=True)
    for name in (*benchmarks, "drop"):
        table.add_column(name, justify="right", no_wrap=True)
    for (model, quantizer, scheme), cell in summary.groupby(["model", "quantizer", "scheme"], sort=False):
        rows = cell.set_index("benchmark")
        values = [f"{rows['mean'][b]:.1f} ± {rows['std'][b]:.1f}" for b in benchmarks]
        drop = rows["drop"][AVERAGE]
        table.add_row(model, f"{quantizer}/{scheme}", *values, "" if scheme == "full" else f"{drop:+.1f}")
    console = Console(width=200)
    console.print(table)
    console.print("Accuracy in percent, mean ± standard deviation over seeds; drop of the average against none/full.")
    for path in sorted(folder.glob("*.parquet")):
        console.print(f"{path}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
