"""`findings.parquet`: the claims of `_claims.py`, each judged on this study's cells and on the paper's own 117 rows.

Two of them compare what the paper's rows do not hold: suites of other lengths of thought, and lengths of answers.

A claim is supported where the whole 95 % interval of its number is on its side of the boundary, contradicted where it
is wholly on the other, not tested where nothing bears on it. In the study questions are drawn as for drops, the same
for all cells. The paper's answers are not published: its means are drawn from normal distributions with the deviation
over seeds, pooled over its rows, so that its questions are taken as given. That models and methods are few, and that
one interval in twenty misses, is in neither.
"""

import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.report._claims import CLAIMS, EQUAL, LARGER, NOTHING, Claim, Evidence, Units, name
from scripts.report._pairs import paired
from scripts.report._statistics import RESAMPLES, drop_replicates, interval, ratio_replicates
from scripts.report._tables import AVERAGE, BASELINE, CELL, CHECKPOINT, Cell, by_question, verdict_of, write_frame
from scripts.report.efficiency import memory, sizes
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        column("study", pa.string(), "name of the study"),
        column("claim", pa.string(), "short name of the claim"),
        column("statement", pa.string(), "what is claimed (arXiv 2504.04823; at equal memory 2510.10964)"),
        column("source", pa.string(), "whose rows judge it: study (this one) or paper (its 117)"),
        column("suite", pa.string(), "name of the suite that the cells were asked; null: of the paper"),
        column("test", pa.string(), "what the number is, its unit, and where it must lie"),
        column("n", pa.int64(), "units: cells, or pairs of cells"),
        column("value", pa.float64(), "median or mean over the units, as the test says; null: not tested"),
        column("low", pa.float64(), "lower end of its 95 % interval"),
        column("high", pa.float64(), "upper end of its 95 % interval"),
        column("verdict", pa.string(), "supported, contradicted, undetermined or not tested"),
        column("cells", pa.list_(pa.string()), "the units"),
        column("exceptions", pa.list_(pa.string()), "units whose own interval contradicts the claim"),
    ]
)
SEEDS = 3  # of the paper


def of_study(samples: pd.DataFrame, settings: dict, **others: Units) -> Evidence:
    """Drops and lengths with their replicates, from one row per sample, all of one suite; `others` as they are."""
    right, tokens = (
        {(*key[:3], key[4]): values for key, values in by_question(samples, name).items()}
        for name in ("right", "output_tokens")
    )
    cells = [cell for cell in dict.fromkeys(key[:3] for key in right) if cell[1:] != BASELINE]
    if not cells:
        return Evidence([], np.empty((1 + RESAMPLES, 0, 1)), {}, None, **settings, **others)
    drops, ratios, baselines = [], [], {model: [] for model, *_ in cells}
    for benchmark in samples["benchmark"].unique():
        keys = [(*cell, benchmark) for cell in cells], [(cell[0], *BASELINE, benchmark) for cell in cells]
        ours, theirs = (sums(right, part) for part in keys)
        asked = np.full(*right[keys[0][0]].shape)
        estimate = 100 * (ours - theirs).sum(axis=0) / asked.sum()
        drops.append(np.vstack([estimate, drop_replicates(ours - theirs, asked, benchmark)]))
        ours, theirs = (sums(tokens, part) for part in keys)
        ratios.append(np.vstack([ours.sum(axis=0) / theirs.sum(axis=0), ratio_replicates(ours, theirs, benchmark)]))
        for model, shares in baselines.items():
            shares.append(100 * right[model, *BASELINE, benchmark].mean())
    shares = {model: np.array(values) for model, values in baselines.items()}
    return Evidence(cells, np.stack(drops, axis=2), shares, np.mean(ratios, axis=0), **settings, **others)


def sums(values: dict, keys: list[tuple[str, str, str, str]]) -> np.ndarray:
    """`(questions, keys)`: over the seeds of each question."""
    return np.stack([values[key].sum(axis=1) for key in keys], axis=1)


def gains(right: dict, pairs: list[tuple[Cell, Cell]]) -> np.ndarray:
    """`(1 + RESAMPLES, pairs)`: average of the second cell minus that of the first, in points; then its replicates.

    Both have answered the same questions with the same seeds, if maybe in two suites.
    """
    found = []
    for benchmark in [key[4] for key in right if key[:4] == pairs[0][1]]:
        first, second, seeds, replicates = paired(right, pairs, benchmark)
        estimate = 100 * (second - first).sum(axis=0) / (len(first) * seeds)
        found.append(np.vstack([estimate, replicates]))
    return np.mean(found, axis=0)


def steps_of(right: dict, ladder: list[str]) -> Units:
    """What each quantized cell gains from the shortest thoughts of a ladder of suites to the longest."""
    cells = dict.fromkeys(key[:3] for key in right if key[3] == ladder[-1] and key[1:3] != BASELINE)
    pairs = [((*cell, ladder[0]), (*cell, ladder[-1])) for cell in cells]
    return ([name(cell) for cell in cells], gains(right, pairs)) if pairs else NOTHING


