"""A real model, which nobody here trained, from its folder to a verdict as the README has it (`config/mine.yaml`).

`make real` takes every quantizer.
"""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from scripts.questions._chosen import chosen
from tests.conftest import Copy
from tests.real import EVENING, PROBLEMS, evening, has_fp8_cache

SCHEMES = [scheme for scheme in EVENING if has_fp8_cache() or scheme != "vllm/kv8-fp8"]
THERE, ASKED = 8, 5  # questions
TOKENS = 112


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The study of one evening, with a few of our own word problems, which need no hub."""
    copy = evening(tmp_path_factory.mktemp("real"), THERE, {"questions": ASKED, "max_model_len": TOKENS}, speed=False)
    copy.build("--configfile", "config/mine.yaml", "config/tiny.yaml")
    return copy


def test_it_is_asked_and_answers_in_its_own_words(real: Copy):
    """With its system prompt, BOS at each turn; it has no markers, so all of an answer is judged."""
    names = sorted(chosen(map(str, range(THERE)), ASKED))
    for scheme in SCHEMES:
        rows = pd.read_parquet(real.root / f"results/generate/mine/{scheme}/evening.parquet")
        assert rows["id"].tolist() == names
        for prompt, name in zip(rows["prompt"], names, strict=True):
            assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
            assert PROBLEMS[int(name) % len(PROBLEMS)][0].rpartition(". ")[2].split("{")[0] in prompt
            assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
            assert prompt.count("<|im_start|>") == 3
        said = " ".join(rows["output"]).lower().split()
        assert len(said) > 60 and {"the", "of"} & set(said)  # it speaks; noise would not
        assert (rows["prompt_tokens"] + rows["output_tokens"] <= TOKENS).all()


def test_its_tables_say_what_was_asked(real: Copy):
    samples = pd.read_parquet(real.root / "results/report/mine/samples.parquet")
    assert samples.groupby(["quantizer", "scheme"]).size().to_dict() == {tuple(s.split("/")): ASKED for s in SCHEMES}
    record = json.loads((real.root / "results/datasets/gsm8k/record.json").read_text())
    assert record["parameters"]["settings"]["rows"] == THERE
    assert Path(record["parameters"]["settings"]["local"]).name == "words.parquet"
    made = json.loads((real.root / "results/models/mine/record.json").read_text())
    stated = yaml.safe_load((real.root / "config/models/mine.yaml").read_text())
    revision = made["parameters"]["settings"]["revision"]
    assert revision == stated["facts"]["revision"]
    assert made["sources"] == {"models/mine": revision}


def test_its_own_gguf_is_what_it_was_made_of(real: Copy):
    """The model was dequantized from it, so that all answers are the same, and come from the store."""
    places = [real.root / f"results/generate/mine/{scheme}/evening.parquet" for scheme in SCHEMES[:2]]
    full, published = map(pd.read_parquet, places)
    assert published["sample"].tolist() == full["sample"].tolist()
    made = json.loads((real.root / "results/published/mine/gguf-q4/record.json").read_text())
    assert made["facts"]["source"].endswith(".gguf")
    table = pd.read_parquet(real.root / "results/report/mine/efficiency.parquet").set_index("quantizer")
    assert table.loc["published", "weight_bits"] == 5  # Q4_1: a scale and a minimum of 16 bits for 32 weights
    assert table.loc["published", "weight_bytes"] < 0.19 * table.loc["none", "weight_bytes"]


@pytest.mark.skipif(not has_fp8_cache(), reason="this CPU has neither AVX-512 nor AMX")
def test_a_cache_of_the_engine_changes_answers_not_weights(real: Copy):
    places = [real.root / f"results/generate/mine/{scheme}/evening.parquet" for scheme in ("none/full", "vllm/kv8-fp8")]
    full, cached = map(pd.read_parquet, places)
    assert set(cached["sample"]).isdisjoint(full["sample"])
    assert (cached["output"] != full["output"]).any()
    table = pd.read_parquet(real.root / "results/report/mine/efficiency.parquet").set_index("quantizer")
    assert table.loc["vllm", "kv_bytes"] == table.loc["none", "kv_bytes"] / 4  # of float32
    assert table.loc["vllm", "weight_bits"] == 32


def test_it_ends_in_a_verdict_and_the_audit_finds_nothing(real: Copy):
    def said(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=real.root, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    table = said("scripts.report.show", "results/report/mine")
    assert all(f"| {scheme} " in table for scheme in SCHEMES)
    assert said("scripts.audit", "verify") == ""
