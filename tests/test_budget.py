"""Budgets of thinking: what ends within them is the sample without one, and only what they cut is drawn."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from scripts.generate.budget import Budget, budget_of, thought_tokens
from scripts.generate.engine import held
from scripts.generate.prompts import Request
from scripts.models import arithmetic
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
    assert Budget(count + 1, OPEN, CLOSE).is_kept(prompt, output)
    assert not Budget(count, OPEN, CLOSE).is_kept(prompt, output)


class Held:
    """As `held` sees a store."""

    def __init__(self, **samples: list[int]) -> None:
        self.samples = {name: {"token_ids": ids} for name, ids in samples.items()}


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
    request = Request("b", "q", 1, [OPEN], 9, {}, "forced", "free")
    assert held(request, store, Budget(3, OPEN, CLOSE)) == address


def test_without_a_budget_a_sample_has_one_address():
    request = Request("b", "q", 1, [OPEN], 9, {}, "free", "free")
    assert held(request, Held(free=[1, 2, 3]), None) == "free"
    assert held(request, Held(), None) is None


def test_a_model_without_markers_is_refused():
    tokenizer = arithmetic.build_tokenizer()
    assert budget_of({"think": "<think> </think>"}, tokenizer) is None
    budget = budget_of({"think": "<think> </think>", "thinking_tokens": 5}, tokenizer)
    assert tokenizer.convert_ids_to_tokens([budget.opened, budget.closed]) == ["<think>", "</think>"]
    with pytest.raises(UserError, match=r"thinking_tokens: the tokenizer of .* has no token '\[THINK\]'"):
        budget_of({"think": "[THINK] [/THINK]", "thinking_tokens": 5}, tokenizer)


def answered(study: Path, suite: str) -> tuple[pd.DataFrame, dict]:
    path = study / f"results/generate/{CELL}/{suite}.parquet"
    return pd.read_parquet(path), json.loads(path.with_suffix(".record.json").read_text())["facts"]


def test_a_ladder_draws_only_what_its_budgets_cut(study: Path):
    """And gives, token by token, what it gives from an empty store."""
    free, _ = answered(study, "arithmetic")
    vocabulary = arithmetic.build_tokenizer().get_vocab()
    opened, closed = vocabulary["<think>"], vocabulary["</think>"]
    free = free[(free["benchmark"] == "multiplication") & (free["seed"] == 42)].set_index("id")
    thoughts = free["token_ids"].map(lambda ids: thought_tokens([opened], list(ids), opened, closed))
    tokens = int(thoughts.median())
    assert 0 < (thoughts >= tokens).mean() < 0.8
    config = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    config["suites"]["short"] = config["suites"]["arithmetic"] | {
        "benchmarks": ["multiplication"], "seeds": [42], "thinking_tokens": tokens,
    }  # fmt: skip
    config["studies"] = {
        "ladder": {
            "suites": ["arithmetic", "short"],
            "grid": [{"models": ["tiny-qwen-s"], "schemes": ["none/full", "rtn/w3"]}],
        }
    }
    copy = Copy.__new__(Copy)
    copy.root = study
    (study / "config/tiny.yaml").unlink()  # a hard link
    copy.write_config(config)
    copy.build(target := f"results/score/{CELL}/short/multiplication.parquet", "results/report/ladder/paper.parquet")
    cut, facts = answered(study, "short")
    cut = cut.set_index("id").loc[free.index]
    assert facts["generated"] == facts["forced"] == cut["forced"].sum() == (thoughts >= tokens).sum()
    for name, row in cut.iterrows():
        whole, ids = list(free.loc[name, "token_ids"]), list(row["token_ids"])
        if not row["forced"]:
            assert (ids, row["sample"]) == (whole, free.loc[name, "sample"])
        else:  # the same thought, closed after so many tokens, and an answer
            assert ids[: tokens + 1] == [*whole[:tokens], closed]
            assert row["sample"] != free.loc[name, "sample"]
    scores = pd.read_parquet(study / target)
    assert 0 < scores["correct_final"].mean() < 1
    samples = pd.read_parquet(study / "results/report/ladder/samples.parquet")
    assert samples.groupby("suite")["thinking_tokens"].first().isna().to_dict() == {"arithmetic": True, "short": False}

    shutil.rmtree(study / "results/store/samples")
    (study / f"results/generate/{CELL}/short.parquet").unlink()
    copy.build("--until", "generate", "--", f"results/generate/{CELL}/short.parquet")
    anew, facts = answered(study, "short")
    assert facts["generated"] == 200
    pd.testing.assert_frame_equal(anew.set_index("id").loc[free.index], cut)
