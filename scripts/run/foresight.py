"""What a study will be able to see, before it is run: the smallest drop that four of five such studies tell from zero.

A drop is uncertain by the chance in the samples of both cells. That chance is known from the deviations over seeds that
the paper prints, all cells of a model pooled; of a model that it has not, an accuracy that was published bounds it, and
without one the accuracy that is least certain. That quantization helps with some questions and hurts with others comes
on top, and is not known before: a study sees no less than this.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq

from scripts.questions._chosen import count_of
from scripts.report._statistics import FOUND
from scripts.report._tables import AVERAGE
from scripts.run.config import Config

PAPER = Path("resources/paper/tables.csv")


@dataclass(frozen=True)
class Sight:
    """What is seen of the models of a study on one benchmark of a suite, or on their average."""

    study: str
    suite: str
    benchmark: str
    questions: int
    seeds: int
    drops: list[float]  # by model, in points
    by: str  # what they were worked out from


def sights(config: Config) -> Iterator[Sight]:
    """A row per study, suite and benchmark whose number of questions is known; the average last, if all are."""
    chances = Chances(config)
    for study in config.studies:
        models = list(dict.fromkeys(model for model, _ in config.cells(study)))
        for name, suite in config.suites_of(study).items():
            found: list[Sight] = []
            for benchmark in suite["benchmarks"]:
                if (of := questions_of(config, benchmark)) is None:
                    continue
                asked, seeds = min(count_of(suite, benchmark) or of, of), len(suite["seeds"])
                known = [chances.of(model, benchmark, of) for model in models]
                drops = [FOUND * math.sqrt(2 * variance * of / asked / seeds) for variance, _ in known]
                by = ", ".join(dict.fromkeys(source for _, source in known))
                found.append(Sight(study, name, benchmark, asked, seeds, drops, by))
            yield from found
            if 1 < len(found) == len(suite["benchmarks"]):
                by_model = zip(*(row.drops for row in found), strict=True)
                together = [math.hypot(*drops) / len(found) for drops in by_model]
                yield Sight(study, name, AVERAGE, sum(row.questions for row in found), found[0].seeds, together, "")


class Chances:
    """Variance of an accuracy over seeds, in points squared, of one seed that is asked all questions."""

    def __init__(self, config: Config) -> None:
        self.models = config.models
        self.deviations: dict[tuple[str, str], list[float]] = defaultdict(list)
        with PAPER.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                self.deviations[row["model"], row["benchmark"]].append(float(row["std"]) ** 2)

    def of(self, model: str, benchmark: str, questions: int) -> tuple[float, str]:
        """The variance, and what it was worked out from."""
        if squares := self.deviations.get((model, benchmark)):
            return mean(squares), "the paper's deviations"
        stated = self.models[model]["expected"].get(benchmark)
        share = stated["accuracy"] / 100 if stated else 0.5
        return 1e4 * share * (1 - share) / questions, "its published accuracy" if stated else "nothing: at worst"


def questions_of(config: Config, benchmark: str) -> int | None:
    """How many a benchmark has, by its datasets or by the file of its questions; None where neither says."""
    rows = [facts["rows"] for facts in config.datasets.values() if facts["used_by"] == benchmark]
    if rows and all(isinstance(count, int) for count in rows):
        return sum(rows)
    path = Path(f"results/questions/{benchmark}.parquet")
    return pq.read_metadata(path).num_rows if path.exists() else None
