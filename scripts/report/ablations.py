"""`ablations.parquet`: what one setting does, from pairs of cells of a model that differ in nothing else.

Two schemes of one quantizer are such a pair where their settings in config/quantizers.yaml, defaults merged in, differ
in exactly one key. Schemes and not studies carry what differs: nothing that changes an artifact lives in a study alone,
else one path would have two meanings. Both cells have answered the same questions with the same seeds and are paired
like drops.
"""

from itertools import combinations
from typing import Any

import pandas as pd
import pyarrow as pa

from scripts.report._pairs import compare
from scripts.report._tables import (
    BENCHMARK_OR_AVERAGE,
    CELL,
    COUNT_COLUMNS,
    by_question,
    counted,
    interval_columns,
    verdict_of,
    write_frame,
)
from scripts.run.stage import Input, Output, Settings, stage
from scripts.table import SUITE_COLUMN, column

SCHEMA = pa.schema(
    [
        column("study", pa.string(), "name of the study"),
        column("model", pa.string(), "name of a file in config/models/"),
        column("quantizer", pa.string(), "algorithm, a file in scripts/quantize/"),
        SUITE_COLUMN,
        column("scheme_a", pa.string(), "the scheme that stands first in the study"),
        column("scheme_b", pa.string(), "the other scheme"),
        column("setting", pa.string(), "key of config/quantizers.yaml in which they differ, the only one"),
        column("value_a", pa.string(), "its value in scheme_a; null: it has none"),
        column("value_b", pa.string(), "its value in scheme_b; null: it has none"),
        BENCHMARK_OR_AVERAGE,
        *COUNT_COLUMNS,
        column("accuracy_a", pa.float64(), "accuracy of scheme_a, in percent"),
        column("accuracy_b", pa.float64(), "accuracy of scheme_b, in percent"),
        column("difference", pa.float64(), "accuracy_b minus accuracy_a, in points"),
        *interval_columns("difference"),
        column("p", pa.float64(), "exact two-sided sign test over questions, not corrected for the number of pairs"),
    ]
)


def setting_that_differs(a: dict[str, Any], b: dict[str, Any]) -> str | None:
    """The only key in which two schemes differ; None where they differ in none or in several."""
    keys = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
    return keys[0] if len(keys) == 1 else None


def tabulate(samples: pd.DataFrame, schemes: dict[str, dict]) -> pd.DataFrame:
    """One row per pair and benchmark, `avg` last in each pair.

    Args:
        samples: one row per sample.
        schemes: "quantizer/scheme" → settings.
    """
    right = by_question(samples, "right")
    cells = dict.fromkeys(key[:4] for key in right)
    found = []
    for a, b in combinations(cells, 2):
        of_a, of_b = (schemes[f"{quantizer}/{scheme}"] for _, quantizer, scheme, _ in (a, b))
        key = setting_that_differs(of_a, of_b) if (*a[:2], a[3]) == (*b[:2], b[3]) else None
        if key:
            values = [str(value) if (value := of.get(key)) is not None else None for of in (of_a, of_b)]
            found.append((a, b, [*a, b[2], key, *values]))
    names = ["model", "quantizer", "scheme_a", "suite", "scheme_b", "setting", "value_a", "value_b"]
    pairs = compare(right, [(a, b) for a, b, _ in found])
    keys = pd.DataFrame([found[pair][2] for pair in pairs["pair"]], columns=names, index=pairs.index)
    pairs = pairs.rename(columns={"first": "accuracy_a", "second": "accuracy_b"})
    return counted(keys.join(pairs).assign(study=samples["study"].iloc[0]), samples)[SCHEMA.names]


@stage
def main(samples: Input, output: Output, settings: Settings) -> None:
    columns = ["study", *CELL, "benchmark", "id", "seed", "right", "of"]
    rows = pd.read_parquet(samples, columns=columns)
    write_frame(output, tabulate(rows, settings["schemes"]), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
