"""`budget.parquet`: accuracy if every answer had been cut at a part of the limit, from the samples that there are.

An answer that had not ended by then counts as wrong, whatever its thought held already; at the whole limit all count as
they were judged. What a model answers when it is told to stop thinking there is another question: a suite's own.
"""

import pandas as pd
import pyarrow as pa

from scripts.report._pairs import compare
from scripts.report._tables import (
    BENCHMARK_OR_AVERAGE,
    CELL,
    COUNT_COLUMNS,
    STUDY_COLUMNS,
    baseline_of,
    by_question,
    counted,
    in_order,
    interval_columns,
    is_baseline,
    verdict_of,
    with_averages,
    write_frame,
)
from scripts.run.stage import Input, Output, stage
from scripts.table import column

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_OR_AVERAGE,
        *COUNT_COLUMNS,
        column("share", pa.float64(), "part of the suite's max_model_len at which answers are cut"),
        column("tokens", pa.int64(), "the same in tokens of an output"),
        column("ended", pa.float64(), "share of answers that had ended by then, in percent"),
        column("accuracy", pa.float64(), "share of answers that had ended by then and are right, in percent"),
        column("baseline", pa.float64(), "the same of none/full, in percent"),
        column("drop", pa.float64(), "accuracy minus baseline, in points; null for none/full itself"),
        *interval_columns("drop"),
    ]
)


def tabulate(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, share and benchmark, `avg` last in each share, from one row per sample."""
    right, tokens = by_question(samples, "right"), by_question(samples, "output_tokens")
    limits = samples.drop_duplicates("suite").set_index("suite")["max_model_len"].to_dict()
    cells = list(dict.fromkeys(key[:4] for key in right))
    pairs = [(baseline_of(cell), cell) for cell in cells]
    keys = pd.DataFrame(cells, columns=CELL)
    tables = []
    for share in SHARES:
        ended = {key: (lengths <= share * limits[key[3]]) | (share == 1) for key, lengths in tokens.items()}
        table = compare({key: right[key] & ended[key] for key in right}, pairs)
        table = keys.loc[table["pair"]].reset_index(drop=True).join(table).assign(share=share)
        rows = [(*key, 100 * values.mean()) for key, values in ended.items()]
        shares = with_averages(pd.DataFrame(rows, columns=[*CELL, "benchmark", "ended"]), ["ended"])
        tables.append(table.merge(shares, on=[*CELL, "benchmark"]))
    table = pd.concat(tables).rename(columns={"first": "baseline", "second": "accuracy", "difference": "drop"})
    full = [is_baseline(cell) for cell in table[CELL].itertuples(index=False, name=None)]
    table.loc[full, ["drop", "low", "high"]] = None
    limit = table["suite"].map(limits)
    table = table.assign(tokens=(table["share"] * limit).astype(int), study=samples["study"].iloc[0])
    return counted(in_order(table, cells), samples)[SCHEMA.names]


@stage
def main(samples: Input, output: Output) -> None:
    write_frame(output, tabulate(pd.read_parquet(samples)), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
