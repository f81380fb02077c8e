"""What a suite may end early: what its limits do not cut is the sample without them, and only the rest is drawn."""

import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from scripts.generate.engine import held, rounds
from scripts.generate.limits import Limits, limits_of, thought_tokens
from scripts.generate.loops import first_loop
from scripts.generate.prompts import Request, tokens_of
from scripts.generate.store import read_segment, segments
from scripts.models import arithmetic
from scripts.report import loops
from scripts.run.errors import UserError
from tests.conftest import TINY_STUDY, Copy

OPEN, CLOSE = 7, 8
CELL = "tiny-qwen-s/none/full"


@pytest.mark.parametrize(
    ("prompt", "output", "count"),
    [
        ([1, OPEN], [2, 3, CLOSE, 4], 2),
        ([1, OPEN, 5], [2, 3, CLOSE, 4], 3),  # what the template writes behind the marker counts
        ([1, OPEN], [2, 3, 4], 3),  # not closed
        ([1, OPEN], [CLOSE, 4], 0),
        ([1], [OPEN, 2, 3, CLOSE, 4], 2),  # the model opens it
        ([1], [2, 3, 4], 0),  # no thought
        ([OPEN, 2, CLOSE, 1], [2, 3], 0),  # one of an earlier turn
        ([OPEN, 2, CLOSE, 1, OPEN], [2, CLOSE, OPEN, 3, 4, 5], 1),  # the first counts
    ],
)
def test_tokens_of_a_thought(prompt: list[int], output: list[int], count: int):
    assert thought_tokens(prompt, output, OPEN, CLOSE) == count
    row = {"token_ids": output, "finish_reason": "stop"}
    assert Limits(count + 1, OPEN, CLOSE).is_plain(prompt, row)
    assert not Limits(count, OPEN, CLOSE).is_plain(prompt, row)


def test_loops_are_found_where_vllm_finds_them():
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(3) for _ in range(draw.randrange(1, 12))]
        ids += [draw.randrange(3) for _ in range(draw.randrange(1, 5))] * draw.randrange(6)
        for longest in (2, 4):
            found = first_loop(ids, counts := [2, 3, 5], longest)
            for count, at in zip(counts, found, strict=True):
                rule = RepetitionDetectionParams(max_pattern_size=longest, min_count=count)
                stops = [n for n in range(1, len(ids) + 1) if check_sequence_repetition(ids[:n], rule)]
                assert at == (stops[0] if stops else None), (ids, count, longest)


def test_loops_by_hand():
    rows = [
        # none/full: one that repeats itself in the end, and is right; one that does not. rtn/w3: one that never ends.
        ("none", "full", "a", [1, 2, 1, 2, 1, 2, 9], True),
        ("none", "full", "b", [1, 2, 3, 4, 5, 6, 9], True),
        ("rtn", "w3", "a", [7] * 20, False),
        ("rtn", "w3", "b", [1, 2, 3, 9], True),
    ]
    answers = pd.DataFrame(rows, columns=["quantizer", "scheme", "id", "token_ids", "right"]).assign(
        study="s", model="m", suite="t", benchmark="x", seed=1, of=2, output_tokens=lambda r: r["token_ids"].map(len)
    )
    answers = answers.join(loops.ends_of(answers["token_ids"]))
    table = loops.tabulate(answers).set_index(["scheme", "repetitions"])
    columns = ["cut", "right_cut", "saved", "safe"]
    assert table.loc[("full", 3), columns].tolist() == [50, 1, pytest.approx(100 * 1 / 14), False]
    assert table.loc[("full", 4), columns].tolist() == [0, 0, 0, True]
    assert table.loc[("w3", 4), columns].tolist() == [50, 0, pytest.approx(100 * 16 / 24), True]
    assert table.loc[("w3", 32), columns].tolist() == [0, 0, 0, True]


def test_what_was_ended_for_its_loops_is_another_sample():
    limits = Limits(loops=3)
    assert limits.is_plain([], {"token_ids": [1, 2, 2, 9], "finish_reason": "stop"})
    assert limits.is_plain([], {"token_ids": [1, 2, 2, 2], "finish_reason": "length"})  # it had ended
    assert not limits.is_plain([], {"token_ids": [1, 2, 2, 2], "finish_reason": "repetition"})
    assert not limits.is_plain([], {"token_ids": [1, 2, 2, 2, 9], "finish_reason": "stop"})


