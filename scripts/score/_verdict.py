"""A verdict, and what of an output each of its two halves looks at.

`correct` is the study's rule: the whole output is searched, so that an answer found in a cut-off thought counts.
`correct_final` is what a careful human would say of what stands behind the thought.
"""

import re
from dataclasses import dataclass

OPENED, CLOSED = "<think>", "</think>"


@dataclass(frozen=True)
class Verdict:
    """Of the whole output by the study's rule, and, in the fields with `final`, of what stands behind the thought.

    `extracted` is None without an answer. `status` is ok, no_answer, unparsed (there is an answer, which neither rule
    can read), timeout or error, or how a program ended otherwise. `sandboxed` as in the scores' file.
    """

    correct: bool
    correct_final: bool
    extracted: str | None
    status: str
    sandboxed: bool | None = None
    extracted_final: str | None = None
    status_final: str = "no_answer"


def behind_thought(output: str, thinks: bool = True) -> str:
    """What stands behind the thought; nothing where it does not end, all where the model marks no thoughts."""
    _, closed, answer = output.rpartition(CLOSED)
    if closed:
        return answer
    return "" if thinks else output


def with_our_markers(samples: list[dict], think: str) -> list[dict]:
    """Samples with ours in place of the model's markers of a thought, a beginning and an end with a blank between."""
    ours = dict(zip(think.split(), (OPENED, CLOSED), strict=True))
    if all(mark == own for mark, own in ours.items()):
        return samples
    marks = re.compile("|".join(map(re.escape, ours)))
    texts = ("prompt", "output")
    return [
        row | {name: marks.sub(lambda m: ours[m[0]], row[name]) for name in texts if name in row} for row in samples
    ]


def marks_thoughts(samples: list[dict]) -> bool:
    """Whether a model marks its thoughts: in a prompt, which may open one, or in any of its outputs."""
    return any(
        mark in row.get(name, "") for row in samples for name in ("prompt", "output") for mark in (OPENED, CLOSED)
    )
