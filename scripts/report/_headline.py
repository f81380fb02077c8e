"""The page's first table: accuracies, drops and classes of a suite's cells, as HTML."""

from collections.abc import Sequence

import great_tables
import numpy as np
import pandas as pd

from scripts.report._classes import outlook
from scripts.report._tables import AVERAGE, BASELINE, CELL


def signed(value: float, digits: int = 1) -> str:
    """With its sign, a true minus, and no minus before zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def interval(row: dict, digits: int = 1) -> str:
    return f"[{signed(row['low'], digits)}, {signed(row['high'], digits)}]"


def headline(summary: pd.DataFrame, drops: pd.DataFrame, baselines: pd.DataFrame, efficiency: pd.DataFrame) -> str:
    """The table of accuracies of a suite as HTML: a row for each cell, and the noise floor, grouped by model.

    Cells that were not drawn as their baseline are marked.
    """
    benchmarks = [name for name in dict.fromkeys(summary["benchmark"]) if name != AVERAGE]
    compared = {tuple(row[key] for key in (*CELL, "benchmark")): row for row in drops.to_dict("records")}
    named = {"noise": "drop", "noise_low": "low", "noise_high": "high", "noise_class": "class"}
    floors = floors_of(baselines)[["model", *named]].rename(columns=named).assign(seed_share=np.nan)
    noise = {row["model"]: row for row in floors.to_dict("records")}
    otherwise = {tuple(row[key] for key in CELL): list(row["differs"]) for row in efficiency.to_dict("records")}
    rows = []
    for cell, values in summary.groupby(CELL, sort=False):
        row = {"model": cell[0], "method": "/".join(cell[1:3])}
        for value in values.to_dict("records"):
            drop = compared.get((*cell, value["benchmark"]))
            row[value["benchmark"]] = _accuracy(value, None if value["benchmark"] == AVERAGE else drop)
        average = compared.get((*cell, AVERAGE))
        rows.append(row | (_lost(average, otherwise[cell]) if average else {"drop": "", "class": ""}))
        floor = noise.get(cell[0])
        if cell[1:3] == BASELINE and floor:
            rows.append(dict.fromkeys(row, "") | {"model": cell[0], "method": "noise floor"} | _lost(floor))
    columns = [*benchmarks, AVERAGE, "drop", "class"]
    table = (
        great_tables.GT(pd.DataFrame(rows), rowname_col="method", groupname_col="model", id="headline")
        .fmt(str, columns=columns)  # else it would escape the HTML
        .cols_align("right", columns=columns[:-1])
        .cols_label(avg="average", drop="drop, 95 % interval", **_asked(summary))
        .as_raw_html()
    )
    return table[table.index("<table") : table.index("</table>") + len("</table>")]  # its styles are the page's own


def floors_of(baselines: pd.DataFrame) -> pd.DataFrame:
    """The averages of baselines that have been compared with themselves."""
    return baselines[(baselines["benchmark"] == AVERAGE) & baselines["noise"].notna()]


def _lost(row: dict, otherwise: Sequence[str] = ()) -> dict[str, str]:
    """The last two fields of a row: what was lost, and its class; with a mark where cells were drawn otherwise."""
    said = f"not drawn as the baseline: {', '.join(otherwise)}"
    mark = f'<span class="otherwise" role="img" aria-label="{said}" title="{said}">≠</span> ' if otherwise else ""
    settled = f"<small>{needed} would settle it</small>" if (needed := outlook(row)) else ""
    return {
        "drop": f'{mark}<b>{signed(row["drop"])}</b> <i class="interval">{interval(row)}</i>',
        "class": f'<span class="chip {row["class"]}">{row["class"]}</span>{settled}',
    }


def _asked(summary: pd.DataFrame) -> dict[str, str]:
    """The heads of benchmarks of which the suite asks some questions, with how many of how many."""
    counts = summary[(summary["questions"] < summary["of"]) & (summary["benchmark"] != AVERAGE)]
    some = counts.drop_duplicates("benchmark").itertuples()
    return {row.benchmark: f"{row.benchmark}, {row.questions:,} of {row.of:,}" for row in some}


def _accuracy(value: dict, drop: dict | None) -> str:
    deviation = "" if pd.isna(value["std"]) else f"± {value['std']:.1f}"
    mark = ""
    if drop:
        said = f"{drop['class']}: {signed(drop['drop'])} points, 95 % {interval(drop)}"
        mark = f'<span class="of {drop["class"]}" role="img" aria-label="{said}" title="{said}"></span>'
    return f'{mark}<span class="value">{value["mean"]:.1f}</span><i class="deviation">{deviation}</i>'
