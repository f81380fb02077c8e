"""Prompts, seeds and order: what the engine is asked."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.generate.engine import asked_of, generate, known_lengths
from scripts.generate.prompts import Request, prompt_ids, request_seed
from scripts.generate.store import Store
from scripts.models.arithmetic import build_tokenizer
from scripts.questions._table import SCHEMA as QUESTIONS
from scripts.run.errors import UserError
from scripts.run.resources import generate_gpu_minutes
from scripts.table import write_table
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


def test_questions_of_one_benchmark_alone(tmp_path: Path):
    """Those that are not named are asked in full; a number is for all."""
    for name in ("x", "y"):
        rows = [{"benchmark": name, "id": f"{name}{i}", "gold": "1", "subject": "", "level": "", "expected_tokens": 9,
                 "messages": [{"role": "user", "content": "1+1"}]} for i in range(9)]  # fmt: skip
        write_table(tmp_path / f"{name}.parquet", rows, QUESTIONS)
    paths = [tmp_path / "x.parquet", tmp_path / "y.parquet"]
    settings = ASKED | {
        "seeds": [1],
        "temperature": 0.6,
        "top_p": 1,
        "top_k": 0,
        "max_model_len": 99,
        "paper_seeds": False,
    }

    def asked(**questions: object) -> list[int]:
        requests = asked_of(paths, build_tokenizer(), settings | questions, {}, {})
        return [sum(request.benchmark == name for request in requests) for name in ("x", "y")]

    assert asked() == [9, 9]
    assert asked(questions=4) == [4, 4]
    assert asked(questions={"y": 4}) == [9, 4]
    suite = {"seeds": [1], "benchmarks": ["x", "y"], "max_model_len": 32768}
    minutes = [generate_gpu_minutes({"parameters": 1e9}, {}, suite | {"questions": n}) for n in (481, {"y": 1}, 1)]
    assert minutes[0] / 2 < minutes[1] < minutes[0]
    assert minutes[2] < minutes[1]
