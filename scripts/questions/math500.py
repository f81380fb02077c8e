"""MATH-500: 500 problems of MATH (Hendrycks et al., arXiv 2103.03874; Lightman et al., arXiv 2305.20050), five levels.

Prompt: the problem, a blank line, "Please reason step by step, and put your final answer within \\boxed{}.".
Source: HuggingFaceH4/MATH-500 on the hub. Licence: MATH is MIT.
"""

from scripts.questions._prompt import ask_boxed
from scripts.questions._table import write_questions
from scripts.rows import read_folder
from scripts.run.errors import UserError
from scripts.run.stage import Inputs, Output, stage

COLUMNS = ["unique_id", "problem", "answer", "subject"]


def question(row: dict) -> dict:
    """Row of the questions' file.

    Raises:
        UserError: the problem or its answer is empty.
    """
    if empty := [name for name in ("problem", "answer") if not row[name].strip()]:
        raise UserError(f"MATH-500 {row['unique_id']}: {empty[0]!r} is empty: take the file of the stated revision")
    return {
        "id": row["unique_id"],
        "messages": ask_boxed(row["problem"]),
        "gold": row["answer"],
        "level": str(row["level"]),
        "subject": row["subject"],
        "expected_tokens": 4500,
    }


@stage
def main(output: Output, datasets: Inputs) -> None:
    rows = [
        question(row)
        for folder in datasets
        for row in read_folder(folder, COLUMNS, numbers=["level"], unique="unique_id")
    ]
    write_questions(output, "math500", rows)


if __name__ == "__main__":
    main()
