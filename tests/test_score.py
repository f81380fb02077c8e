"""Scores: the study's rule beside the strict one, and a verdict for whatever a model writes."""

import importlib
import time

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.run.errors import UserError
from scripts.score import _choice, _math
from scripts.score._math import judge, judge_all
from scripts.score._table import SCHEMA, score
from scripts.score._verdict import Verdict

ANSWERS = {
    "boxed behind the thought": ("12*3=36\n</think>\n\\boxed{36}", "36", True, True, "ok"),
    "boxed in a cut-off thought": ("12*3=36 so \\boxed{36}, but", "36", True, False, "ok"),
    "wrong behind a right thought": ("\\boxed{36}\n</think>\n\\boxed{37}", "36", False, False, "ok"),
    "right behind a wrong thought": ("\\boxed{37}\n</think>\nThe answer is $36$.", "36", False, True, "ok"),
    "the last of several": (
        "</think> \\boxed{1} is wrong. Once more from the start: \\boxed{36}",
        "36",
        True,
        True,
        "ok",
    ),
    "plain number": ("</think>\nThe answer is 36.", "36", True, True, "ok"),
    "fraction": ("</think> \\boxed{\\frac{3}{4}}", "0.75", True, True, "ok"),
    "equal expression": ("</think> $\\sqrt{8}$", "2\\sqrt{2}", True, True, "ok"),
    "nested braces": ("</think> \\boxed{\\frac{\\sqrt{3}}{2}}", "\\frac{\\sqrt{3}}{2}", True, True, "ok"),
    "interval": ("</think> \\boxed{[0,1)}", "[0,1)", True, True, "ok"),
    "words": ("</think> I do not know", "36", False, False, "no_answer"),
    "nothing": ("", "36", False, False, "no_answer"),
    "NUL and a lone bracket": ("\0</think>\\boxed{", "36", False, False, "no_answer"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_verdicts(case: str):
    output, gold, correct, correct_final, status = ANSWERS[case]
    verdict = judge(output, gold)
    assert (verdict.correct, verdict.correct_final, verdict.status) == (correct, correct_final, status)
    assert (verdict.extracted is None) == (status == "no_answer")


@pytest.mark.parametrize("text", ["\\boxed{" * 40_000, "answer" + " " * 300_000, "answer: " * 50_000])
def test_hostile_outputs_take_no_time(text: str):
    started = time.monotonic()
    _choice.judge(text, "C")
    assert time.monotonic() - started < 1


GOLD = {
    "aime120": ("204", "</think> The answer is \\boxed{204}.", "</think> \\boxed{205}"),
    "math500": (
        "\\left( 3, \\frac{\\pi}{2} \\right)",
        "</think> $\\boxed{(3, \\pi/2)}$",
        "</think> $\\boxed{(3, \\pi)}$",
    ),
    "gsm8k": ("2000", "</think> She earns \\boxed{\\$2,000}.", "</think> \\boxed{2}"),
    "gpqa": ("C", "</think> **Answer: C**", "</think> **Answer: D**"),
}


@pytest.mark.parametrize("benchmark", GOLD)
def test_published_answers_are_recognized(benchmark: str):
    gold, right, wrong = GOLD[benchmark]
    judged = importlib.import_module(f"scripts.score.{benchmark}").judge_all([(right, gold), (wrong, gold)])
    assert [verdict.correct_final for verdict in judged] == [True, False]


NASTY = {
    "a million digits": "\\boxed{" + "9" * 10**6 + "}",
    "a power tower": "\\boxed{9^{9^{9^{9}}}}",
    "more digits than memory": "$10^{10^{10}}$",
    "a factorial": "\\boxed{99999999!}",
    "fractions in fractions": "\\boxed{" + "\\frac{1}{" * 3000 + "x" + "}" * 3000 + "}",
    "braces in braces": "\\boxed{" + "{" * 20000 + "1" + "}" * 20000 + "}",
    "boxes never closed": "\\boxed{" * 40000,
    "dollars": "$" * 300_000,
    "a long sum": "\\boxed{" + "1+" * 100_000 + "1}",
    "roots in roots": "\\boxed{" + "\\sqrt{" * 500 + "2" + "}" * 500 + "}",
    "NULs": "\0" * 100_000 + "\\boxed{\0}",
    "lone surrogates": "\ud800" * 1000 + "\\boxed{35\udfff}",
    "many boxes": "\\boxed{1} " * 20000,
    "a huge exponent": "\\boxed{1e400000000}",
    "a huge set": "\\boxed{\\{" + ",".join(map(str, range(20000))) + "\\}}",
    "matrices never closed": "\\begin{pmatrix}" * 5000,
    "a macro that grows": "\\def\\a{\\a\\a}\\a",
    "a million spaces": " " * 10**6,
}


def test_whatever_a_model_writes_gets_a_verdict_in_time():
    started = time.monotonic()
    verdicts = judge_all([(text, "36") for text in NASTY.values()] + [("\\boxed{36}", "36")], seconds=2)
    assert time.monotonic() - started < 6 * len(NASTY)
    for case, verdict in zip(NASTY, verdicts, strict=False):
        assert not verdict.correct, case
        assert {verdict.status, verdict.status_final} <= {"ok", "no_answer", "unparsed", "timeout", "error"}, case
    assert "timeout" in {verdict.status for verdict in verdicts}
    assert verdicts[-1] == Verdict(True, False, "36", "ok")


PIECES = [
    "\\boxed{",
    "}",
    "{",
    "$",
    "\\frac",
    "\\sqrt",
    "^",
    "_",
    "36",
    "/",
    "=",
    "\\text{",
    "</think>",
    "\n",
    "\0",
    "%",
    "(",
]


@settings(max_examples=5, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), min_size=20, max_size=20))
def test_no_mixture_of_latex_breaks_the_scorers(outputs: list[str]):
    verdicts = judge_all([(text, "36") for text in outputs], seconds=5)
    assert len(verdicts) == len(outputs)
    verdicts += _choice.judge_all([(text, "C") for text in outputs])
    assert {verdict.status for verdict in verdicts} <= {"ok", "no_answer", "unparsed", "timeout"}


