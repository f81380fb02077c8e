"""All scores of a study, complete or not at all."""

from itertools import product
from pathlib import Path

import pandas as pd

from scripts.run import record
from scripts.run.errors import UserError

CELL = ["model", "quantizer", "scheme"]


def read_scores(scores: Path, questions: Path, settings: dict) -> pd.DataFrame:
    """The rows of every score file of a study, in the study's order of cells and benchmarks.

    `settings` holds `cells` ([model, "quantizer/scheme"] pairs) and `benchmarks` (name → seeds).

    Raises:
        UserError: a cell lacks questions or seeds, has some twice, or has others than the study's; names the cell.
    """
    frames = []
    asked = {name: questions / f"{name}.parquet" for name in settings["benchmarks"]}
    ids = {name: set(pd.read_parquet(path, columns=["id"])["id"]) for name, path in asked.items()}
    paths = [
        (scores / model / scheme / f"{benchmark}.parquet", benchmark)
        for (model, scheme), benchmark in product(settings["cells"], settings["benchmarks"])
    ]
    record.add_inputs([*asked.values(), *(path for path, _ in paths)])
    for path, benchmark in paths:
        frame = pd.read_parquet(path)
        expected = {(question, seed) for question in ids[benchmark] for seed in settings["benchmarks"][benchmark]}
        found = list(zip(frame["id"], frame["seed"], strict=True))
        if len(found) != len(expected) or set(found) != expected:
            raise UserError(
                f"{path}: {len(found)} rows ({len(set(found))} different) where the study has {len(expected)} "
                f"({len(ids[benchmark])} questions × {len(settings['benchmarks'][benchmark])} seeds); "
                "delete the file and run again"
            )
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
