"""Prompts, seeds and memory: what goes into the engine."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from scripts.generate import engine
from scripts.generate.engine import engine_identity, generate, known_lengths, kv_bytes_per_token, start_engine
from scripts.generate.prompts import Request, prompt_ids, request_seed
from scripts.generate.store import Store
from scripts.models.arithmetic import RECIPES, build_model, build_tokenizer
from scripts.run.errors import UserError
from scripts.run.imports import code_files
from tests.conftest import Copy

CHAT = [{"role": "user", "content": "What is 12*34?"}]


def test_a_prompt_has_one_bos_and_opens_the_thought():
    tokenizer = build_tokenizer()
    ids = prompt_ids(tokenizer, CHAT)
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
        prompt_ids(tokenizer, CHAT)


def test_request_seeds_differ_by_question_and_run_only():
    seeds = {request_seed(seed, question, paper_seeds=False) for seed in (42, 43) for question in ("1+1", "2+2")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert request_seed(42, "1+1", paper_seeds=False) == request_seed(42, "1+1", paper_seeds=False)


def test_paper_seeds_are_one_for_all_questions():
    assert {request_seed(42, question, paper_seeds=True) for question in ("1+1", "2+2")} == {42}


@pytest.mark.parametrize(("name", "size"), [("tiny-qwen-s", 2 * 4 * 1 * 32 * 4), ("tiny-llama-m", 2 * 4 * 2 * 32 * 4)])
def test_kv_cache_size_follows_from_the_model(name: str, size: int):
    config = build_model(RECIPES[name], build_tokenizer()).config
    assert kv_bytes_per_token(config, "float32") == size
    assert kv_bytes_per_token(config, "bfloat16") == size // 2
    config.head_dim = 64  # stated, and not hidden / heads
    assert kv_bytes_per_token(config, "float32") == size * 2
    assert torch.float32.itemsize == 4


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
    requests = [Request("b", str(i), 42, [1], n, {"max_tokens": 9}, str(i)) for i, n in enumerate(lengths)]
    generate(SimpleNamespace(llm_engine=engine), requests, Store("c", set(), {}, tmp_path), "label")
    assert asked == [900, 70, 70, 5, 1]


def configured(folder: Path, quantization: dict | None) -> Path:
    """A checkpoint of nothing but its configuration."""
    folder.mkdir()
    config = {"model_type": "qwen2"} | ({"quantization_config": quantization} if quantization else {})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_edit_of_the_plugin_moves_the_samples_of_what_it_serves(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every address of those, and none of full precision's; a comment moves none."""
    monkeypatch.chdir(copy.root)
    full = configured(tmp_path / "full", None)
    fake = configured(tmp_path / "fake", {"quant_method": "fakequant", "values": {"bits": 4, "clip": 1.0}})

    def identities() -> tuple[dict, dict]:
        code_files.cache_clear()
        return tuple(engine_identity(folder, {"dtype": "float32"}) for folder in (full, fake))

    before = identities()
    path = copy.root / "scripts/fakequant/rounding.py"
    path.write_text(path.read_text() + "\n# a comment\n")
    assert identities() == before
    assert "2**bits - 1" in path.read_text()
    path.write_text(path.read_text().replace("2**bits - 1", "2**bits - 2"))
    after = identities()
    code_files.cache_clear()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_ranks_that_would_split_a_row_group_are_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake = configured(tmp_path / "fake", {"quant_method": "fakequant", "row_groups": 4})
    monkeypatch.setattr(engine, "tensor_parallel_size", lambda: 3)
    settings = {"dtype": "float32", "max_model_len": 16, "max_num_seqs": 1}
    with pytest.raises(UserError, match=r"fake: tensor-parallel size 3 does not divide row_groups 4 .* 1 or 2 or 4"):
        start_engine(fake, settings)
