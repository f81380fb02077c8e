"""`samples.parquet`: every question × seed × cell of a study with its verdict, complete or not at all.

All other tables are made from it. Prompts and outputs stay in results/generate/, in rows with the same keys.
"""

import json
from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow as pa

from scripts.questions._chosen import chosen, count_of
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.stage import Output, Parameter, Settings, stage
from scripts.table import SAMPLE_COLUMNS, column, read_said, write_table

SCHEMA = pa.schema(
    [
        column("study", pa.string(), "name of the study"),
        *SAMPLE_COLUMNS,
        column("max_model_len", pa.int64(), "the suite's limit of prompt and output together, in tokens"),
        column("thinking_tokens", pa.int64(), "budget of the thought; null: the suite has none"),
        column("think_again", pa.int64(), "ends of the thought that are replaced by Wait; null: none"),
        column("discourage", pa.string(), "list of words that were made less likely; null: none"),
        column("stop_loops", pa.int64(), "repetitions after which an answer is ended; null: it is not"),
        column("of", pa.int64(), "questions that the benchmark has, of which a suite may ask some"),
        column("level", pa.string(), "difficulty as the benchmark states it; null: none"),
        column("subject", pa.string(), "topic or origin as the benchmark states it; null: none"),
        column("verdict", pa.string(), "on which the study rests: correct or correct_final"),
        column("right", pa.bool_(), "that verdict"),
        column("extracted", pa.string(), "answer that it found; null: none"),
        column("correct", pa.bool_(), "the answer in the whole output is right by the study's rule"),
        column("correct_final", pa.bool_(), "what stands behind the thought is right, as a careful human judges"),
        column(
            "status", pa.string(), "of that verdict: ok, no_answer, unparsed, timeout, error, or how a program ended"
        ),
        column("finish_reason", pa.string(), "stop, length: truncated, or repetition: a loop was stopped"),
        column("output_tokens", pa.int64(), "length of the output in tokens"),
    ]
)
LIMITS = ("thinking_tokens", "think_again", "stop_loops")


def collect(scores: Path, questions: Path, study: str, settings: dict) -> pa.Table:
    """The rows of every score file of a study, in the study's order of cells, suites and benchmarks.

    `settings` holds `cells` ([model, "quantizer/scheme"] pairs), `suites` (a list, for records keep no order of keys:
    the name, and what the config says of it) and `verdict`.

    Raises:
        UserError: a cell lacks questions or seeds, has some twice, or has others than the study's, or was judged by
            another version of the rule than another cell of its benchmark; names the cell.
    """
    asked = {name: questions / f"{name}.parquet" for suite in settings["suites"] for name in suite["benchmarks"]}
    paths = [
        (scores / model / scheme / suite["suite"] / f"{benchmark}.parquet", benchmark, suite)
        for (model, scheme), suite in product(settings["cells"], settings["suites"])
        for benchmark in suite["benchmarks"]
    ]
    record.add_inputs([*asked.values(), *(path for path, *_ in paths)])
    columns = ["id", "level", "subject"]
    known = {name: pd.read_parquet(path, columns=columns).replace("", None) for name, path in asked.items()}
    tables, rules = [], {}
    for path, benchmark, suite in paths:
        rule = json.loads(read_said(path, "made_by")).get("code")
        if rules.setdefault(benchmark, (rule, path))[0] != rule:
            raise UserError(
                f"{path}: its answers were judged by other code than those of {rules[benchmark][1]} and cannot be "
                "compared with them: delete the older file and run again"
            )
        frame = pd.read_parquet(path)
        names, seeds = chosen(known[benchmark]["id"], count_of(suite, benchmark)), suite["seeds"]
        expected = set(product(names, seeds))
        found = list(zip(frame["id"], frame["seed"], strict=True))
        if len(found) != len(expected) or set(found) != expected:
            raise UserError(
                f"{path}: {len(found)} rows ({len(set(found))} different) where the study has {len(expected)} "
                f"({len(names)} questions × {len(seeds)} seeds); delete the file and run again"
            )
        verdict = settings["verdict"]
        behind = verdict.removeprefix("correct")
        frame = frame.assign(
            max_model_len=suite["max_model_len"],
            discourage=suite.get("discourage", {}).get("name"),
            **{key: pd.array([suite.get(key)] * len(frame), "Int64") for key in LIMITS},
            of=len(known[benchmark]),
            verdict=verdict,
            right=frame[verdict],
            extracted=frame[f"extracted{behind}"],
            status=frame[f"status{behind}"],
        )
        frame = frame.drop(columns="level").merge(known[benchmark], on="id", validate="many_to_one").assign(study=study)
        tables.append(pa.Table.from_pandas(frame[SCHEMA.names], SCHEMA, preserve_index=False))
    return pa.concat_tables(tables)


@stage
def main(scores: Parameter, questions: Parameter, output: Output, study: Parameter, settings: Settings) -> None:
    table = collect(Path(scores), Path(questions), study, settings)
    write_table(output, table, SCHEMA, verdict=settings["verdict"])


if __name__ == "__main__":
    main()
