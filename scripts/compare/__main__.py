"""Is B worse than A? Two or more logs of the same questions, paired: drops, intervals, classes, recovery, flips.

python -m scripts.compare A B [C …] [--metric NAME] [--table FILE.parquet] [--page FILE.html]
"""

import re
import string
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts.compare.logs import KINDS, SAMPLE, Log, read_log
from scripts.compare.page import write_page
from scripts.report._classes import MARGINS, outlook, words
from scripts.report._html import visible
from scripts.report._pairs import judged
from scripts.report._tables import AVERAGE, Cell, by_question
from scripts.report.drops import SCHEMA as DROPS
from scripts.run.errors import UserError
from scripts.table import column, write_table

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what a terminal would obey
LETTERS = string.ascii_uppercase
JUDGED = [  # columns that are the same of two logs and of two cells of a study
    "drop", "low", "high", "class", "margin_lossless", "margin_risky", "recovery", "recovery_low", "recovery_high",
    "wins", "losses", "p_noninferior", "p", "seed_share", "seeds_needed",
]  # fmt: skip
SCHEMA = pa.schema(
    [
        column("log", pa.string(), "path of the log"),
        column("baseline", pa.string(), "path of the log that it is compared with"),
        column(
            "benchmark", pa.string(), f"name of the benchmark, or {AVERAGE}: the plain mean of all, if there are some"
        ),
        column("questions", pa.int64(), "questions that both were asked"),
        column("seeds", pa.int64(), "answers to each question"),
        column("accuracy_baseline", pa.float64(), "accuracy of the baseline, in percent"),
        column("accuracy", pa.float64(), "accuracy of the log, in percent"),
        *(DROPS.field(name) for name in JUDGED),
    ]
)


def check_alike(first: Log, other: Log) -> None:
    """Both have answered the same questions with as many samples of each.

    Raises:
        UserError: they have not; says how many they share.
    """
    keys = [set(log.rows[SAMPLE].itertuples(index=False, name=None)) for log in (first, other)]
    if keys[0] != keys[1]:
        asked = [{key[:2] for key in part} for part in keys]
        what = "questions" if asked[0] != asked[1] else "samples (a question with a seed, or an epoch)"
        counts = asked if asked[0] != asked[1] else keys
        raise UserError(
            f"{first.name} and {other.name} were not asked the same: of {len(counts[0]):,} and {len(counts[1]):,} "
            f"{what} they share {len(counts[0] & counts[1]):,}; only the same can be paired: evaluate both on the same"
        )
    both = first.rows.merge(other.rows, on=SAMPLE, validate="one_to_one")
    other_words = both[
        (both["question_x"] != both["question_y"]) & (both["question_x"] != "") & (both["question_y"] != "")
    ]
    if len(other_words):
        row = other_words.iloc[0]
        raise UserError(
            f"{first.name} and {other.name} were asked {len(other_words):,} of {len(both):,} questions in other words, "
            f"the first is {row['benchmark']}: {row['id']}: evaluate both with the same prompts"
        )


def cell_of(number: int) -> Cell:
    """What stands for a log where tables have a cell."""
    return (str(number), "", "", "")


def tabulate(logs: list[Log], margins: dict[str, float] = MARGINS) -> pd.DataFrame:
    """A row for each log but the first and each benchmark, the average last where there are several."""
    keys = ("model", "quantizer", "scheme", "suite")
    rows = [log.rows.assign(**dict(zip(keys, cell_of(i), strict=True))) for i, log in enumerate(logs)]
    right = by_question(pd.concat(rows), "right")
    table = judged(right, [(cell_of(0), cell_of(i)) for i in range(1, len(logs))], margins)
    asked = logs[0].rows.drop_duplicates(["benchmark", "id"]).groupby("benchmark").size()
    names = {"first": "accuracy_baseline", "second": "accuracy", "difference": "drop"}
    table = table.rename(columns=names).assign(
        log=[logs[1 + pair].name for pair in table["pair"]],
        baseline=logs[0].name,
        questions=[int(asked.get(name, asked.sum())) for name in table["benchmark"]],
    )
    return (table if len(asked) > 1 else table[table["benchmark"] != AVERAGE])[SCHEMA.names]


def printed(table: pd.DataFrame, letters: dict[str, str]) -> Table:
    shown = Table("log", "benchmark", box=None)
    for name in ("questions × seeds", "baseline", "accuracy", "drop", "recovery, %", "won", "lost", "p"):
        shown.add_column(name, justify="right")
    for name in ("class", "would settle it"):
        shown.add_column(name)
    for row in table.to_dict("records"):
        recovery = "–"
        if pd.notna(row["recovery"]):
            recovery = f"{row['recovery']:.1f} [{row['recovery_low']:.1f}, {row['recovery_high']:.1f}]"
        shown.add_row(
            letters[row["log"]], escape(CONTROL.sub("�", visible(row["benchmark"]))),
            f"{row['questions']:,} × {row['seeds']}",
            f"{row['accuracy_baseline']:.1f}", f"{row['accuracy']:.1f}",
            escape(f"{row['drop']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"), escape(recovery),
            str(row["wins"]), str(row["losses"]), f"{row['p']:.2g}", row["class"], outlook(row),
        )  # fmt: skip
    return shown


def main(
    logs: Annotated[list[Path], typer.Argument(help=f"Logs of the same questions, the baseline first: {KINDS}.")],
    metric: Annotated[str | None, typer.Option(help="Of a log that has several.")] = None,
    table: Annotated[Path | None, typer.Option(help="Also write the table there, as Parquet.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write a page with the outputs side by side.")] = None,
    lossless: Annotated[float, typer.Option(help="Points that a lossless log may lose.")] = MARGINS["lossless"],
    risky: Annotated[float, typer.Option(help="Points that a risky log loses more than.")] = MARGINS["risky"],
) -> None:
    try:
        if not 2 <= len(set(logs)) == len(logs) <= len(LETTERS):
            raise UserError(f"name 2 to {len(LETTERS)} logs, each once: the baseline, and what is compared with it")
        if not 0 < lossless <= risky:
            raise UserError(
                f"--lossless {lossless:g} --risky {risky:g}: margins are positive, the first not the larger"
            )
        found = [read_log(path, metric) for path in logs]
        for other in found[1:]:
            check_alike(found[0], other)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    margins = {"lossless": lossless, "risky": risky}
    compared = tabulate(found, margins)
    console = Console(width=max(160, Console().width), highlight=False)
    letters = {log.name: letter for log, letter in zip(found, LETTERS, strict=False)}
    for name, letter in letters.items():
        console.print(f"{letter}: {escape(name)}{', the baseline' if name == found[0].name else ''}", soft_wrap=True)
    console.print(printed(compared, letters))
    console.print(
        "Drop: accuracy minus the baseline's in points, paired by question and seed, with its 95 % interval.\n"
        f"{words(margins)}"
    )
    if table is not None:
        write_table(table, pa.Table.from_pandas(compared, preserve_index=False), SCHEMA)
    if page is not None:
        write_page(page, found, compared, margins)
        console.print(f"Page: {escape(str(page))}")


if __name__ == "__main__":
    typer.run(main)
