"""Thoughts that are made to go on: turn by turn, from the sample without, and the same from an empty store."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from scripts.generate.answers import Answer
from scripts.generate.engine import held, rounds
from scripts.generate.limits import Limits, limits_of
from scripts.generate.prompts import build_requests
from scripts.models import arithmetic
from scripts.run.config import load
from scripts.run.errors import UserError
from tests.conftest import ASKED, TINY_STUDY, Copy

OPEN, CLOSE, WAIT = 7, 8, 6
LIMITS = Limits(None, OPEN, CLOSE, again=2, wait=(WAIT,), length=20)
CELL = "tiny-qwen3/none/full"
SUITE = TINY_STUDY["suites"]["arithmetic"] | {
    "benchmarks": ["multiplication"], "questions": 12, "seeds": [42], "max_model_len": 384,
}  # fmt: skip


def asking(limits: dict, identity: str = "x") -> dict:
    return SUITE | ASKED | {"top_k": 0, "paper_seeds": False} | limits | {"identity": identity}


def row(ids: list[int]) -> dict:
    return {"token_ids": ids, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("ids", "turn"),
    [([1, 2, CLOSE, 3], 2), ([CLOSE], 0), ([1, 2, 3], None), ([1] * 17 + [CLOSE], 17), ([1] * 18 + [CLOSE], None)],
)
def test_a_thought_goes_on_where_it_was_closed_if_there_is_room(ids: list[int], turn: int | None):
    assert LIMITS.turn([OPEN], ids) == turn
    assert LIMITS.is_plain([OPEN], row(ids)) == (turn is None)


def test_turns_by_hand():
    """Two ends are replaced, the third stays; each turn has the tokens before it, the room that is left, a seed."""
    sampling = {"temperature": 0.6, "max_tokens": 19, "seed": 5, "think_again": {"times": 2, "token_ids": [WAIT]}}
    request = SimpleNamespace(prompt=[OPEN], sampling=sampling, plain="plain", limits=LIMITS)
    tokenizer = SimpleNamespace(decode=lambda ids, **_: " ".join(map(str, ids)))
    answer = Answer(request, {"plain": row([1, 2, CLOSE, 3, 9])}, tokenizer)

    prompt, first = answer.asked()
    assert prompt == {"prompt_token_ids": [OPEN, 1, 2, WAIT]}
    assert (first.max_tokens, first.stop_token_ids) == (16, [CLOSE])
    closed = SimpleNamespace(token_ids=[4, CLOSE], text="", finish_reason="stop", stop_reason=CLOSE)
    assert answer.take(closed) is None
    prompt, second = answer.asked()
    assert prompt == {"prompt_token_ids": [OPEN, 1, 2, WAIT, 4, WAIT]}
    assert (second.max_tokens, second.stop_token_ids) == (14, [])
    assert len({first.seed, second.seed, 5}) == 3
    ended = SimpleNamespace(token_ids=[CLOSE, 3, 9], text="", finish_reason="stop", stop_reason=None)
    found = answer.take(ended)
    assert list(found["token_ids"]) == [1, 2, WAIT, 4, WAIT, CLOSE, 3, 9]
    assert (found["output"], found["output_tokens"]) == ("1 2 6 4 6 8 3 9", 8)
    assert (found["finish_reason"], answer.drawn) == ("stop", 5)


def test_without_room_for_another_turn_the_answer_ends():
    sampling = {"temperature": 0.6, "max_tokens": 19, "seed": 5, "think_again": {"times": 2, "token_ids": [WAIT]}}
    request = SimpleNamespace(prompt=[OPEN], sampling=sampling, plain="plain", limits=LIMITS)
    answer = Answer(request, {"plain": row([1, CLOSE, 9])}, SimpleNamespace(decode=lambda *_, **__: "text"))
    late = SimpleNamespace(token_ids=[4] * 16 + [CLOSE], text="", finish_reason="stop", stop_reason=CLOSE)
    assert answer.take(late)["finish_reason"] == "length"


def test_samples_without_are_drawn_first_and_have_the_addresses_of_a_suite_without():
    tokenizer = arithmetic.build_tokenizer(checks_itself=True)
    question = {"benchmark": "b", "id": "q", "messages": [{"role": "user", "content": "2+2"}], "expected_tokens": 9}
    again, free = (
        build_requests([question], tokenizer, asking(limits), {"checkpoint": "c"}, {})
        for limits in ({"think_again": 1}, {})
    )
    (first,), (second,) = rounds(again)
    assert first == free[0]
    assert second == again[0]
    assert second.plain == free[0].sample != second.sample
    store = SimpleNamespace(samples={free[0].sample: row([1, 2, 3])})  # not closed: nothing to replace
    assert held(second, store) == free[0].sample


def test_a_model_that_cannot_write_wait_is_refused():
    words = Tokenizer(WordLevel({"<think>": 0, "</think>": 1, "[UNK]": 2}, unk_token="[UNK]"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(UserError, match=r"think_again: the tokenizer of .* cannot write 'Wait'"):
        limits_of({"think": "<think> </think>", "think_again": 1}, tokenizer)


def test_not_together_with_a_budget():
    config = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    config["suites"]["arithmetic"] |= {"think_again": 1, "thinking_tokens": 5}
    with pytest.raises(UserError, match=r"suites.arithmetic.think_again: not together with thinking_tokens"):
        load(config, ["config/config.yaml"])


def test_thoughts_go_on(study: Path):
    """By vLLM: one engine for both suites; the thought up to its end as without, then `Wait`; exact from nothing."""
    config = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    config["suites"] |= {"free": SUITE, "again": SUITE | {"think_again": 1}}
    grid = [{"models": ["tiny-qwen3"], "schemes": ["none/full"]}]
    config["studies"] = {"again": {"suites": ["free", "again"], "grid": grid}}
    copy = Copy.at(study)
    copy.write_config(config)
    paths = {suite: study / f"results/generate/{CELL}/{suite}.parquet" for suite in ("free", "again")}
    scaling = "results/report/again/scaling.parquet"
    copy.build("--cores", "1", *(str(path.relative_to(study)) for path in paths.values()), scaling)
    logs = [(study / f"results/logs/generate/{CELL}/{suite}.log").read_text() for suite in paths]
    assert sum(log.count("Initializing a V1 LLM engine") for log in logs) == 1
    free, again = (pd.read_parquet(path).set_index("id") for path in paths.values())
    vocabulary = arithmetic.build_tokenizer(checks_itself=True).get_vocab()
    closed, wait = vocabulary["</think>"], vocabulary["Wait"]
    facts = json.loads(paths["again"].with_suffix(".record.json").read_text())["facts"]
    assert facts["cut"] == again["cut"].sum() > 6
    for name, sample in again.iterrows():
        before, ids = list(free.loc[name, "token_ids"]), list(sample["token_ids"])
        if sample["cut"]:
            end = before.index(closed)
            assert ids[: end + 1] == [*before[:end], wait]
            assert sample["output"].count("</think>") <= 1
        else:
            assert closed not in before
            assert ids == before
    table = pd.read_parquet(study / scaling).query("benchmark == 'avg'").set_index("suite")
    assert table["below"].to_dict() == {"free": None, "again": "free"}
    assert table.loc["again", "mean_tokens"] > table.loc["free", "mean_tokens"]

    shutil.rmtree(study / "results/store/samples")
    paths["again"].unlink()
    copy.build("--until", "generate", "--", str(paths["again"].relative_to(study)))
    pd.testing.assert_frame_equal(pd.read_parquet(paths["again"]).set_index("id").loc[again.index], again)
