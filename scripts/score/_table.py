"""The scores' file: the same columns for every benchmark."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from scripts.run.errors import UserError
from scripts.score._verdict import Verdict, marks_thoughts, with_our_markers
from scripts.table import SAMPLE_COLUMNS, column, read_rows, read_said, write_table

KEPT = [*(field.name for field in SAMPLE_COLUMNS), "finish_reason", "output_tokens"]
STATUS = (
    "ok, no_answer, unparsed (an answer that cannot be read), timeout or error; of a program that ended otherwise: "
    "compile_error, runtime_error, memory_limit, thread_limit or output_limit"
)
SCHEMA = pa.schema(
    [
        *SAMPLE_COLUMNS,
        column("level", pa.string(), "difficulty as the benchmark states it"),
        column("extracted", pa.string(), "answer found in the whole output by the study's rule; null: none"),
        column("extracted_final", pa.string(), "answer found behind the thought; null: none"),
        column("correct", pa.bool_(), "the answer in the whole output is right by the study's rule"),
        column("correct_final", pa.bool_(), "what stands behind the thought is right, as a careful human judges"),
        column("status", pa.string(), f"of `correct`: {STATUS}"),
        column("status_final", pa.string(), "of `correct_final`, the same"),
        column(
            "sandboxed", pa.bool_(), "model-written programs ran in a sandbox; null: the benchmark runs no programs"
        ),
        column("finish_reason", pa.string(), "stop, length: truncated, or repetition: a loop was stopped"),
        column("output_tokens", pa.int64(), "length of the output in tokens"),
    ]
)


def score(
    questions: Path,
    samples: Path,
    output: Path,
    benchmark: str,
    judge_all: Callable[..., list[Verdict]],
) -> None:
    """Judge all samples of a benchmark and write one row for each, in the order of the samples.

    Args:
        judge_all: (output, gold) pairs, and whether the model marks its thoughts → verdicts.

    Raises:
        UserError: a sample answers a question that the questions' file lacks.
    """
    asked = {row["id"]: row for row in read_rows(questions)}
    rows = [row for row in read_rows(samples, without="token_ids") if row["benchmark"] == benchmark]
    rows = with_our_markers(rows, read_said(samples, "think"))
    unknown = {row["id"] for row in rows} - asked.keys()
    if unknown:
        raise UserError(f"{samples}: no question {sorted(unknown)[0]} in {questions}; generate the samples anew")
    pairs = [(row["output"], asked[row["id"]]["gold"]) for row in rows]
    verdicts = judge_all(pairs, thinks=marks_thoughts(rows))
    write_table(
        output,
        [
            {key: row[key] for key in KEPT} | {"level": asked[row["id"]]["level"]} | asdict(verdict)
            for row, verdict in zip(rows, verdicts, strict=True)
        ],
        SCHEMA,
    )
