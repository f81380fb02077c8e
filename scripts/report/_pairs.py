"""Two cells compared on the same questions and seeds, benchmark by benchmark and on average."""

import numpy as np
import pandas as pd

from scripts.report._classes import MARGINS, classify
from scripts.report._statistics import (
    accuracy_replicates,
    detectable,
    drop_replicates,
    interval,
    joint_interval,
    p_noninferior,
    recovery,
    seeds_needed,
    sign_test,
    variances,
)
from scripts.report._tables import AVERAGE, Cell

SUMMED = ["wins", "losses"]
RECOVERY = ["recovery", "recovery_low", "recovery_high"]
COLUMNS = [
    "pair",
    "benchmark",
    *SUMMED,
    "seeds",
    "first",
    "second",
    "difference",
    "low",
    "high",
    "low_joint",
    "high_joint",
]
COLUMNS += ["p", "p_noninferior", *RECOVERY, "detectable", "seed_share"]


def compare(
    right: dict[tuple[str, str, str, str, str], np.ndarray],
    pairs: list[tuple[Cell, Cell]],
    margin: float = MARGINS["lossless"],
) -> pd.DataFrame:
    """A row per pair and benchmark, `avg` last in each pair; `pair` is the position in `pairs`.

    Both cells of a pair have answered one suite, over whose benchmarks the average is.

    `first` and `second` are accuracies in percent, `difference` is second minus first, in points, `recovery` is second
    in percent of first. Joint ends hold for all averages at once, or for all single benchmarks.

    Args:
        right: verdicts, `(questions, seeds)` of each cell and benchmark.
        margin: of `p_noninferior`, in points.
    """
    suites: dict[str, list[int]] = {}
    for position, (_, cell) in enumerate(pairs):
        suites.setdefault(cell[3], []).append(position)
    parts = [part for suite, positions in suites.items() for part in _of_suite(right, suite, pairs, positions)]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    families: dict[bool, list[tuple[pd.DataFrame, np.ndarray]]] = {}
    for table, replicates in parts:
        families.setdefault((table["benchmark"] == AVERAGE).all(), []).append((table, replicates))
    tables = []
    for family in families.values():
        drawn = np.hstack([replicates for _, replicates in family])
        low, high = joint_interval(drawn)
        p = p_noninferior(drawn, margin)
        tables.append(pd.concat([table for table, _ in family]).assign(low_joint=low, high_joint=high, p_noninferior=p))
    table = pd.concat(tables)
    last = table["benchmark"] == AVERAGE
    return table.assign(last=last).sort_values(["pair", "last"], kind="stable", ignore_index=True)[COLUMNS]


def judged(
    right: dict[tuple[str, str, str, str, str], np.ndarray], pairs: list[tuple[Cell, Cell]], margins: dict[str, float]
) -> pd.DataFrame:
    """`compare`, with classes, single and joint, the margins of these, and the seeds that would decide."""
    table = compare(right, pairs, margins["lossless"])
    found = {
        name: [classify(*pair, margins) for pair in table[ends].itertuples(index=False)]
        for name, ends in {"class": ["low", "high"], "class_joint": ["low_joint", "high_joint"]}.items()
    }
    spread = (table[name].to_numpy(float) for name in ("difference", "low", "high", "seed_share", "seeds"))
    needed = pd.array(seeds_needed(*spread, margins), "Int64")
    stated = {f"margin_{name}": float(margin) for name, margin in margins.items()}
    return table.assign(**found, **stated, seeds_needed=needed)


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
) -> list[tuple[pd.DataFrame, np.ndarray]]:
    """The rows of the pairs at these positions, all of one suite, benchmark by benchmark, with their replicates."""
    pairs = [pairs[position] for position in positions]
    parts, accuracies, spread = [], [], []
    for benchmark in dict.fromkeys(key[4] for key in right if key[3] == suite):
        first, second, seeds, replicates = paired(right, pairs, benchmark)
        asked = np.full(len(first), seeds)
        accuracies.append(accuracy_replicates(first, second, asked, benchmark))
        verdicts = [np.stack([right[*pair[side], benchmark] for pair in pairs], axis=2).astype(int) for side in (0, 1)]
        spread.append(variances(verdicts[1] - verdicts[0]))
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
        parts.append((_judged(table, replicates, *accuracies[-1], spread[-1]), replicates))
    groups = pd.concat([table for table, _ in parts]).groupby("pair", as_index=False)
    means = groups[["seeds", "first", "second"]].mean().astype({"seeds": int})
    average = means.merge(groups[SUMMED].sum(), on="pair").assign(benchmark=AVERAGE)
    replicates = np.mean([drawn for _, drawn in parts], axis=0)
    return [*parts, (_judged(average, replicates, *np.mean(accuracies, axis=0), np.sum(spread, axis=0)), replicates)]


def _judged(
    table: pd.DataFrame, replicates: np.ndarray, first: np.ndarray, second: np.ndarray, spread: np.ndarray
) -> pd.DataFrame:
    """With what follows from replicates of the drops, and of the accuracies of both sides, and from `variances`."""
    of_seeds, together = spread
    low, high = interval(replicates)
    return table.assign(
        difference=(table["second"] - table["first"]).round(9),
        low=low,
        high=high,
        p=sign_test(table["wins"].to_numpy(), table["losses"].to_numpy()),
        detectable=detectable(replicates),
        seed_share=np.divide(of_seeds, together, out=np.full(len(table), np.nan), where=together > 0).clip(max=1),
        **dict(zip(RECOVERY, recovery(second, first), strict=True)),
    )