def equal_memory(right: dict, memory: dict[Cell, int], models: dict[str, dict]) -> Units:
    """What the larger model of each pair of cells of one suite that take as much memory has more right."""
    pairs = [
        (small, large)
        for large, small in itertools.permutations(memory, 2)
        if large[3] == small[3]
        and models[large[0]]["parameters"] >= LARGER * models[small[0]]["parameters"]
        and 1 / EQUAL <= memory[large] / memory[small] <= EQUAL
    ]
    names = [f"{name(large[:3])} − {name(small[:3])}" for small, large in pairs]
    return (names, gains(right, pairs)) if pairs else NOTHING


def memory_of(samples: pd.DataFrame, manifests: list[Path], settings: dict) -> dict[Cell, int]:
    """Bytes of each cell's weights and of the cache of its mean answer, as in `efficiency`."""
    held = {path.parts[-4:-1]: json.loads(path.read_text(encoding="utf-8")).get("sizes", {}) for path in manifests}
    tokens = samples.groupby([*CELL, "benchmark"], sort=False)["output_tokens"].mean().groupby(CELL, sort=False).mean()
    found = {}
    for cell, mean_tokens in tokens.items():
        scheme = settings["schemes"]["/".join(cell[1:3])]
        size = sizes(settings["models"][cell[0]], scheme, cell[1], held[cell[:3]])
        found[cell] = memory(size | {"mean_tokens": mean_tokens})
    return found


def of_paper(rows: pd.DataFrame, settings: dict) -> Evidence:
    """Drops with their replicates, from the paper's rows: mean and deviation of each cell and benchmark."""
    rows = rows[rows["benchmark"] != AVERAGE]
    means = rows.pivot_table(index=CHECKPOINT, columns="benchmark", values="mean", sort=False)
    pooled = (rows["std"] ** 2).groupby(rows["benchmark"]).mean()[means.columns].to_numpy() ** 0.5
    noise = np.random.default_rng(zlib.crc32(b"paper")).normal(size=(RESAMPLES, *means.shape))
    values = np.concatenate([np.zeros((1, *means.shape)), noise * pooled / SEEDS**0.5]) + means.to_numpy()
    position = {cell: i for i, cell in enumerate(means.index)}
    cells = [cell for cell in position if cell[1:] != BASELINE]
    of_cells, of_baselines = [position[cell] for cell in cells], [position[cell[0], *BASELINE] for cell in cells]
    baselines = {cell[0]: means.loc[cell].to_numpy() for cell in position if cell[1:] == BASELINE}
    return Evidence(cells, values[:, of_cells] - values[:, of_baselines], baselines, None, **settings)


def judge(claim: Claim, evidence: Evidence) -> dict:
    """The columns of a claim that follow from the evidence."""
    cells, units = claim.units(evidence)
    if not cells:
        empty = dict.fromkeys(("value", "low", "high"))
        return {"n": 0, **empty, "verdict": "not tested", "cells": [], "exceptions": []}
    number = claim.over(units, axis=1)
    low, high = interval(number[1:])
    verdicts = [claim.rule(*ends) for ends in zip(*interval(units[1:]), strict=True)]
    return {
        "n": len(cells), "value": float(number[0]), "low": float(low), "high": float(high),
        "verdict": claim.rule(low, high), "cells": cells,
        "exceptions": [cell for cell, verdict in zip(cells, verdicts, strict=True) if verdict == "contradicted"],
    }  # fmt: skip


def findings(study: str, suites: dict[str, Evidence], paper: Evidence) -> Iterator[dict]:
    sources = [*(("study", suite, evidence) for suite, evidence in suites.items()), ("paper", None, paper)]
    for claim in CLAIMS:
        for source, suite, evidence in sources:
            words = {"claim": claim.name, "statement": claim.statement, "test": claim.test}
            yield {"study": study, **words, "source": source, "suite": suite, **judge(claim, evidence)}


@stage
def main(samples: Input, paper: Input, output: Output, manifests: Inputs, settings: Settings) -> None:
    """`settings`: `models` (name → facts), `schemes` and `own_reasoning` as in `Evidence`; `ladders`, of suites."""
    rows, known = pd.read_parquet(samples), {key: value for key, value in settings.items() if key != "ladders"}
    nothing = {"schemes": {}, "own_reasoning": []}  # that the paper's rows would tell of calibration
    right, taken = by_question(rows, "right"), memory_of(rows, manifests, settings)
    steps = {ladder[-1]: steps_of(right, ladder) for ladder in settings["ladders"]}
    suites = {}
    for suite, part in rows.groupby("suite", sort=False):
        here = {cell: size for cell, size in taken.items() if cell[3] == suite}
        alike = equal_memory(right, here, known["models"])
        suites[suite] = of_study(part, known, steps=steps.get(suite, NOTHING), equal_memory=alike)
    table = pd.DataFrame(findings(rows["study"].iloc[0], suites, of_paper(pd.read_csv(paper), known | nothing)))
    write_frame(output, table, SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
