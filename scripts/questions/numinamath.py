"""256 problems of NuminaMath-1.5, whose answers by the full-precision model are calibration data; never scored.

The same problems as in the study's own code: lighteval shuffles all rows by Python's generator with seed 42 and takes
the first 256.

Prompt: the problem, a blank line, "Please reason step by step, and put your final answer within \\boxed{}.".
Source: AI-MO/NuminaMath-1.5 on the hub. Licence: Apache-2.0.
"""

import random
from collections.abc import Sequence

from scripts.questions._prompt import ask_boxed
from scripts.questions._table import write_questions
from scripts.rows import count_rows, data_files, read_folder
from scripts.run.stage import Inputs, Output, stage

PROBLEMS, SEED = 256, 42


def drawn(rows: int) -> Sequence[int]:
    """Numbers of the rows that are asked, in the order in which they are."""
    order = list(range(rows))
    random.Random(SEED).shuffle(order)
    return order[:PROBLEMS]


@stage
def main(output: Output, datasets: Inputs) -> None:
    (folder,) = datasets
    numbers = drawn(sum(map(count_rows, data_files(folder))))
    wanted = set(numbers)
    asked = {n: row for n, row in enumerate(read_folder(folder, ["problem"], optional=["answer"])) if n in wanted}
    write_questions(
        output,
        "numinamath",
        [
            {
                "id": str(number),
                "messages": ask_boxed(asked[number]["problem"]),
                "gold": asked[number].get("answer") or "",
                "level": "",
                "subject": "",
                "expected_tokens": 5000,
            }
            for number in numbers
        ],
    )


if __name__ == "__main__":
    main()
