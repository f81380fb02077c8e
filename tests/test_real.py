"""A real model, which nobody here trained, from its folder to the tables; `make real` takes every quantizer."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import Copy
from tests.real import MODEL, PROBLEMS, has_fp8_cache, study

SCHEMES = ["none/full", "rtn/w4g32", "published/gguf-q4", *(["vllm/kv8-fp8"] if has_fp8_cache() else [])]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = study(tmp_path_factory.mktemp("real"), SCHEMES, count=5, tokens=112)
    copy.build()
    return copy


def test_it_is_asked_and_answers_in_its_own_words(real: Copy):
    """With its system prompt, BOS at each turn; it has no markers, so all of an answer is judged."""
    for scheme in SCHEMES:
        rows = pd.read_parquet(real.root / f"results/generate/{MODEL}/{scheme}/words.parquet")
        assert len(rows) == 5
        for prompt, (problem, _) in zip(rows["prompt"], PROBLEMS, strict=True):
            assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
            assert problem.rpartition(". ")[2].split("{")[0] in prompt
            assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
            assert prompt.count("<|im_start|>") == 3
        words = " ".join(rows["output"]).lower().split()
        assert len(words) > 60 and {"the", "of"} & set(words)  # it speaks; noise would not
        assert (rows["prompt_tokens"] + rows["output_tokens"] <= 112).all()


def test_its_tables_say_what_was_asked(real: Copy):
    samples = pd.read_parquet(real.root / "results/report/real/samples.parquet")
    assert samples.groupby(["quantizer", "scheme"]).size().to_dict() == {tuple(s.split("/")): 5 for s in SCHEMES}
    record = json.loads((real.root / "results/datasets/gsm8k/record.json").read_text())
    assert record["parameters"]["settings"]["rows"] == 5
    assert Path(record["parameters"]["settings"]["local"]).name == "words.parquet"
    made = json.loads((real.root / f"results/models/{MODEL}/record.json").read_text())
    stated = yaml.safe_load((real.root / f"config/models/{MODEL}.yaml").read_text())
    revision = made["parameters"]["settings"]["revision"]
    assert revision == stated["facts"]["revision"]
    assert made["sources"] == {f"models/{MODEL}": revision}


def test_its_own_gguf_is_what_it_was_made_of(real: Copy):
    """The model was dequantized from it, so that all answers are the same, and come from the store."""
    folder = real.root / f"results/generate/{MODEL}"
    full, published = (
        pd.read_parquet(folder / scheme / "words.parquet") for scheme in ("none/full", "published/gguf-q4")
    )
    assert published["sample"].tolist() == full["sample"].tolist()
    record = json.loads((folder / "published/gguf-q4/words.record.json").read_text())
    assert record["sources"].keys() == {f"models/{MODEL}"}  # which a file of this machine does not add to
    made = json.loads((real.root / f"results/published/{MODEL}/gguf-q4/record.json").read_text())
    assert made["facts"]["source"].endswith(".gguf")
    table = pd.read_parquet(real.root / "results/report/real/efficiency.parquet").set_index("quantizer")
    assert table.loc["published", "weight_bits"] == 5  # Q4_1: a scale and a minimum of 16 bits for 32 weights
    assert table.loc["published", "weight_bytes"] < 0.19 * table.loc["none", "weight_bytes"]


@pytest.mark.skipif(not has_fp8_cache(), reason="this CPU has neither AVX-512 nor AMX")
def test_a_cache_of_the_engine_changes_answers_not_weights(real: Copy):
    folder = real.root / f"results/generate/{MODEL}"
    full, cached = (pd.read_parquet(folder / scheme / "words.parquet") for scheme in ("none/full", "vllm/kv8-fp8"))
    assert set(cached["sample"]).isdisjoint(full["sample"])
    assert (cached["output"] != full["output"]).any()
    table = pd.read_parquet(real.root / "results/report/real/efficiency.parquet").set_index("quantizer")
    assert table.loc["vllm", "kv_bytes"] == table.loc["none", "kv_bytes"] / 4  # of float32
    assert table.loc["vllm", "weight_bits"] == 32


def test_the_audit_finds_nothing(real: Copy):
    done = subprocess.run(
        [sys.executable, "-m", "scripts.audit", "verify"], cwd=real.root, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
