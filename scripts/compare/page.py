"""The answers that turned, side by side, on a page without scripts."""

from pathlib import Path

import jinja2
import pandas as pd
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from scripts.compare.logs import SAMPLE, Log
from scripts.report._classes import words
from scripts.report._html import shorten, to_html, visible
from scripts.run.files import write_atomically

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = {"question": "question_x", "before": "output_x", "after": "output_y"}
MOST = 500  # answers of a log that are shown


def turned(first: Log, other: Log) -> tuple[list[dict], int]:
    """The answers that one got more right than the other, losses first, as the page shows them, and their number."""
    both = first.rows.merge(other.rows, on=SAMPLE, validate="one_to_one")
    both = both[both["right_x"] != both["right_y"]].sort_values("right_y", kind="stable")
    rows = [
        {
            "lost": row["right_y"] < row["right_x"],
            "name": visible(f"{row['benchmark']}: {row['id']}, seed {row['seed']}"),
            **{name: _html(row[key]) for name, key in SHOWN.items()},
        }
        for row in both.head(MOST).to_dict("records")
    ]
    return rows, len(both)


def _html(text: str | None) -> Markup:
    return Markup(to_html(shorten(text or "")))  # noqa: S704 - escaped there


def write_page(path: Path, logs: list[Log], table: pd.DataFrame, margins: dict[str, float]) -> None:
    """Write the page of `logs`, the baseline first, and the `table` of what they say."""
    environment = ImmutableSandboxedEnvironment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["visible"] = visible
    compared = []
    for log in logs[1:]:
        rows, count = turned(logs[0], log)
        compared.append({"name": log.name, "rows": rows, "count": count})
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        baseline=logs[0].name, rows=table.to_dict("records"), compared=compared, words=words(margins)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
