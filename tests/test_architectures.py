"""Architectures beyond those of the study: what takes them, on random tiny models, and what is refused in words."""

import json
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from scripts import architectures
from scripts.models import arithmetic
from scripts.quantize._names import LINEAR_WEIGHT
from scripts.run.config import load
from scripts.run.errors import UserError
from scripts.run.read import read_yaml
from tests.conftest import ROOT

SIZES = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
NAMED = ["qwen2", "qwen3", "llama", "mistral", "smollm3", "olmo3", "gemma3_text", "granite"]
OTHERWISE = ["phi3", "glm4", "qwen3_moe", "gpt_oss"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return tmp_path / "results/models/tiny/checkpoint"


def make(folder: Path, architecture: str) -> Path:
    """A random model of two layers."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SIZES, **(EXPERTS if architecture in OTHERWISE[2:] else {}))
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    arithmetic.build_tokenizer().save_pretrained(folder)
    folder.with_name("manifest.json").write_text("{}")
    return folder


def quantize(model: Path, quantizer: str, *calibration: Path, **settings: object) -> Path:
    checkpoint = model.parents[2] / f"quantize/tiny/{quantizer}/s/checkpoint"
    main = import_module(f"scripts.quantize.{quantizer}").main.registered_commands[0].callback.__wrapped__
    named = {"calibration": list(calibration)} if calibration else {}
    main(model=model, checkpoint=checkpoint, manifest=checkpoint.with_name("manifest.json"), settings=settings, **named)
    return checkpoint


def check_rounded(model: Path, checkpoint: Path) -> None:
    """All linear layers of the blocks and nothing else; it is still nearly the same model."""
    loaded, full = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (checkpoint, model)
    )
    before = dict(full.named_parameters())
    changed = {name for name, weight in loaded.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if LINEAR_WEIGHT.fullmatch(name)}
    assert len(changed) == 14
    ids = torch.arange(10, 40)[None]
    assert 0 < (loaded(ids).logits - full(ids).logits).abs().max() < 1


@pytest.mark.parametrize("architecture", NAMED)
def test_rounding_takes_every_architecture_with_the_usual_names(folder: Path, architecture: str):
    """What was written is looked at by the quantizer itself, against transformers' own list of linear layers."""
    model = make(folder, architecture)
    check_rounded(model, quantize(model, "rtn", bits=4, group_size=32))


@pytest.mark.parametrize("architecture", NAMED[3:])
def test_so_does_gptq(folder: Path, tmp_path: Path, architecture: str):
    model = make(folder, architecture)
    ids = torch.randint(5, 100, (16, 64), generator=torch.Generator().manual_seed(0)).tolist()
    pq.write_table(pa.table({"input_ids": ids}), tmp_path / "calibration.parquet")
    settings = read_yaml(ROOT / "config/quantizers.yaml")["gptq"]["defaults"] | {"bits": 4, "group_size": 32}
    check_rounded(model, quantize(model, "gptq", tmp_path / "calibration.parquet", **settings))


@pytest.mark.parametrize("architecture", OTHERWISE)
def test_fused_layers_and_experts_are_refused(folder: Path, architecture: str):
    model = make(folder, architecture)
    with pytest.raises(UserError, match=r"would not be quantized|fused layers or experts"):
        quantize(model, "rtn", bits=4, group_size=32)
    with pytest.raises(UserError, match=f"a {architecture} model, whose fused layers or experts"):
        architectures.check_architecture("rtn", {"bits": 4}, architecture)
    assert json.loads((model / "config.json").read_text())["model_type"] == architecture


@pytest.mark.parametrize("quantizer", ["awq", "smoothquant", "quarot", "flatquant", "kvquant", "mxfp4", "rtn"])
def test_who_knows_norms_or_attention_takes_only_what_it_knows(folder: Path, quantizer: str):
    """Gemma's norms multiply by one more than their weights: what is fused into them would be another model."""
    model = make(folder, "gemma3_text")
    with pytest.raises(UserError, match=rf"{quantizer} knows .*llama, not of gemma3_text: take rtn"):
        quantize(model, quantizer, bits=4, group_size=32, activation_bits=8, row_groups=2)


@pytest.mark.parametrize(
    ("model", "scheme", "message"),
    [
        ("phi-4-reasoning", "rtn/w4g32", "phi-4-reasoning with rtn/w4g32 would round a phi3 model, whose fused"),
        ("smollm3-3b", "awq/w4g128", "smollm3-3b with awq/w4g128 knows the norms .*, not of smollm3: take rtn"),
        ("smollm3-3b", "rtn/w4g32", None),
        ("phi-4-reasoning", "vllm/kv8-fp8", None),
        ("qwen3-8b", "published/fp8", None),
    ],
)
def test_a_study_is_refused_as_it_is_read(
    monkeypatch: pytest.MonkeyPatch, model: str, scheme: str, message: str | None
):
    monkeypatch.chdir(ROOT)
    suite = {"benchmarks": ["gsm8k"], "seeds": [1], "temperature": 0.6, "top_p": 0.95, "max_model_len": 4096}
    corpus = {"text": "resources/calibrate/plain.txt", "sequences": 8, "length": 64, "seed": 1}
    config = {
        "studies": {"s": {"suites": ["m"], "grid": [{"models": [model], "schemes": ["none/full", scheme]}]}},
        "suites": {"m": suite},
        "corpora": {"pile": corpus},
    }
    if message is None:
        assert load(config, ["config/config.yaml"]).cells("s") == [(model, "none/full"), (model, scheme)]
        return
    with pytest.raises(UserError, match=message):
        load(config, ["config/config.yaml"])
