"""The questions' file: the same columns for every benchmark."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from scripts.run.errors import UserError
from scripts.table import column, write_table

LONGEST_NAME = 200  # characters
SCHEMA = pa.schema(
    [
        column("benchmark", pa.string(), "name of the benchmark"),
        column("id", pa.string(), "name of the question, unique in its benchmark"),
        column(
            "messages",
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
            "the conversation to continue, before the chat template",
        ),
        column("gold", pa.string(), "right answer, in the published form"),
        column("level", pa.string(), "difficulty as the benchmark states it"),
        column("subject", pa.string(), "topic or origin as the benchmark states it; empty: none"),
        column(
            "expected_tokens", pa.int64(), "typical length of an answer in tokens: a hint for the order of generation"
        ),
    ]
)


def write_questions(path: Path, benchmark: str, rows: list[dict]) -> None:
    """Write the questions of a benchmark in the order given.

    Raises:
        UserError: two questions share an id, or a name that tables and charts show is none that can be printed.
    """
    ids = Counter(row["id"] for row in rows)
    if twice := [name for name, count in ids.items() if count > 1]:
        raise UserError(f"{benchmark}: the question {twice[0]!r} is there twice: take the files of the stated revision")
    for row in rows:
        for key in ("id", "level", "subject"):
            if (name := row.get(key)) and not (name.isprintable() and len(name) <= LONGEST_NAME):
                raise UserError(
                    f"{benchmark}: a question's {key} is {name!r:.80}, where one line of at most {LONGEST_NAME} "
                    "printable characters is expected: take the files of the stated revision"
                )
    write_table(path, [{"benchmark": benchmark} | row for row in rows], SCHEMA)
