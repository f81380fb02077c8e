"""Architectures beyond those of the study: what takes them, on random models and in vLLM, and what is refused."""

import json
import os
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from scripts import architectures
from scripts.architectures import EXPERTS, KNOWN, PLAIN, ROUNDED_ONLINE
from scripts.models import arithmetic
from scripts.models._facts import facts_of, reader
from scripts.quantize import gptq
from scripts.quantize._names import LEFT, LINEAR_WEIGHT
from scripts.report import efficiency
from scripts.run.config import load
from scripts.run.errors import UserError
from scripts.run.geometry import check_geometry
from scripts.run.read import read_yaml
from tests.conftest import ROOT
from tests.test_agreement import ALL, EXACT, agree, quantized, reference, served

SIZES = {
    "vocab_size": 128, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 2,
    "eos_token_id": 3,
}  # fmt: skip
OF_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
WINDOW = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
LINEAR_ATTENTION = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "shared_expert_intermediate_size": 64, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
# What sets an architecture apart, where its defaults would hide it.
APART: dict[str, dict[str, Any]] = {
    "mistral": {},
    "granite": {
        "embedding_multiplier": 2.0, "residual_multiplier": 0.7, "attention_multiplier": 0.3, "logits_scaling": 0.5,
    },
    "smollm3": {"no_rope_layers": [1, 0], "tie_word_embeddings": True},
    "phi3": {"tie_word_embeddings": False},
    "glm4": {"partial_rotary_factor": 0.5, "attention_bias": True},
    "olmo3": WINDOW,
    "gemma3_text": WINDOW,
    "qwen3_moe": OF_EXPERTS,
    # Its first layer has no experts; all experts of the second are shared out in one group.
    "glm4_moe": OF_EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "qwen3_next": OF_EXPERTS | LINEAR_ATTENTION,
    "gpt_oss": OF_EXPERTS | WINDOW,
}  # fmt: skip
ATTEND_DIFFERENTLY = ["olmo3", "gemma3_text", "gpt_oss", "qwen3_next"]
# One scheme of each quantizer; the transforms of those with a twin in EXACT are seen to change nothing by themselves.
OF_QUANTIZER = {
    "rtn": ["rtn/w4a4kv4"], "gptq": ["gptq/w4g32"], "awq": ["awq/w4g32", "awq/exact"], "mxfp4": ["mxfp4/w4a4kv4"],
    "smoothquant": ["smoothquant/w8a8kv8", "smoothquant/exact"], "quarot": ["quarot/w4a4kv4", "quarot/exact"],
    "flatquant": ["flatquant/w4a4kv4", "flatquant/exact"], "kvquant": ["kvquant/kv4"],
}  # fmt: skip
# What a minute allows; `make check-architectures` sees the whole table.
SOME = {
    "mistral": ["flatquant/w4a4kv4"], "granite": ["quarot/exact", "kvquant/kv4"], "smollm3": ["quarot/w4a4kv4"],
    "phi3": ["rtn/w4a4kv4", "awq/exact"], "glm4": ["smoothquant/exact", "kvquant/kv4"], "olmo3": ["mxfp4/w4a4kv4"],
    "gemma3_text": ["awq/exact"], "qwen3_moe": ["rtn/kv4", "awq/exact"], "gpt_oss": ["awq/w4g32"],
}  # fmt: skip
WHOLE = "WHOLE_TABLE" in os.environ
NOT_SERVED = ["qwen3_next"]  # by vLLM on a CPU: a cache of its kind asks for chunked prefill


def random_model(architecture: str, **changes: Any) -> PreTrainedModel:
    """Two layers, with norms of no special form."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SIZES | APART.get(architecture, {}) | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return tmp_path / "results/models/tiny/checkpoint"


def save(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    arithmetic.build_tokenizer().save_pretrained(folder)
    folder.with_name("manifest.json").write_text("{}")
    return folder


def calibration(path: Path, sequences: int = 16, length: int = 64) -> Path:
    ids = torch.randint(5, 100, (sequences, length), generator=torch.Generator().manual_seed(0)).tolist()
    pq.write_table(pa.table({"input_ids": ids}), path)
    return path


def quantize(model: Path, quantizer: str, *calibration: Path, **settings: object) -> Path:
    """By the quantizer's main with its store, which asks whether it knows the model."""
    checkpoint = model.parents[2] / f"quantize/tiny/{quantizer}/s/checkpoint"
    main = import_module(f"scripts.quantize.{quantizer}").main.registered_commands[0].callback.__wrapped__
    named = {"calibration": list(calibration)} if calibration else {}
    main(model=model, checkpoint=checkpoint, manifest=checkpoint.with_name("manifest.json"), settings=settings, **named)
    return checkpoint


