"""Prompts, seeds and memory: what goes into the engine."""

import pytest
import torch

from scripts.generate.engine import kv_bytes_per_token
from scripts.generate.prompts import prompt_ids, request_seed
from scripts.models.arithmetic import RECIPES, build_model, build_tokenizer
from scripts.run.errors import UserError

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