class Held:
    """As `held` sees a store."""

    def __init__(self, **samples: list[int]) -> None:
        self.samples = {name: {"token_ids": ids, "finish_reason": "stop"} for name, ids in samples.items()}


@pytest.mark.parametrize(
    ("store", "address"),
    [
        (Held(), None),
        (Held(free=[1, CLOSE]), "free"),
        (Held(free=[1, 2, 3, CLOSE]), None),  # as long as the budget
        (Held(free=[1, 2, 3, 4, CLOSE], forced=[1, 2, 3, CLOSE]), "forced"),
        (Held(forced=[1, 2, 3, CLOSE]), "forced"),
    ],
)
def test_where_a_sample_is_held(store: Held, address: str | None):
    request = Request("b", "q", 1, [OPEN], 9, {}, "forced", "free", Limits(3, OPEN, CLOSE))
    assert held(request, store) == address


def test_what_has_no_limits_is_drawn_first_and_large_budgets_before_small():
    of = [None, Limits(5, OPEN, CLOSE), Limits(9, OPEN, CLOSE), Limits(loops=3), None]
    requests = [Request("b", "q", n, [OPEN], 9, {}, str(n), str(n), limits) for n, limits in enumerate(of)]
    assert [[request.seed for request in part] for part in rounds(requests)] == [[0, 4], [3], [2], [1]]


def test_without_a_budget_a_sample_has_one_address():
    request = Request("b", "q", 1, [OPEN], 9, {}, "free", "free")
    assert held(request, Held(free=[1, 2, 3])) == "free"
    assert held(request, Held()) is None


def test_a_model_without_markers_is_refused():
    tokenizer = arithmetic.build_tokenizer()
    assert limits_of({"think": "<think> </think>"}, tokenizer) is None
    budget = limits_of({"think": "<think> </think>", "thinking_tokens": 5}, tokenizer)
    assert tokenizer.convert_ids_to_tokens([budget.opened, budget.closed]) == ["<think>", "</think>"]
    with pytest.raises(UserError, match=r"thinking_tokens: the tokenizer of .* has no token '\[THINK\]'"):
        limits_of({"think": "[THINK] [/THINK]", "thinking_tokens": 5}, tokenizer)


def test_words_are_a_models_tokens_whatever_their_capitals():
    tokenizer = arithmetic.build_tokenizer()
    tokenizer.add_tokens(["Wait", " wait", "waiting", "WAIT"])
    found = tokens_of(tokenizer, {"name": "x", "words": ["wait", "+"]})
    assert sorted(tokenizer.decode([token]) for token in found) == [" wait", "+", "WAIT", "Wait"]
    with pytest.raises(UserError, match=r"no token of .* is a word of config/discourage/x.yaml"):
        tokens_of(tokenizer, {"name": "x", "words": ["hmm"]})


def answered(study: Path, suite: str) -> tuple[pd.DataFrame, dict]:
    path = study / f"results/generate/{CELL}/{suite}.parquet"
    return pd.read_parquet(path), json.loads(path.with_suffix(".record.json").read_text())["facts"]


def stored(study: Path) -> set[str]:
    """Addresses of all samples in the store."""
    return {
        name for path in segments(study / "results/store/samples") for name in read_segment(path)["sample"].to_pylist()
    }


def check_cures(study: Path, free: pd.DataFrame, loops_table: pd.DataFrame) -> None:
    """No answer has a word that was discouraged; loops are stopped where the table had said that they would be."""
    quiet, _ = answered(study, "quiet")
    assert len(quiet) == 20
    assert not quiet["output"].str.contains("7").any()
    before = free[(free["benchmark"] == "addition") & (free["seed"] == 42)].set_index("id")
    assert before.loc[quiet["id"], "output"].str.contains("7").any()

    stopped, facts = answered(study, "stopped")
    said = loops_table.query("suite == 'arithmetic' and repetitions == 2")
    assert facts["cut"] == (stopped["finish_reason"] == "repetition").sum() > 0
    whole = free[free["seed"] == 42].set_index(["benchmark", "id"])["token_ids"]
    for row in stopped.itertuples():
        ids, before = list(row.token_ids), list(whole[row.benchmark, row.id])
        [end] = first_loop(before[:-1], [2])
        assert ids == before[:end]
        assert row.cut == (end is not None)
    lost = 1 - stopped["output_tokens"].sum() / whole.map(len).sum()
    assert 100 * lost == pytest.approx(said["saved"].mean(), abs=3)  # of two seeds