def check_rounded(model: Path, checkpoint: Path, *, scaled: bool = False) -> None:
    """All linear layers of the blocks and all experts; no router and nothing else, where nothing is `scaled`.

    It is nearly the same model.
    """
    before, after = (load_file(path / "model.safetensors") for path in (model, checkpoint))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = {name for name in before if "layers." in name and before[name].dim() > 1 and "bias" not in name}
    rounded = {
        name for name in matrices if not re.search(r"mlp\.(gate|router|shared_expert_gate)\.|conv1d|_ba\.", name)
    }
    assert rounded == {name for name in matrices if LINEAR_WEIGHT.fullmatch(name)}
    assert matrices - rounded == {name for name in matrices if LEFT.fullmatch(name)}
    assert changed >= rounded if scaled else changed == rounded
    loaded, full = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (checkpoint, model)
    )
    ids = torch.arange(10, 40)[None]
    assert 0 < (loaded(ids).logits - full(ids).logits).abs().mean() < 0.2


@pytest.mark.parametrize("architecture", APART)
def test_rounding_takes_every_architecture(folder: Path, architecture: str):
    """What was written is looked at by the quantizer itself, against transformers' own list of linear layers."""
    model = save(folder, random_model(architecture))
    check_rounded(model, quantize(model, "rtn", bits=4, group_size=32))


@pytest.mark.parametrize("architecture", [a for a in APART if a not in PLAIN and "gptq" in KNOWN[a]])
def test_gptq_takes_them_and_calibrates_on_what_the_model_computes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
):
    """Windows and linear attention too: what the library runs is bit for bit the model that is written."""
    seen = []

    class Looking(gptq.Keeper):
        def __init__(self, network: nn.Module, *sizes: int) -> None:
            super().__init__(network, *sizes)
            network.model.layers[1].register_forward_hook(lambda *call: seen.append(call[2].clone()))

    monkeypatch.setattr(gptq, "Keeper", Looking)
    # Weights that make the mask matter, and three layers, so that the second's output is what later ones see.
    network = random_model(architecture, num_hidden_layers=3, **_third_layer(architecture))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1 and "layers" in name:
                parameter.mul_(4)
    model = save(folder, network)
    settings = read_yaml(ROOT / "config/quantizers.yaml")["gptq"]["defaults"] | {"bits": 8, "group_size": 32}
    text = calibration(tmp_path / "calibration.parquet")
    checkpoint = quantize(model, "gptq", text, **settings)
    written = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    found = []
    written.model.layers[1].register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        written.model(torch.tensor(pq.read_table(text)["input_ids"].to_pylist()[-8:]), use_cache=False)
    assert any(torch.allclose(outputs, found[0], atol=1e-4) for outputs in seen if outputs.shape == found[0].shape)


def _third_layer(architecture: str) -> dict[str, Any]:
    apart = APART[architecture]
    return {name: [*apart[name], apart[name][0]] for name in ("layer_types", "no_rope_layers") if name in apart}


@torch.no_grad()
@pytest.mark.parametrize("architecture", APART)
def test_awq_scales_and_clips_all_of_them_and_changes_nothing_by_it(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, architecture: str
):
    """22 bits: what is left is the scales, which the layers before take back."""
    network = random_model(architecture)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            parameter[::7] *= 8  # channels that a scale pays for
    model, text = save(folder, network), calibration(tmp_path / "calibration.parquet")
    checkpoint = quantize(model, "awq", text, bits=22, group_size=32)
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.arange(10, 40)[None]
    assert (loaded(ids).logits - network(ids).logits).abs().max() <= 1e-3
    before, after = (load_file(path / "model.safetensors") for path in (model, checkpoint))
    changed = {name.split(".", 3)[-1] for name in before if (before[name] - after[name]).abs().max() > 1e-3}
    routers = {"mlp.gate.weight", "mlp.router.weight", "mlp.shared_expert_gate.weight", "linear_attn.in_proj_ba.weight"}
    assert changed & routers == ({name.split(".", 3)[-1] for name in before} & routers)
    scaled = {"olmo3": "mlp.up_proj", "gpt_oss": "self_attn.q_proj", "phi3": "self_attn.qkv_proj"}
    assert f"{scaled.get(architecture, 'self_attn.k_proj')}.weight" in changed
    assert ("input_layernorm.weight" in changed) == (architecture != "olmo3")
    assert "no calibration token" not in capfd.readouterr().out
    check_rounded(model, quantize(model, "awq", text, bits=8, group_size=32), scaled=True)


