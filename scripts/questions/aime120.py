"""AIME 2022 to 2024 (90 problems) and 2025 (30 problems), pooled; `level` is the year.

Prompt: the problem, a blank line, "Please reason step by step, and put your final answer within \\boxed{}.".
Source: xiaoyuanliu/AIME90 and yentinglin/aime_2025 on the hub. Licence: not stated; the problems are the MAA's.
"""

import re
from pathlib import Path

from scripts.questions._prompt import ask_boxed
from scripts.questions._table import write_questions
from scripts.rows import read_folder
from scripts.run.errors import UserError
from scripts.run.stage import Inputs, Output, stage

# As a table may hold it: in formula marks or a box, as a number with decimals, in degrees ("336^\\circ").
DRESSES = [r"\$\$?(.*?)\$?\$", r"\\\((.*)\\\)", r"\\\[(.*)\\\]", r"\\boxed\{(.*)\}"]
INTEGER = re.compile(r"([0-9]+)(\.0*)?\s*(\^\s*\\circ|\^\s*\{\s*\\circ\s*\}|°|\\degree|degrees)?\.?")


def integer(answer: str, name: str = "") -> str:
    """The integer from 0 to 999 that an answer states, without leading zeros, formula marks or a unit of degrees.

    Args:
        name: of the question, for the message.

    Raises:
        UserError: there is none, or one that no answer of AIME can be ("1,024").
    """
    text = answer.strip()
    for dress in DRESSES:
        text = match[1].strip() if (match := re.fullmatch(dress, text)) else text
    number = INTEGER.fullmatch(text)
    if number is None or len(digits := number[1].lstrip("0") or "0") > 3:
        raise UserError(
            f"AIME {name}: the answer {answer!r} is no integer from 0 to 999, as all answers of AIME are: correct it, "
            "or take the dataset of the stated revision"
        )
    return digits


def year(row: dict) -> str:
    """Stated as such, or in the address of the problem (…/2022_AIME_I_Problems/…); empty if in neither."""
    match = re.search(r"\b20\d\d", f"{row.get('year', '')} {row.get('url', '')}")
    return match[0] if match else ""


def questions(folder: Path) -> list[dict]:
    """Rows of the questions' file; both datasets count from their own first id, so the dataset is part of ours."""
    rows = read_folder(folder, ["problem"], numbers=["id", "answer"], optional=["year", "url"], unique="id")
    return [
        {
            "id": (name := f"{folder.parent.name}-{row['id']}"),
            "messages": ask_boxed(row["problem"]),
            "gold": integer(str(row["answer"]), name),
            "level": year(row),
            "subject": "",
            "expected_tokens": 14000,
        }
        for row in rows
    ]


@stage
def main(output: Output, datasets: Inputs) -> None:
    write_questions(output, "aime120", [row for folder in datasets for row in questions(folder)])


if __name__ == "__main__":
    main()
