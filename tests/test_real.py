"""A real model, which nobody here trained, from its folder to the tables; `make real` takes every quantizer."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import Copy
from tests.real import MODEL, PROBLEMS, study


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = study(tmp_path_factory.mktemp("real"), ["none/full", "rtn/w4g32"], count=5, tokens=112)
    copy.build()
    return copy


def test_it_is_asked_and_answers_in_its_own_words(real: Copy):
    """With its system prompt, BOS at each turn; it has no markers, so all of an answer is judged."""
    for scheme in ("none/full", "rtn/w4g32"):
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
    assert samples.groupby(["quantizer", "scheme"]).size().to_dict() == {("none", "full"): 5, ("rtn", "w4g32"): 5}
    record = json.loads((real.root / "results/datasets/gsm8k/record.json").read_text())
    assert record["parameters"]["settings"]["rows"] == 5
    assert Path(record["parameters"]["settings"]["local"]).name == "words.parquet"
    made = json.loads((real.root / f"results/models/{MODEL}/record.json").read_text())
    stated = yaml.safe_load((real.root / f"config/models/{MODEL}.yaml").read_text())
    revision = made["parameters"]["settings"]["revision"]
    assert revision == stated["facts"]["revision"]
    assert made["sources"] == {f"models/{MODEL}": revision}
