"""Print a study's headline table and say where its tables lie.

python -m scripts.report.show results/report/default
"""

import sys
from pathlib import Path

import pandas as pd
import typer
from rich.box import MARKDOWN, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scripts.report.headline import headlines, note

COLOURS = {"lossless": "green", "fair": "yellow", "risky": "red", "undetermined": "cyan", "": "none"}


def main(folder: Path) -> None:
    tables = [folder / f"{name}.parquet" for name in ("summary", "drops")]
    for path in tables:
        if not path.exists():
            sys.exit(f"error: no {path}: run `snakemake --cores all` first")
    suites = headlines(*map(pd.read_parquet, tables))
    console = Console(width=200, highlight=False)
    for suite, rows in suites.items():
        if len(suites) > 1:
            console.print(f"suite {suite}")
        console.print(table_of(rows))
    console.print(note(*tables))
    console.print(f"Page: {folder}/index.html")
    console.print(f"Tables, for pandas, DuckDB, polars: {folder}/*.parquet (what is in them: scripts/report/README.md)")


def table_of(rows: pd.DataFrame) -> Table:
    """A headline in the colours of its classes; for a file in Markdown."""
    terminal = sys.stdout.isatty()
    table = Table(box=SIMPLE_HEAD if terminal else MARKDOWN)
    for name in rows.columns:
        table.add_column(
            name, justify="left" if name in ("model", "quantizer/scheme", "class") else "right", no_wrap=True
        )
    followed = rows["model"] != rows["model"].shift(-1)
    for row, last in zip(rows.itertuples(index=False), followed, strict=True):
        colour = COLOURS[row[-1]]
        *cells, drop, kind = row
        table.add_row(*cells, f"[{colour}]{drop}", f"[{colour}]{kind}", end_section=bool(last) and terminal)
    return table


if __name__ == "__main__":
    typer.run(main)
