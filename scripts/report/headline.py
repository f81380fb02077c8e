"""`summary.md` and `summary.tex`: accuracy, drop with its interval, and class of each cell, for papers and pages."""

from pathlib import Path

import pandas as pd

from scripts.report._tables import AVERAGE, BASELINE, CELL, VERDICTS, verdict_of
from scripts.run.files import write_atomically
from scripts.run.stage import Input, Output, stage

NOTE = (
    "Accuracy in percent, mean ± standard deviation over seeds. Drop: avg minus that of none/full, in points, with its "
    "95 % interval. Class: where the whole interval is, lossless (from -1), fair (-3 to -1), risky (below -3); else "
    "undetermined."
)


def headline(summary: pd.DataFrame, drops: pd.DataFrame) -> pd.DataFrame:
    """One row of text per cell: model, quantizer/scheme, each benchmark, avg, drop and class."""
    benchmarks = list(summary["benchmark"].unique())
    lost = drops[drops["benchmark"] == AVERAGE].set_index(CELL)
    rows = []
    for cell, table in summary.groupby(CELL, sort=False):
        values = table.set_index("benchmark")
        row = {"model": cell[0], "quantizer/scheme": f"{cell[1]}/{cell[2]}"}
        for benchmark in benchmarks:
            mean, std = values.loc[benchmark, ["mean", "std"]]
            row[benchmark] = f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"
        row |= {"drop": "", "class": ""}
        if cell[1:] != BASELINE:
            drop = lost.loc[cell]
            row["drop"] = f"{drop['drop']:+.1f} [{drop['low']:+.1f}, {drop['high']:+.1f}]"
            row["class"] = drop["class"]
        rows.append(row)
    return pd.DataFrame(rows)


def note(summary: Path) -> str:
    """What stands below the table, with the verdict on which it rests."""
    return f"{NOTE} {VERDICTS[verdict_of(summary)]}"


def markdown(table: pd.DataFrame, words: str) -> str:
    sides = ["left", "left"] + ["right"] * (table.shape[1] - 3) + ["left"]
    return table.to_markdown(index=False, colalign=sides, disable_numparse=True) + f"\n\n{words}\n"


def latex(table: pd.DataFrame, words: str) -> str:
    """A tabular for the package booktabs."""
    sides = "ll" + "r" * (table.shape[1] - 3) + "l"
    return table.to_latex(index=False, escape=True, column_format=sides) + f"% {words}\n"


@stage
def main(summary: Input, drops: Input, output: Output, tex: Output) -> None:
    table = headline(pd.read_parquet(summary), pd.read_parquet(drops))
    write_atomically(output, lambda path: path.write_text(markdown(table, note(summary)), encoding="utf-8"))
    write_atomically(tex, lambda path: path.write_text(latex(table, note(summary)), encoding="utf-8"))


if __name__ == "__main__":
    main()
