"""GPQA-Diamond: 198 questions of biology, chemistry and physics with four answers (Rein et al., arXiv 2311.12022).

Prompt: that of OpenAI's simple-evals for multiple choice, as in the study; the last line is to be "Answer: $LETTER".
Answers stand in one of 24 orders, by the question's id, without white space at their ends (the study inserts the right
one at a random place, and strips nothing).
Source: Idavidrein/gpqa, gpqa_diamond, on the hub (gated). Licence: CC-BY-4.0.
"""

import hashlib
import itertools

from scripts.questions._prompt import ask
from scripts.questions._table import write_questions
from scripts.rows import read_folder
from scripts.run.errors import UserError
from scripts.run.stage import Inputs, Output, stage

PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.\n\n"
    "{question}\n\nA) {answers[0]}\nB) {answers[1]}\nC) {answers[2]}\nD) {answers[3]}"
)
ORDERS = list(itertools.permutations(range(4)))
COLUMNS = ["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3))]


def order(question_id: str) -> tuple[int, ...]:
    """Which of the four published answers (0: the correct one) stands at A, B, C, D: a hash of the id decides."""
    digest = hashlib.sha256(question_id.encode()).digest()
    return ORDERS[int.from_bytes(digest[:8], "big") % len(ORDERS)]


def question(row: dict) -> dict:
    """Row of the questions' file.

    Raises:
        UserError: the question or one of its answers is empty.
    """
    if empty := [name for name in COLUMNS if not row[name].strip()]:
        raise UserError(f"GPQA {row['Record ID']}: {empty[0]!r} is empty: take the file of the stated revision")
    places = order(row["Record ID"])
    published = [row[name].strip() for name in COLUMNS[2:]]
    answers = [published[place] for place in places]
    return {
        "id": row["Record ID"],
        "messages": ask(PROMPT.format(question=row["Question"].strip(), answers=answers)),
        "gold": "ABCD"[places.index(0)],
        "level": row.get("Writer's Difficulty Estimate") or "",
        "subject": row.get("High-level domain") or "",
        "expected_tokens": 8000,
    }


@stage
def main(output: Output, datasets: Inputs) -> None:
    rows = [row for folder in datasets for row in read_folder(folder, COLUMNS, unique="Record ID")]
    write_questions(output, "gpqa", [question(row) for row in rows])


if __name__ == "__main__":
    main()
