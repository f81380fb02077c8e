"""`samples.parquet`: every question × seed × cell of a study with its verdict, complete or not at all.

All other tables are made from it. Prompts and outputs stay in results/generate/, in rows with the same keys.
"""

from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.stage import Output, Parameter, Settings, stage
from scripts.table import SAMPLE_COLUMNS, column, write_table

SCHEMA = pa.schema(
    [
        column("study", pa.string(), "name of the study"),
        *SAMPLE_COLUMNS,
        column("level", pa.string(), "difficulty as the benchmark states it"),
        column("subject", pa.string(), "topic or origin as the benchmark states it; null: none"),
        column("extracted", pa.string(), "answer found in the whole output; null: none"),
        column("correct", pa.bool_(), "the answer in the whole output is right (the paper's rule)"),
        column("correct_final", pa.bool_(), "the answer behind </think> is right"),
        column("status", pa.string(), "ok, no_answer, timeout, error, or how a program ended otherwise"),
        column("finish_reason", pa.string(), "stop, or length: truncated"),
        column("output_tokens", pa.int64(), "length of the output in tokens"),
    ]
)


def collect(scores: Path, questions: Path, study: str, settings: dict) -> pa.Table:
    """The rows of every score file of a study, in the study's order of cells and benchmarks.

    `settings` holds `cells` ([model, "quantizer/scheme"] pairs) and `benchmarks` (name → seeds).

    Raises:
        UserError: a cell lacks questions or seeds, has some twice, or has others than the study's; names the cell.
    """
    asked = {name: questions / f"{name}.parquet" for name in settings["benchmarks"]}
    paths = [
        (scores / model / scheme / f"{benchmark}.parquet", benchmark)
        for (model, scheme), benchmark in product(settings["cells"], settings["benchmarks"])
    ]
    record.add_inputs([*asked.values(), *(path for path, _ in paths)])
    subjects = {}
    for name, path in asked.items():
        rows = pq.read_table(path, columns=["id", "subject"]).to_pylist()
        subjects[name] = {row["id"]: row["subject"] or None for row in rows}
    tables = []
    for path, benchmark in paths:
        table = pq.read_table(path)
        subject, seeds = subjects[benchmark], settings["benchmarks"][benchmark]
        found = list(zip(table["id"].to_pylist(), table["seed"].to_pylist(), strict=True))
        if len(found) != len(subject) * len(seeds) or set(found) != set(product(subject, seeds)):
            raise UserError(
                f"{path}: {len(found)} rows ({len(set(found))} different) where the study has "
                f"{len(subject) * len(seeds)} ({len(subject)} questions × {len(seeds)} seeds); "
                "delete the file and run again"
            )
        table = table.append_column("subject", pa.array([subject[question] for question, _ in found], pa.string()))
        table = table.append_column("study", pa.repeat(study, len(table)))
        tables.append(table.select(SCHEMA.names).cast(SCHEMA))
    return pa.concat_tables(tables).combine_chunks()


@stage
def main(scores: Parameter, questions: Parameter, output: Output, study: Parameter, settings: Settings) -> None:
    write_table(output, collect(Path(scores), Path(questions), study, settings), SCHEMA)


if __name__ == "__main__":
    main()
