"""Answers as models write them, with the right verdict of either rule.

`tests/answers.tsv` holds them by kind: published answer and output as JSON, then `correct` by the study's rule and
`correct_final` by what a careful human would say. Where the two differ the study's rule stays as it is; `DIFFERENCES`
says why it differs.
"""

import csv
import json
import time
from functools import partial
from pathlib import Path

import pytest

from scripts.score import _choice, _math
from scripts.score._equal import same
from scripts.score._verdict import Verdict
from tests.dresses import DRESSES, GOLDS

# Kind → what the study's rule does with some of it.
DIFFERENCES = {
    "examples": "as the kinds below",
    "boxes": "boxes near each other are joined, also across corrections and with placeholders",
    "punctuation, thousands": "a mark at the end, or a space between thousands, leaves the box unread",
    "styles": "most macros of style leave the box unread",
    "words": "words around a number leave the box unread; of 35 or 36 any will do",
    "units": "units are left out before anything is compared",
    "unicode": "signs outside of ASCII leave the box unread",
    "near zero": "numbers are compared to six decimals",
    "bases": "an index is left out, brackets around digits are not",
    "intervals": "an inequality is no interval",
    "text": "words are compared as products of their letters",
    "misc": "roots of unknown sign differ; a number in a sentence is the last one",
    "letters": "any capital from A to D is an answer where nothing better is found",
}


def corpus() -> dict[str, list[tuple[str, str, bool, bool]]]:
    """(gold, output, correct, correct_final) by kind."""
    kinds: dict[str, list[tuple[str, str, bool, bool]]] = {}
    with Path("tests/answers.tsv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            texts = json.loads(row["gold"]), json.loads(row["output"])
            verdicts = row["correct"] == "true", row["correct_final"] == "true"
            kinds.setdefault(row["kind"], []).append((*texts, *verdicts))
    return kinds


CORPUS = corpus()


@pytest.mark.parametrize("kind", CORPUS)
def test_answers_of_a_kind(kind: str):
    cases = CORPUS[kind]
    judge_all = _choice.judge_all if kind == "letters" else partial(_math.judge_all, seconds=4)
    verdicts = judge_all([(output, gold) for gold, output, *_ in cases])
    for name in ("correct", "correct_final"):
        wrong = [
            (gold, output, getattr(verdict, name))
            for (gold, output, *right), verdict in zip(cases, verdicts, strict=True)
            if getattr(verdict, name) != right[name == "correct_final"]
        ]
        assert not wrong, (name, len(wrong), wrong[:5])


def test_differences_from_the_study_s_rule_are_named():
    differing = {kind for kind, cases in CORPUS.items() if any(case[2] != case[3] for case in cases)}
    assert differing == DIFFERENCES.keys()


@pytest.mark.parametrize("gold", GOLDS)
def test_an_answer_is_right_in_any_dress(gold: str):
    wrong = [name for name, dress in DRESSES.items() if not _math.by_reader(dress.replace("%s", gold), gold)[0]]
    assert not wrong


def test_different_answers_are_different():
    alike = {("3.5", r"3 \frac{1}{2}"), ("2x + 3", "y = 2x + 3")}
    for gold in GOLDS:
        for answer in GOLDS:
            expected = gold == answer or (gold, answer) in alike or (answer, gold) in alike
            assert same(gold, answer) == expected, (gold, answer)


@pytest.mark.parametrize("bracket", [r"\(", r"\["])
def test_a_thought_that_is_slow_to_read_does_not_spoil_the_answer(bracket: str):
    output = bracket * 60_000 + "</think>\nThe answer is $\\boxed{36}$."
    started = time.monotonic()
    verdict = _math.judge_all([(output, "36")], seconds=3)[0]
    assert verdict.correct_final
    assert (verdict.status_final, verdict.extracted_final) == ("ok", "36")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("answer", [r"\boxed{\foo{x}{}}", r"\boxed{3 +}", r"\boxed{((}"])
def test_an_answer_that_cannot_be_read_says_so(answer: str):
    verdict = _math.judge("</think> " + answer, "36")
    assert not verdict.correct
    assert not verdict.correct_final
    assert (verdict.status, verdict.status_final) == ("unparsed", "unparsed")


@pytest.mark.parametrize(
    ("output", "thinks", "expected"),
    [
        (r"Twelve times three: \boxed{36}", False, True),
        (r"Twelve times three: \boxed{36}", True, False),
        (r"It is \boxed{35}.</think>\boxed{36}", False, True),
    ],
)
def test_a_model_without_thoughts_is_judged_by_all_it_says(output: str, thinks: bool, expected: bool):
    assert _math.judge(output, "36", thinks).correct_final == expected
    assert _choice.judge(output.replace("36", "C").replace("35", "D"), "C", thinks).correct_final == expected


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("the final answer is C. I hope A is out; answer: B", "C"),
        ("The final answer, then, is (B)\nAnswer: A", "B"),
        ("Answer: it must be C of these.\nThe answer A", "C"),
        ("the answer of all is C, I think\nB) is wrong", "C"),
        ("so\nB. It holds, and C alone", "B"),
        ("…\n\n**C**", "C"),
        ("the correct choice is B) because", "B"),
        ("The correct option is D", "D"),
        ("the answer is B but let me check A again. Actually C seems", "B"),
        ("garbage Because An apple Did", "D"),
        ("\\boxed{C}", "C"),
        ("Answer: (B)", "B"),
        ("**Answer:** $\\boxed{A}$", "A"),
        ("nothing of the kind", None),
    ],
)
def test_the_study_s_patterns_for_letters(output: str, letter: str | None):
    assert _choice.by_study(output) == letter


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        ("\\[ \\boxed{12} \\]\nHence the final answer is 3 boxes of 4.", "12"),
        ("maybe \\boxed{5}? no. the final answer is 9 perhaps", "5"),
        ("</think>$\\boxed{36}$\nIf zero were excluded, the final answer is $35$.", "36"),
    ],
)
def test_the_study_looks_for_boxes_first(output: str, gold: str):
    assert _math.judge(output, gold).correct


def test_both_halves_of_a_verdict_are_told_apart():
    verdict = _math.judge("\\boxed{35}\n</think>\nThe answer is **36**.", "36")
    assert verdict == Verdict(False, True, "35", "ok", None, "36", "ok")