@torch.no_grad()
def test_awq_of_experts_is_that_of_a_plain_layer_with_one(folder: Path, tmp_path: Path):
    """One expert that every token reaches is an MLP: the same weights come out, bit for bit."""
    moe = random_model(
        "qwen3_moe", num_experts=1, num_local_experts=1, num_experts_per_tok=1, moe_intermediate_size=256
    )
    plain = random_model("qwen3")
    tensors = {name.replace("mlp.experts.0.", "mlp."): x for name, x in _stored(moe, tmp_path / "m").items()}
    plain.load_state_dict({name: x for name, x in tensors.items() if "mlp.gate.weight" not in name})
    text = calibration(tmp_path / "calibration.parquet")
    found = []
    for model in (moe, plain):
        found.append(load_file(quantize(save(folder, model), "awq", text, bits=3, group_size=32) / "model.safetensors"))
        shutil.rmtree(folder.parents[2])  # with the store, which takes both models for one
    experts = {name.replace("mlp.experts.0.", "mlp."): x for name, x in found[0].items()}
    assert all(torch.equal(x, experts[name]) for name, x in found[1].items())


def _stored(model: PreTrainedModel, folder: Path) -> dict[str, torch.Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_awq_rounds_experts_without_data_and_names_them(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture):
    model = save(folder, random_model("qwen3_moe", num_experts=32, num_local_experts=32, num_experts_per_tok=1))
    checkpoint = quantize(model, "awq", calibration(tmp_path / "c.parquet", 1, 12), bits=4, group_size=32)
    assert re.search(r"layer 0: no calibration token reached \d+ matrices of experts", capfd.readouterr().out)
    check_rounded(model, checkpoint, scaled=True)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "gpt_oss"])
def test_experts_without_data_are_rounded_to_nearest_and_named(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, architecture: str
):
    model = save(folder, random_model(architecture, num_experts=32, num_local_experts=32, num_experts_per_tok=1))
    settings = read_yaml(ROOT / "config/quantizers.yaml")["gptq"]["defaults"] | {"bits": 4, "group_size": 32}
    checkpoint = quantize(model, "gptq", calibration(tmp_path / "c.parquet", 1, 12), **settings)
    assert re.search(r"layer 0: no calibration token reached \d+ matrices of experts", capfd.readouterr().out)
    check_rounded(model, checkpoint)
    assert not (checkpoint / "packed").exists()


def test_bits_count_what_stays_in_full_precision(folder: Path, capfd: pytest.CaptureFixture):
    """Routers and gates: against a count by hand."""
    model = save(folder, random_model("qwen3_next"))
    checkpoint = quantize(model, "rtn", bits=4, group_size=32)
    told = capfd.readouterr().out
    assert "linear_attn.in_proj_ba.weight" in told
    assert "mlp.gate.weight" in told
    sizes = json.loads(checkpoint.with_name("manifest.json").read_text())["sizes"]
    before = load_file(model / "model.safetensors")
    rounded = sum(x.numel() for name, x in before.items() if LINEAR_WEIGHT.fullmatch(name))
    left = sum(x.numel() for name, x in before.items() if LEFT.fullmatch(name))
    assert left > 0
    assert sizes["weight_bits"] == pytest.approx(((4 + 16 / 32) * rounded + 32 * left) / (rounded + left))
    others = sum(x.numel() for x in before.values()) - rounded
    assert sizes["weight_bytes"] == pytest.approx((4.5 * rounded + 32 * others) / 8, abs=1)
    facts = facts_of(model / "config.json", ["model.safetensors"], reader(model), "here")
    # What the engine rounds itself has no files that tell: the facts do, scales by the shapes of attention.
    _, size = efficiency.weight_size(facts, {"bits": 8}, mx=False)
    assert size == pytest.approx(
        (8 * facts["linear_parameters"] + 32 * (facts["parameters"] - facts["linear_parameters"])) / 8, rel=0.1
    )
    assert facts["linear_parameters"] == rounded + left
    assert facts["moe_intermediate_size"] == 64


def test_groups_that_do_not_divide_an_expert_are_refused_before_anything_is_computed(folder: Path):
    facts = facts_of(
        save(folder, random_model("qwen3_moe")) / "config.json", ["model.safetensors"], reader(folder), "here"
    )
    check_geometry("rtn/w4g32", {"bits": 4, "group_size": 32}, facts)
    with pytest.raises(UserError, match=r"group_size 128, which does not divide moe_intermediate_size, 64"):
        check_geometry("rtn/w4g128", {"bits": 4, "group_size": 128}, facts)


