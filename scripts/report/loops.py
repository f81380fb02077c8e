"""`loops.parquet`: what stopping answers that repeat themselves would cut, by after how many repetitions it is done.

Found in the token ids of the samples that there are, as vLLM's `repetition_detection` looks for it (`stop_loops` of a
suite). An answer that would be cut counts as wrong then. A number is safe for a model that cuts no right answer of its
full-precision baseline.
"""

from pathlib import Path

import pandas as pd
import pyarrow as pa

from scripts.generate.loops import first_loop
from scripts.report._tables import CELL, COUNT_COLUMNS, STUDY_COLUMNS, counted, verdict_of, write_frame
from scripts.run import record
from scripts.run.stage import Input, Output, Parameter, stage
from scripts.table import BENCHMARK_COLUMN, column

REPETITIONS = [2, 3, 4, 6, 8, 12, 16, 32]
SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        BENCHMARK_COLUMN,
        *COUNT_COLUMNS,
        column("repetitions", pa.int64(), "after which an answer is ended"),
        column("cut", pa.float64(), "share of answers that it would end earlier, in percent"),
        column("right_cut", pa.int64(), "right answers among them, by the study's verdict"),
        column("saved", pa.float64(), "share of the output's tokens that it would save, in percent"),
        column("safe", pa.bool_(), "it would cut no right answer of none/full, of this model, suite and benchmark"),
    ]
)


def ends_of(outputs: pd.Series) -> pd.DataFrame:
    """Where each output, in token ids, would end by a number of repetitions, a column for each; null: nowhere."""
    # The last token ended the answer before anybody looked for loops.
    found = [first_loop(ids[:-1], REPETITIONS) for ids in outputs]
    return pd.DataFrame(found, outputs.index, REPETITIONS, dtype="Int64")


def tabulate(answers: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, benchmark and number of repetitions.

    Args:
        answers: one row per sample, with `ends_of` it.
    """
    pieces = []
    for repetitions in REPETITIONS:
        ends = answers[repetitions].array
        lost = answers["output_tokens"].to_numpy() - ends.fillna(0)
        rows = answers.assign(cut=~ends.isna(), lost=lost.astype(int) * ~ends.isna())
        rows["right_cut"] = rows["right"] & rows["cut"]
        groups = rows.groupby(["study", *CELL, "benchmark"], sort=False, as_index=False)
        table = groups.agg(
            cut=("cut", "mean"),
            right_cut=("right_cut", "sum"),
            lost=("lost", "sum"),
            tokens=("output_tokens", "sum"),
        )
        pieces.append(table.assign(repetitions=repetitions))
    table = pd.concat(pieces)
    full = (table["quantizer"] == "none") & (table["scheme"] == "full")
    same = ["model", "suite", "benchmark", "repetitions"]
    safe = table[full].assign(safe=lambda rows: rows["right_cut"] == 0)[[*same, "safe"]]
    table = table.merge(safe, on=same, how="left").assign(
        cut=lambda rows: 100 * rows["cut"], saved=lambda rows: 100 * rows["lost"] / rows["tokens"]
    )
    return counted(table, answers)[SCHEMA.names]


@stage
def main(samples: Input, generate: Parameter, output: Output) -> None:
    verdicts = pd.read_parquet(samples)
    paths = {cell: Path(generate, *cell).with_suffix(".parquet") for cell in verdicts.groupby(CELL, sort=False).groups}
    record.add_inputs(paths.values())
    tables = []
    for cell, rows in verdicts.groupby(CELL, sort=False):
        drawn = pd.read_parquet(paths[cell], columns=["benchmark", "id", "seed", "token_ids"])
        drawn = drawn.drop(columns="token_ids").join(ends_of(drawn["token_ids"]))  # a cell's ids at a time
        tables.append(rows.merge(drawn, on=["benchmark", "id", "seed"], validate="one_to_one"))
    write_frame(output, tabulate(pd.concat(tables)), SCHEMA, verdict=verdict_of(samples))


if __name__ == "__main__":
    main()