def fake_rule(text: str, gold: str) -> _math.Half:
    """Stands in for a rule: sleeps, fails or takes more memory than there is, as the text says."""
    if text == "sleep":
        time.sleep(60)
    if text == "fail":
        raise RecursionError
    if text == "memory":
        bytearray(4 << 30)
    return True, text, "ok"


def test_a_worker_that_hangs_is_killed_and_one_that_fails_is_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_math, "RULES", {"study": fake_rule, "reader": fake_rule})
    started = time.monotonic()
    outputs = ["a</think>x", "sleep", "b</think>sleep", "fail", "memory", "c</think>fail"]
    verdicts = judge_all([(output, "1") for output in outputs], seconds=1)
    assert [verdict.status for verdict in verdicts] == ["ok", "timeout", "ok", "error", "error", "ok"]
    assert [verdict.status_final for verdict in verdicts] == ["ok", "ok", "timeout", "ok", "ok", "error"]
    assert [verdict.extracted_final for verdict in verdicts] == ["x", "", None, "", "", None]
    assert time.monotonic() - started < 30


def sample(**changes: object) -> dict:
    return {
        "model": "m", "quantizer": "none", "scheme": "full", "suite": "s", "benchmark": "addition", "id": "1+1",
        "seed": 42, "output": "</think>\\boxed{2}", "finish_reason": "stop", "output_tokens": 9,
    } | changes  # fmt: skip


def write(path, rows, think="<think> </think>"):
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({"think": think}), path)
    return path


def test_a_thought_ends_at_the_models_own_marker(tmp_path):
    """Which the samples' file names; the study's rule looks at all of an output, whatever the markers."""
    questions = write(tmp_path / "q.parquet", [{"id": "1+1", "gold": "2", "level": "1x1"}])
    rows = [
        sample(output="\\boxed{2}"),
        sample(seed=43, output="\\boxed{3}[/THINK]\\boxed{2}"),
        sample(seed=44, output="\\boxed{2}</think>[/THINK]\\boxed{3}"),
    ]
    samples = write(tmp_path / "s.parquet", rows, "[THINK] [/THINK]")
    score(questions, samples, tmp_path / "scores.parquet", "addition", judge_all)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table["correct_final"].to_pylist() == [False, True, False]
    assert table["extracted_final"].to_pylist() == [None, "2", "3"]


def test_a_score_file_has_its_benchmark_s_rows_in_order(tmp_path):
    questions = write(tmp_path / "q.parquet", [{"id": "1+1", "gold": "2", "level": "1x1"}])
    samples = write(
        tmp_path / "s.parquet", [sample(), sample(seed=43, output="\\boxed{3}"), sample(benchmark="multiplication")]
    )
    score(questions, samples, tmp_path / "scores.parquet", "addition", judge_all)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.schema.names == SCHEMA.names
    assert table["seed"].to_pylist() == [42, 43]
    assert table["correct"].to_pylist() == [True, False]
    assert table["level"].to_pylist() == ["1x1", "1x1"]


def test_a_sample_of_an_unknown_question_is_refused(tmp_path):
    questions = write(tmp_path / "q.parquet", [{"id": "1+1", "gold": "2", "level": "1x1"}])
    samples = write(tmp_path / "s.parquet", [sample(id="2+2")])
    with pytest.raises(UserError, match=r"s\.parquet: no question 2\+2 in .*q\.parquet"):
        score(questions, samples, tmp_path / "scores.parquet", "addition", judge_all)
