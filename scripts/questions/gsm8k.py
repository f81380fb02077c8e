"""GSM8K, test part: 1,319 word problems of grade school (Cobbe et al., arXiv 2110.14168).

Prompt: the problem, a blank line, "Please reason step by step, and put your final answer within \\boxed{}.".
Source: openai/gsm8k, main, on the hub. Licence: MIT.
"""

import re

from scripts.questions._prompt import ask_boxed
from scripts.questions._table import write_questions
from scripts.rows import read_folder
from scripts.run.errors import UserError
from scripts.run.stage import Inputs, Output, stage

# All 8,792 published answers are integers, with or without commas between thousands; copies may have more around them.
NUMBER = re.compile(
    r"(?P<sign>-?)\s*[$€£]?\s*(?P<sign_behind>-?)"
    r"(?P<digits>[0-9]{1,3}(,[0-9]{3})+|[0-9]+)(?P<rest>\.[0-9]+)?\s*%?\.?"
)


def gold(answer: str, name: str = "") -> str:
    """The number behind `####`, without currency, per cent, a full stop or the commas between thousands.

    Args:
        name: of the question, for the message.

    Raises:
        UserError: there is no `####`, or no number behind it.
    """
    _, mark, stated = answer.rpartition("####")
    if not mark:
        raise UserError(f"GSM8K {name}: no '####' in the answer {answer!r}: not the dataset expected")
    number = NUMBER.fullmatch(stated.strip())
    if number is None or (number["sign"] and number["sign_behind"]):
        raise UserError(
            f"GSM8K {name}: {stated.strip()!r} behind '####' in the answer {answer!r} is no number: correct it"
        )
    digits = number["digits"].replace(",", "")
    return f"{number['sign']}{number['sign_behind']}{digits}{number['rest'] or ''}"


@stage
def main(output: Output, datasets: Inputs) -> None:
    rows = [row for folder in datasets for row in read_folder(folder, ["question", "answer"])]
    write_questions(
        output,
        "gsm8k",
        [
            {
                "id": str(index),
                "messages": ask_boxed(row["question"]),
                "gold": gold(row["answer"], str(index)),
                "level": "",
                "subject": "",
                "expected_tokens": 1500,
            }
            for index, row in enumerate(rows)
        ],
    )


if __name__ == "__main__":
    main()
