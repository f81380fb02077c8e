"""`summary.md` and `summary.tex`: accuracy, drop with its interval, and class of each cell, for papers and pages."""

from pathlib import Path

import pandas as pd

from scripts.report._classes import margins_of, words
from scripts.report._tables import AVERAGE, CELL, VERDICTS, is_baseline, verdict_of
from scripts.run.files import write_atomically
from scripts.run.stage import Input, Output, stage

NOTE = (
    "Accuracy in percent, mean ± standard deviation over seeds. Drop: avg minus that of none/full, in points, with its "
    "95 % interval."
)


def headlines(summary: pd.DataFrame, drops: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of each suite."""
    suites = dict.fromkeys(summary["suite"])
    return {suite: headline(*(frame[frame["suite"] == suite] for frame in (summary, drops))) for suite in suites}


def headline(summary: pd.DataFrame, drops: pd.DataFrame) -> pd.DataFrame:
    """One row of text per cell of a suite: model, quantizer/scheme, each benchmark, avg, drop and class."""
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
        if not is_baseline(cell):
            drop = lost.loc[cell]
            row["drop"] = f"{drop['drop']:+.1f} [{drop['low']:+.1f}, {drop['high']:+.1f}]"
            row["class"] = drop["class"]
        rows.append(row)
    return pd.DataFrame(rows)


def note(summary: Path, drops: Path) -> str:
    """What stands below the table, with the margins and the verdict on which it rests, and how many were asked."""
    counts = pd.read_parquet(summary).query("questions < of").drop_duplicates(["suite", "benchmark"])
    some = [f"{row.benchmark} of {row.suite} {row.questions} of {row.of}" for row in counts.itertuples()]
    asked = f" Questions asked: {', '.join(name for name in some if not name.startswith(AVERAGE))}." if some else ""
    classes = words(margins_of(pd.read_parquet(drops)))
    return f"{NOTE} {classes} {VERDICTS[verdict_of(summary)]}{asked}"


def markdown(tables: dict[str, pd.DataFrame], words: str) -> str:
    """The tables of the suites, each below its suite's name where there are several."""
    parts = []
    for suite, table in tables.items():
        sides = ["left", "left"] + ["right"] * (table.shape[1] - 3) + ["left"]
        parts += [f"**{suite}**"] if len(tables) > 1 else []
        parts.append(table.to_markdown(index=False, colalign=sides, disable_numparse=True))
    return "\n\n".join([*parts, words]) + "\n"


def latex(tables: dict[str, pd.DataFrame], words: str) -> str:
    """Tabulars for the package booktabs, one for each suite."""
    parts = []
    for suite, table in tables.items():
        sides = "ll" + "r" * (table.shape[1] - 3) + "l"
        parts.append(f"% suite {suite}\n" + table.to_latex(index=False, escape=True, column_format=sides))
    return "\n".join(parts) + f"% {words}\n"


@stage
def main(summary: Input, drops: Input, output: Output, tex: Output) -> None:
    tables = headlines(pd.read_parquet(summary), pd.read_parquet(drops))
    write_atomically(output, lambda path: path.write_text(markdown(tables, note(summary, drops)), encoding="utf-8"))
    write_atomically(tex, lambda path: path.write_text(latex(tables, note(summary, drops)), encoding="utf-8"))


if __name__ == "__main__":
    main()
