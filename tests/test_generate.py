"""Prompts, seeds and order: what the engine is asked."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.generate.engine import generate, known_lengths
from scripts.generate.prompts import Request, prompt_ids, request_seed
from scripts.generate.store import Store
from scripts.models.arithmetic import build_tokenizer
from scripts.run.errors import UserError
from tests.conftest import ASKED

CHAT = [{"role": "user", "content": "What is 12*34?"}]


def test_a_prompt_has_one_bos_and_opens_the_thought():
    tokenizer = build_tokenizer()
    (ids,) = prompt_ids(tokenizer, [CHAT], ASKED)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<think>")
    # The trap: tokenizing the rendered text as text would add a second one.
    text = tokenizer.decode(ids)
    assert tokenizer(text).input_ids[:2] == [tokenizer.bos_token_id] * 2


def test_a_doubled_bos_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(UserError, match="doubled BOS"):
        prompt_ids(tokenizer, [CHAT], ASKED)


def test_request_seeds_differ_by_question_and_run_only():
    seeds = {request_seed(seed, question, paper_seeds=False) for seed in (42, 43) for question in ("1+1", "2+2")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(42, "1+1", paper_seeds=False) == request_seed(42, "1+1", paper_seeds=False)


def test_paper_seeds_are_one_for_all_questions():
    assert {request_seed(42, question, paper_seeds=True) for question in ("1+1", "2+2")} == {42}


def test_the_baselines_lengths_are_the_hint_where_they_exist(tmp_path: Path):
    baseline = tmp_path / "model/none/full/suite.parquet"
    artifact = tmp_path / "model/rtn/w3/suite.parquet"
    assert known_lengths(artifact, "rtn", "w3") == {}
    baseline.parent.mkdir(parents=True)
    row = {"benchmark": "addition", "id": "1+1", "seed": 42, "output_tokens": 7}
    pq.write_table(pa.Table.from_pylist([row]), baseline)
    assert known_lengths(artifact, "rtn", "w3") == {("addition", "1+1", 42): 7}
    assert known_lengths(baseline, "none", "full") == {}


def test_the_longest_expected_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In all orders of arrival; the engine here only listens."""
    from scripts.run import record

    monkeypatch.setitem(record._current, "record", {"facts": {}})
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    asked = []
    engine = SimpleNamespace(
        add_request=lambda index, *_: asked.append(requests[int(index)].expected_tokens),
        has_unfinished_requests=lambda: False,
        step=list,
    )
    lengths = [5, 900, 1, 70, 70]
    requests = [Request("b", str(i), 42, [1], n, {"max_tokens": 9}, str(i), str(i)) for i, n in enumerate(lengths)]
    llm = SimpleNamespace(llm_engine=engine, get_tokenizer=lambda: None)
    generate(llm, requests, Store("c", set(), {}, tmp_path), "label")
    assert asked == [900, 70, 70, 5, 1]
