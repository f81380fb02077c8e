"""`baselines.parquet`: is each model's baseline right, and how far it seems to lose against itself.

Published scores stand in the model's file (`expected`). They and ours answered the same questions, so what parts two
runs of the same thing is the chance in their samples: the variance of our answers to one question over its seeds (with
one seed the binomial one, which is too large), over as many samples as either drew, and where the suite asks some of
the questions only, the chance in which. `status` is verified where the difference lies within 1.96 such errors. Suites
with budgets of thinking, or cures, have no published scores.

The noise floor is the baseline against itself: the second half of its seeds minus the first, by the statistics of
`drops.parquet`. A class of it that says that something was lost is a false alarm. With one seed there is none.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from scripts.report._classes import STATUSES
from scripts.report._pairs import judged
from scripts.report._statistics import sampling_error
from scripts.report._tables import (
    AVERAGE,
    BASELINE,
    BENCHMARK_OR_AVERAGE,
    COUNT_COLUMNS,
    LIMITS,
    Cell,
    by_question,
    counted,
    verdict_of,
    write_frame,
)
from scripts.run.stage import Input, Output, Settings, stage
from scripts.table import SUITE_COLUMN, column

WITHIN = 1.96  # standard errors
OF_EXPECTED = ("expected", "source", "difference", "low", "high")
SCHEMA = pa.schema(
    [
        column("study", pa.string(), "name of the study"),
        column("model", pa.string(), "name of a file in config/models/"),
        SUITE_COLUMN,
        BENCHMARK_OR_AVERAGE,
        *COUNT_COLUMNS,
        column("seeds", pa.int64(), "answers to each question"),
        column("accuracy", pa.float64(), "accuracy of none/full, in percent"),
        column("expected", pa.float64(), "published accuracy, in percent; null: the model's file states none"),
        column("source", pa.string(), "where it was published"),
        column("difference", pa.float64(), "accuracy minus expected, in points"),
        column("low", pa.float64(), "lower end of the difference's 95 % interval, in points"),
        column("high", pa.float64(), "upper end of the difference's 95 % interval, in points"),
        column("status", pa.string(), "verified, off, or unverified: no score was published"),
        column("noise", pa.float64(), "second half of the seeds minus the first, in points; null with one seed"),
        column("noise_low", pa.float64(), "lower end of its 95 % interval (paired bootstrap)"),
        column("noise_high", pa.float64(), "upper end of its 95 % interval"),
        column("noise_class", pa.string(), "its class, as in drops.parquet"),
        column("false_alarm", pa.bool_(), "the class says that the baseline lost something against itself"),
    ]
)


def error_of(right: np.ndarray, samples: int, questions: int) -> float:
    """Standard error in points of our accuracy minus a published one.

    One sample more has turned (as in `drop_replicates`), or a model that is nearly always right had none.

    Args:
        right: our verdicts, `(questions asked, seeds)`.
        samples: answers to a question behind the published score.
        questions: that the benchmark has, all of which the published score is of.
    """
    asked, seeds = right.shape
    sampled = sampling_error(right)
    drawn = np.hypot(sampled, 100 / right.size)
    theirs = drawn * np.sqrt(seeds / samples * asked / questions)
    between = max(0.0, 1e4 * right.mean(axis=1).var(ddof=1) - asked * sampled**2) if asked > 1 else 0.0
    return float(np.sqrt(drawn**2 + theirs**2 + between / asked * (1 - asked / questions)))


def beside_published(samples: pd.DataFrame, expected: dict[str, dict[str, dict]]) -> pd.DataFrame:
    """A row per baseline, suite and benchmark.

    Args:
        samples: rows of the baselines.
        expected: model → benchmark → `accuracy`, `source` and, if known, `samples`.
    """
    sizes = samples.groupby(["suite", "benchmark"])["of"].first()
    limited = set(samples.loc[samples[LIMITS].notna().any(axis=1), "suite"])
    rows = []
    for (model, _, _, suite, benchmark), right in by_question(samples, "right").items():
        row = {"model": model, "suite": suite, "benchmark": benchmark, "seeds": right.shape[1]}
        row |= {"accuracy": 100 * right.mean(), "status": "unverified"}
        stated = expected.get(model, {}).get(benchmark)
        if stated and suite not in limited:
            difference = row["accuracy"] - stated["accuracy"]
            width = WITHIN * error_of(right, stated.get("samples", 1), sizes[suite, benchmark])
            row |= {"expected": stated["accuracy"], "source": stated["source"], "difference": difference}
            row |= {"low": difference - width, "high": difference + width}
            row["status"] = "verified" if abs(difference) <= width else "off"
        rows.append(row)
    return pd.DataFrame(rows)


def against_itself(samples: pd.DataFrame, margins: dict[str, float]) -> pd.DataFrame:
    """A row per baseline, suite and benchmark, `avg` among them, of those with two seeds and more."""
    right: dict[tuple[str, str, str, str, str], np.ndarray] = {}
    pairs: dict[tuple[Cell, Cell], None] = {}
    for (model, *_, suite, benchmark), verdicts in by_question(samples, "right").items():
        half = verdicts.shape[1] // 2
        if half:
            first, second = (model, "first", "", suite), (model, "second", "", suite)
            right |= {(*first, benchmark): verdicts[:, :half], (*second, benchmark): verdicts[:, -half:]}
            pairs[first, second] = None
    table = judged(right, list(pairs), margins)
    cells = [list(pairs)[pair][0] for pair in table["pair"]]
    found = {"model": [cell[0] for cell in cells], "suite": [cell[3] for cell in cells]}
    found |= {"benchmark": table["benchmark"], "noise": table["difference"]}
    found |= {f"noise_{name}": table[name] for name in ("low", "high", "class")}
    return pd.DataFrame(found | {"false_alarm": table["class"].isin(["fair", "risky"])})


def tabulate(samples: pd.DataFrame, expected: dict[str, dict[str, dict]], margins: dict[str, float]) -> pd.DataFrame:
    """A row per model, suite and benchmark, `avg` last in each suite; as `beside_published` and `against_itself`.

    The average is off where a benchmark is, verified where one is and none is off.
    """
    samples = samples[(samples[["quantizer", "scheme"]] == BASELINE).all(axis=1)]
    table = beside_published(samples, expected)
    groups = table.groupby(["model", "suite"], sort=False, as_index=False)
    status = groups["status"].agg(lambda found: next(s for s in STATUSES if s in set(found)))["status"]
    averages = groups[["seeds", "accuracy"]].mean().astype({"seeds": int}).assign(benchmark=AVERAGE, status=status)
    table = pd.concat([table, averages]).reindex(columns=[*table, *(set(OF_EXPECTED) - set(table))])
    table = table.merge(against_itself(samples, margins), on=["model", "suite", "benchmark"], how="left")
    cells = dict.fromkeys(zip(averages["model"], averages["suite"], strict=True))
    order = {cell: i for i, cell in enumerate(cells)}
    place = [order[cell] for cell in zip(table["model"], table["suite"], strict=True)]
    table = counted(table.iloc[np.argsort(place, kind="stable")], samples)
    table = table.astype({"false_alarm": "boolean"})  # null where there is one seed
    return table.assign(study=samples["study"].iloc[0])[SCHEMA.names]


@stage
def main(samples: Input, output: Output, settings: Settings) -> None:
    """`settings`: `expected` and `margins`."""
    columns = ["study", "model", "quantizer", "scheme", "suite", "benchmark", "id", "seed", "right", "of", *LIMITS]
    table = tabulate(pd.read_parquet(samples, columns=columns), settings["expected"], settings["margins"])
    write_frame(output, table, SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