def test_a_suite_draws_only_what_its_limits_cut(study: Path):
    """And gives, token by token, what it gives from an empty store."""
    all_free, _ = answered(study, "arithmetic")
    vocabulary = arithmetic.build_tokenizer().get_vocab()
    opened, closed = vocabulary["<think>"], vocabulary["</think>"]
    free = all_free[(all_free["benchmark"] == "multiplication") & (all_free["seed"] == 42)].set_index("id")
    thoughts = free["token_ids"].map(lambda ids: thought_tokens([opened], list(ids), opened, closed))
    tokens = int(thoughts.median())
    assert 0 < (thoughts >= tokens).mean() < 0.8
    config = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    config["suites"]["short"] = config["suites"]["arithmetic"] | {
        "benchmarks": ["multiplication"], "seeds": [42], "thinking_tokens": tokens,
    }  # fmt: skip
    config["suites"]["quiet"] = config["suites"]["arithmetic"] | {
        "benchmarks": ["addition"], "questions": 20, "seeds": [42], "discourage": "seven",
    }  # fmt: skip
    (study / "config/discourage/seven.yaml").write_text("penalty: 100\nwords: ['7']\n")
    config["suites"]["stopped"] = config["suites"]["arithmetic"] | {"seeds": [42], "stop_loops": 2}
    config["studies"] = {
        "ladder": {
            "suites": ["arithmetic", "short", "stopped", "quiet"],
            "grid": [{"models": ["tiny-qwen-s"], "schemes": ["none/full"]}],
        }
    }
    copy = Copy.at(study)
    copy.write_config(config)
    tables = [f"results/report/ladder/{name}.parquet" for name in ("paper", "loops")]
    before = stored(study)
    copy.build("--cores", "1", target := f"results/score/{CELL}/short/multiplication.parquet", *tables)
    cut, facts = answered(study, "short")
    cut = cut.set_index("id").loc[free.index]
    assert facts["cut"] == cut["cut"].sum() == (thoughts >= tokens).sum()
    # One engine answered all three suites, and drew what each of them lacked.
    ladder = ("short", "stopped", "quiet")
    logs = [(study / f"results/logs/generate/{CELL}/{suite}.log").read_text() for suite in ladder]
    assert sum(log.count("Initializing a V1 LLM engine") for log in logs) == 1
    new = {sample for suite in ladder for sample in answered(study, suite)[0]["sample"]} - before
    assert stored(study) - before == new
    assert len(new) == facts["cut"] + answered(study, "stopped")[1]["cut"] + 20
    for name, row in cut.iterrows():
        whole, ids = list(free.loc[name, "token_ids"]), list(row["token_ids"])
        if not row["cut"]:
            assert (ids, row["sample"]) == (whole, free.loc[name, "sample"])
        else:  # the same thought, closed after so many tokens, and an answer
            assert ids[: tokens + 1] == [*whole[:tokens], closed]
            assert row["sample"] != free.loc[name, "sample"]
    scores = pd.read_parquet(study / target)
    assert 0 < scores["correct_final"].mean() < 1
    samples = pd.read_parquet(study / "results/report/ladder/samples.parquet")
    without = {"arithmetic": True, "short": False, "stopped": True, "quiet": True}
    assert samples.groupby("suite")["thinking_tokens"].first().isna().to_dict() == without

    assert set(samples["discourage"][samples["suite"] == "quiet"]) == {"seven"}
    check_cures(study, all_free, pd.read_parquet(study / tables[1]))

    shutil.rmtree(study / "results/store/samples")
    (study / f"results/generate/{CELL}/short.parquet").unlink()
    copy.build("--until", "generate", "--", f"results/generate/{CELL}/short.parquet")
    anew, facts = answered(study, "short")
    assert facts["generated"] == 200
    pd.testing.assert_frame_equal(anew.set_index("id").loc[free.index], cut)
