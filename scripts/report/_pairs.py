"""Two cells compared on the same questions and seeds, benchmark by benchmark and on average."""

import numpy as np
import pandas as pd

from scripts.report._statistics import detectable, drop_replicates, interval, sign_test
from scripts.report._tables import AVERAGE, Cell

SUMMED = ["wins", "losses"]
COLUMNS = ["pair", "benchmark", *SUMMED, "seeds", "first", "second", "difference", "low", "high", "p", "detectable"]


def compare(right: dict[tuple[str, str, str, str, str], np.ndarray], pairs: list[tuple[Cell, Cell]]) -> pd.DataFrame:
    """A row per pair and benchmark, `avg` last in each pair; `pair` is the position in `pairs`.

    Both cells of a pair have answered one suite, over whose benchmarks the average is.

    `first` and `second` are accuracies in percent, `difference` is second minus first, in points.

    Args:
        right: verdicts, `(questions, seeds)` of each cell and benchmark.
    """
    suites: dict[str, list[int]] = {}
    for position, (_, cell) in enumerate(pairs):
        suites.setdefault(cell[3], []).append(position)
    tables = [_of_suite(right, suite, pairs, positions) for suite, positions in suites.items()]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(tables).sort_values("pair", kind="stable", ignore_index=True)[COLUMNS]


def paired(
    right: dict[tuple[str, str, str, str, str], np.ndarray], pairs: list[tuple[Cell, Cell]], benchmark: str
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Right answers of each pair's two cells, `(questions, pairs)`; samples of a question; replicates of the drops."""
    first, second = (np.stack([right[*pair[side], benchmark].sum(axis=1) for pair in pairs], axis=1) for side in (0, 1))
    questions, seeds = right[*pairs[0][0], benchmark].shape
    return first, second, seeds, drop_replicates(second - first, np.full(questions, seeds), benchmark)


def _of_suite(
    right: dict[tuple[str, str, str, str, str], np.ndarray],
    suite: str,
    pairs: list[tuple[Cell, Cell]],
    positions: list[int],
) -> pd.DataFrame:
    """The rows of the pairs at these positions, all of one suite."""
    pairs = [pairs[position] for position in positions]
    tables, replicates = [], []
    for benchmark in dict.fromkeys(key[4] for key in right if key[3] == suite):
        first, second, seeds, drawn = paired(right, pairs, benchmark)
        replicates.append(drawn)
        table = pd.DataFrame(
            {
                "pair": positions,
                "benchmark": benchmark,
                "seeds": seeds,
                "first": 100 * first.sum(axis=0) / (len(first) * seeds),
                "second": 100 * second.sum(axis=0) / (len(first) * seeds),
                "wins": (second > first).sum(axis=0),
                "losses": (second < first).sum(axis=0),
            }
        )
        tables.append(_with_interval(table, replicates[-1]))
    groups = pd.concat(tables).groupby("pair", as_index=False)
    means = groups[["seeds", "first", "second"]].mean().astype({"seeds": int})
    average = means.merge(groups[SUMMED].sum(), on="pair").assign(benchmark=AVERAGE)
    return pd.concat([*tables, _with_interval(average, np.mean(replicates, axis=0))])


def _with_interval(table: pd.DataFrame, replicates: np.ndarray) -> pd.DataFrame:
    low, high = interval(replicates)
    return table.assign(
        difference=(table["second"] - table["first"]).round(9),
        low=low,
        high=high,
        p=sign_test(table["wins"].to_numpy(), table["losses"].to_numpy()),
        detectable=detectable(replicates),
    )