def taken(architecture: str) -> tuple[str, ...]:
    """The quantizers that take it, in the order of OF_QUANTIZER where that is all."""
    return tuple(OF_QUANTIZER) if architecture in PLAIN else KNOWN.get(architecture, architectures.WEIGHTS)


def every_scheme(architecture: str) -> list[str]:
    """One of all quantizers that know the architecture, of which vLLM may serve it on a CPU."""
    schemes = [scheme for quantizer in taken(architecture) for scheme in OF_QUANTIZER[quantizer]]
    if architecture in EXPERTS:
        schemes[0] = "rtn/kv4" if architecture in ROUNDED_ONLINE else "rtn/w4g32"
    # These texts are not of one length, which GPTQ needs here; it is seen above.
    return [name for name in schemes if name != "gptq/w4g32" or architecture not in ATTEND_DIFFERENTLY]


def test_vllm_computes_what_the_quantizers_meant(tmp_path: Path):
    """Transforms change nothing, and what is rounded is what was meant: by the engine, of models of each kind."""
    chosen = {name: every_scheme(name) for name in APART if name not in NOT_SERVED} if WHOLE else SOME
    for architecture, schemes in chosen.items():
        (tmp_path / architecture).mkdir()
        quantized(tmp_path / architecture, random_model(architecture), schemes)
    names = [f"{architecture}/{scheme}" for architecture in chosen for scheme in chosen[architecture]]
    found = served(tmp_path, names, 1)
    for name in names:
        architecture, scheme = name.split("/", 1)
        rounds = ALL.get(scheme, {}).keys() & {"activation_bits", "kv_bits"}
        assert agree(found[name], reference(tmp_path / name), exact=not rounds, share=0.15), name
        if scheme in EXACT:
            assert agree(found[name], reference(tmp_path / architecture / "model"), exact=True), name
        elif rounds:
            assert not agree(found[name], reference(tmp_path / name, rounded=False), share=0.5), name


@pytest.mark.parametrize(
    ("quantizer", "architecture"),
    [(q, a) for a in APART for q in OF_QUANTIZER if q not in taken(a)],
)
def test_a_quantizer_takes_only_what_it_knows(folder: Path, quantizer: str, architecture: str):
    """Gemma's norms multiply by one more than their weights: what is fused into them would be another model."""
    model = save(folder, random_model(architecture))
    with pytest.raises(UserError, match=rf"{quantizer} does not know the parts of {architecture}: take rtn, "):
        quantize(model, quantizer, bits=4, group_size=32)


@pytest.mark.parametrize("architecture", ["deepseek_v3", "gemma3"])
def test_parts_that_none_knows_are_refused(architecture: str):
    with pytest.raises(UserError, match=f"a {architecture} model, which no quantizer of ours knows: take published"):
        architectures.check_architecture("rtn", {"bits": 4}, architecture)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("qwen3_moe", {"activation_bits": 8}),
        ("gpt_oss", {"packed": True}),
        ("qwen3_next", {"kv_bits": 4}),
        ("olmo", {"kv_bits": 4}),
    ],
)
def test_rounding_that_was_not_seen_to_be_right_is_refused(architecture: str, settings: dict):
    architectures.check_architecture("rtn", {"bits": 4}, architecture)
    with pytest.raises(UserError, match=r"experts, or pack them|never seen to be right"):
        architectures.check_architecture("rtn", {"bits": 4} | settings, architecture)


def test_the_table_of_the_readme_is_this_one():
    rows = re.findall(r"^\| (.+?) \| `model_type` (.+?) \| (.+?) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    stated = {
        kind.strip("`"): set(re.findall(r"`(\w+)`", named)) if named != "all" else {*OF_QUANTIZER}
        for _, kinds, named in rows
        for kind in kinds.split(", ")
    }
    assert stated == {kind: {*taken(kind)} for kind in [*PLAIN, *KNOWN]}


@pytest.mark.parametrize(
    ("model", "scheme", "message"),
    [
        (
            "phi-4-reasoning",
            "quarot/w4a4kv4",
            "phi-4-reasoning with quarot/w4a4kv4 does not know the parts of phi3: take",
        ),
        ("phi-4-reasoning", "awq/w4g128", None),
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
        "corpora": {"pile": corpus, "reasoning": corpus},
    }
    if message is None:
        assert load(config, ["config/config.yaml"]).cells("s") == [(model, "none/full"), (model, scheme)]
        return
    with pytest.raises(UserError, match=message):
        load(config, ["config/config.yaml"])
