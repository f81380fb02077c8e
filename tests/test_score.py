"""Scores: the study's rule beside the strict one, and a verdict for whatever a model writes."""

import time

import pyarrow.parquet as pq
import pytest

from scripts.run.errors import UserError
from scripts.score import _math
from scripts.score._math import Verdict, judge, judge_all
from scripts.score._table import SCHEMA, score

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


def fake_judge(output: str, gold: str) -> Verdict:
    """Stands in for one function: sleeps, fails or dies as the output says."""
    if output == "sleep":
        time.sleep(60)
    if output == "fail":
        raise RecursionError
    return Verdict(True, True, output, "ok")


def test_a_worker_that_hangs_is_killed_and_one_that_fails_is_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_math, "judge", fake_judge)
    started = time.monotonic()
    verdicts = judge_all([("a", "1"), ("sleep", "1"), ("b", "1"), ("fail", "1"), ("c", "1")], seconds=1)
    assert [verdict.status for verdict in verdicts] == ["ok", "timeout", "ok", "error", "ok"]
    assert [verdict.extracted for verdict in verdicts] == ["a", None, "b", None, "c"]
    assert time.monotonic() - started < 30


def sample(**changes: object) -> dict:
    return {
        "model": "m", "quantizer": "none", "scheme": "full", "suite": "s", "benchmark": "addition", "id": "1+1",
        "seed": 42, "output": "</think>\\boxed{2}", "finish_reason": "stop", "output_tokens": 9,
    } | changes  # fmt: skip


def write(path, rows):
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


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
