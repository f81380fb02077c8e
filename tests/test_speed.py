"""Speeds: what is timed and of what, what an answer takes and costs from them, and the engine's own by vLLM."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from scripts import speed
from scripts.audit._making import making
from scripts.places import PLACES
from scripts.report import efficiency
from scripts.run.config import load
from scripts.run.errors import UserError
from tests.conftest import TINY_STUDY, Copy

TIMED = {"prompts": [16, 32], "tokens": 16, "repeats": 2}


def test_medians_and_quartiles_over_requests_and_runs():
    runs = [
        SimpleNamespace(first_token=[1.0, 2.0], per_token=[0.1, 0.1], seconds=4.0),
        SimpleNamespace(first_token=[3.0, 4.0], per_token=[0.2, 0.3], seconds=2.0),
        SimpleNamespace(first_token=[5.0, 6.0], per_token=[0.1, 0.1], seconds=8.0),
    ]
    row = speed.summarized(runs, 10)
    assert (row["first_token_low"], row["first_token"], row["first_token_high"]) == (2.25, 3.5, 4.75)
    assert row["per_token"] == 0.1
    assert row["tokens_per_second"] == 20 / 4


def rows(**changes: object) -> pd.DataFrame:
    of = [(1, 10, 0.5, 0.1, 9.0), (1, 100, 1.0, 0.2, 5.0), (64, 100, 3.0, 0.9, 400.0), (64, 10, 2.0, 0.5, 600.0)]
    names = ["batch", "prompt_tokens", "first_token", "per_token", "tokens_per_second"]
    return pd.DataFrame(of, columns=names).assign(**{"gpus": 2} | changes)


def test_what_an_answer_takes_and_costs():
    """Alone for its time, in the largest batch for its price, both behind the longest prompts."""
    found = efficiency.served(rows(), mean_tokens=1001, accuracy=50, price=3.6)
    assert found["answer_seconds"] == pytest.approx(1 + 1000 * 0.2)
    assert found["right_answer_seconds"] == pytest.approx(2 * found["answer_seconds"])
    assert found["answer_price"] == pytest.approx(3.6 / 3600 * 2 * 1001 / 400)
    assert found["right_answer_price"] == pytest.approx(2 * found["answer_price"])
    assert efficiency.served(rows(), 1001, 0, 3.6)["right_answer_seconds"] is None
    for unknown in (efficiency.served(rows(), 9, 50, None), efficiency.served(rows(gpus=0), 9, 50, 3.6)):
        assert unknown["answer_price"] is unknown["right_answer_price"] is None
    assert set(efficiency.served(None, 9, 50, 3.6).values()) == {None}


def test_memory_is_weights_and_the_cache_of_a_mean_answer():
    assert efficiency.memory({"weight_bytes": 1000, "kv_bytes": 2.5, "mean_tokens": 100.0}) == 1250


def config(**study: object) -> dict:
    document = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    document["studies"]["tiny"] |= study
    return document


def test_what_the_engine_serves_with_kernels_of_its_own():
    found = load(config(), ["config/config.yaml"])
    schemes = {"none/full": True, "rtn/w3": False, "gptq/w4g32-packed": True, "vllm/kv8-fp8": True, "awq/w3g32": False}
    assert {name: found.served("tiny-qwen-s", name) for name in schemes} == schemes
    files = {"gguf": {"file": "a.gguf", "local": ""}, "ours": {"file": "", "local": "/a.gguf"}}
    found.models["tiny-qwen-s"]["published"] = files | {"fp8": {"file": "", "local": ""}}
    assert [found.served("tiny-qwen-s", f"published/{name}") for name in ("gguf", "ours", "fp8")] == [
        False,
        False,
        True,
    ]


def test_a_study_that_times_says_what():
    with pytest.raises(UserError, match=r"studies.tiny.speed: .* does not say what is timed: add `speed`"):
        load(config(speed=True), ["config/config.yaml"])
    long = {"speed": TIMED | {"prompts": [600]}}
    with pytest.raises(UserError, match=r"speed: the longest of prompts and tokens: 616 exceeds .*tiny-qwen-s, 512"):
        load(config(speed=True) | long, ["config/config.yaml"])


def test_the_path_of_a_speed_says_what_made_it():
    made = making("results/speed/m/rtn/w4.parquet")
    assert made.module == r"scripts\.speed"
    assert made.inputs == {"checkpoint": "results/quantize/m/rtn/w4/checkpoint"}


def test_a_study_times_what_has_kernels_of_its_own(study: Path):
    """By vLLM; its table tells seconds of the baseline, and of a dequantized checkpoint that it has none.

    It looks at magnitudes, too.
    """
    copy = Copy.at(study)
    grid = [{"models": ["tiny-qwen-s"], "schemes": ["none/full", "rtn/w3"]}]
    asked = {"suites": ["arithmetic"], "speed": True, "magnitudes": "plain", "grid": grid}
    copy.write_config(TINY_STUDY | {"studies": {"timed": asked}, "speed": TIMED})
    copy.build("--cores", "2", table := "results/report/timed/efficiency.parquet", "results/report/timed/index.html")
    assert not (study / "results/speed/tiny-qwen-s/rtn").exists()
    timed = pd.read_parquet(study / "results/speed/tiny-qwen-s/none/full.parquet")
    assert timed[["batch", "prompt_tokens"]].to_numpy().tolist() == [[b, p] for p in (16, 32) for b in (1, 8, 128)]
    assert (timed[["first_token", "per_token", "tokens_per_second"]] > 0).all(axis=None)
    assert (timed["first_token_low"] <= timed["first_token"]).all()
    assert (timed["per_token"] <= timed["per_token_high"]).all()
    alone = timed.set_index(["batch", "prompt_tokens"]).loc[(1, 32)]
    full, dequantized = (row for _, row in pd.read_parquet(study / table).iterrows())
    assert [full["kernels"], dequantized["kernels"]] == ["real", "dequantized"]
    assert full["answer_seconds"] == pytest.approx(
        alone["first_token"] + (full["mean_tokens"] - 1) * alone["per_token"]
    )
    assert pd.isna(dequantized["answer_seconds"])
    generated = pd.read_parquet(study / "results/generate/tiny-qwen-s/none/full/arithmetic.parquet")
    by_benchmark = generated.groupby("benchmark")["output_tokens"].mean()
    assert full["mean_tokens"] == pytest.approx(statistics.mean(by_benchmark))
    page = (study / "results/report/timed/index.html").read_text()
    assert all(f'data-chart="{name}"' in page for name in ("pareto", "memory", "speed", "magnitudes"))
    assert full["differs"].tolist() == dequantized["differs"].tolist() == []
    assert full[[*efficiency.CONDITIONS]].tolist()[2:4] == ["float32", "1"]
    assert "≠" not in page
    record = study / "results/generate/tiny-qwen-s/rtn/w3/arithmetic.record.json"
    told = json.loads(record.read_text())
    assert told["facts"]["conditions"]["engine"].startswith("vllm")
    told["facts"]["conditions"] |= {"engine": "vllm 0.1", "prompts": "others"}
    record.unlink()  # a hard link
    record.write_text(json.dumps(told))
    copy.build("--cores", "2", "--forcerun", "efficiency", "--", table, "results/report/timed/index.html")
    assert pd.read_parquet(study / table)["differs"].map(list).tolist() == [[], ["engine", "prompts"]]
    assert "not drawn as the baseline: engine, prompts" in (study / "results/report/timed/index.html").read_text()
    looked = pd.read_parquet(study / "results/report/timed/magnitudes.parquet")
    assert set(looked["model"]) == {"tiny-qwen-s"}
    assert set(looked["corpus"]) == {"plain"}
    assert looked.groupby("layer")["place"].nunique().tolist() == [len(PLACES)] * 4
