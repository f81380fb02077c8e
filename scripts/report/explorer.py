"""`explorer/files/`: every output of a study, in pieces that the page loads when they are looked at.

    questions/{suite}/{benchmark}.js                                 the questions
    verdicts/{model}/{quantizer}/{scheme}/{suite}/{benchmark}.js     verdicts of all samples, by question, then by seed
    outputs/{model}/{quantizer}/{scheme}/{suite}/{benchmark}/{n}.js  outputs of the n-th run of questions

A page that was opened from a disk may load scripts and nothing else: so each piece is a script, one call of `receive`
with its name and its content, JSON in gzip in base64. Texts are HTML already (`_html.py`).
"""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd

from scripts.manifest import write_manifest
from scripts.report._html import shorten, to_html, visible
from scripts.report._tables import CELL
from scripts.run import record
from scripts.run.stage import Input, Output, Parameter, stage
from scripts.table import read_said

PIECE = 1_000_000  # characters of HTML after which the next piece begins
VERDICT = ["right", "correct", "correct_final", "status", "finish_reason", "output_tokens", "extracted"]


def write_piece(folder: Path, name: str, content: Any) -> None:
    """Write `{folder}/{name}.js`."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
    path = folder / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"receive({json.dumps(name)},{json.dumps(packed)})\n", encoding="utf-8")


def question_entry(question: dict) -> dict:
    """What the page shows of a question; `messages` as in results/questions."""
    texts = [message["content"] for message in question["messages"]]
    return {key: visible(question[key] or "") for key in ("id", "level", "subject")} | {
        "gold": to_html(shorten(question["gold"])),
        "text": to_html(shorten("\n\n".join(texts))),
    }


def output_html(output: str, closed: str) -> str:
    """An output with its thought, up to the marker of its end, set apart."""
    thought, end, answer = output.partition(closed)
    if not end:
        return f'<div class="thought">{to_html(shorten(thought))}</div>'
    return (
        f'<div class="thought">{to_html(shorten(thought.strip()))}</div>'
        f'<div class="answer">{to_html(shorten(answer.strip()))}</div>'
    )


def split(texts: list[list[str]]) -> list[int]:
    """Where the pieces begin: the positions of their first questions, from the texts of each question's seeds."""
    starts, size = [], PIECE
    for position, question in enumerate(texts):
        if size >= PIECE:
            starts.append(position)
            size = 0
        size += sum(map(len, question))
    return starts


def write_cell(folder: Path, name: str, answers: pd.DataFrame, closed: str) -> None:
    """Write verdicts and outputs of a cell and benchmark, from rows ordered by question, then by seed."""
    seeds = sorted(answers["seed"].unique().tolist())
    html = [output_html(output, closed) for output in answers["output"]]
    by_question = [html[i : i + len(seeds)] for i in range(0, len(html), len(seeds))]
    starts = split(by_question)
    columns = answers[VERDICT].astype(object).where(answers[VERDICT].notna(), None).to_dict("list")
    columns["extracted"] = [answer and visible(answer) for answer in columns["extracted"]]
    write_piece(folder, f"verdicts/{name}", {"seeds": seeds, "starts": starts} | columns)
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(by_question)], strict=True)):
        write_piece(folder, f"outputs/{name}/{number}", by_question[start:end])


@stage
def main(samples: Input, generate: Parameter, questions: Parameter, manifest: Output, files: Output) -> None:
    verdicts = pd.read_parquet(samples)
    asked = {name: Path(questions) / f"{name}.parquet" for name in verdicts["benchmark"].unique()}
    outputs = {
        cell: Path(generate, *cell).with_suffix(".parquet") for cell in verdicts.groupby(CELL, sort=False).groups
    }
    record.add_inputs([*asked.values(), *outputs.values()])
    order, known = {}, {benchmark: pd.read_parquet(path).to_dict("records") for benchmark, path in asked.items()}
    for (suite, benchmark), answers in verdicts.groupby(["suite", "benchmark"], sort=False):
        chosen = set(answers["id"])
        rows = [row for row in known[benchmark] if row["id"] in chosen]
        order |= {(benchmark, row["id"]): position for position, row in enumerate(known[benchmark])}
        write_piece(files, f"questions/{suite}/{benchmark}", [question_entry(row) for row in rows])
    for cell, rows in verdicts.groupby(CELL, sort=False):
        texts = pd.read_parquet(outputs[cell], columns=["benchmark", "id", "seed", "output"])
        closed = read_said(outputs[cell], "think").split()[1]
        both = rows.merge(texts, on=["benchmark", "id", "seed"], validate="one_to_one")
        both["position"] = [order[key] for key in zip(both["benchmark"], both["id"], strict=True)]
        for benchmark, answers in both.sort_values(["position", "seed"]).groupby("benchmark", sort=False):
            write_cell(files, "/".join([*cell, benchmark]), answers, closed)
    write_manifest(files, manifest)


if __name__ == "__main__":
    main()
