"""Weights too small for a scale and at the ends of a dtype stay numbers; activations that are none end in words."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from scripts.fakequant.mxfp4 import round_mxfp4
from scripts.quantize._gptq import gptq
from scripts.quantize._packed import pack
from scripts.quantize._parameters import as_stored
from scripts.quantize.awq import round_weight
from scripts.quantize.gptq import scales
from scripts.quantize.rtn import quantize_weight
from scripts.run.errors import UserError
from tests.test_agreement import quantized
from tests.test_awq import unpacked
from tests.tiny import trained

TINY = {
    torch.float16: [2e-7, 6e-8, 1e-6, 3e-6],
    torch.bfloat16: [1e-38, 1e-40, 3e-20, 2e-7],
    torch.float32: [1e-45, 1e-38, 2e-7, 1e-9],
}
ROUND = {
    "rtn": lambda weight: quantize_weight(weight, 4, 32),
    "awq": lambda weight: round_weight(weight, 4, 32),
    "gptq": lambda weight: gptq(weight, torch.eye(64), 4, 2),
    "mxfp4": round_mxfp4,
}
SCHEMES = ["rtn/w4g32", "mxfp4/w4a4kv4", "gptq/w4g32", "awq/w4g32", "smoothquant/w8a8kv8", "quarot/w4a4kv4"]
CALIBRATED = ["gptq/w4g32", "awq/w4g32", "smoothquant/w8a8kv8", "quarot/w4a4kv4", "flatquant/w4a4kv4", "kvquant/kv4"]


def fill(weight: torch.Tensor, values: list[float]) -> None:
    """In a row for each value: it once or twice in each group of 32, with zeros; then some such rows at random."""
    generator = torch.Generator().manual_seed(0)
    for row, value in enumerate(values):
        weight[row] = 0
        weight[row, ::32], weight[row, 1::32] = value, -value / 3
        weight[row + len(values)] = torch.randn(weight.shape[1], generator=generator) * value


@pytest.mark.parametrize("dtype", TINY)
@pytest.mark.parametrize("method", ROUND)
def test_a_scale_below_the_smallest_number_gives_numbers(method: str, dtype: torch.dtype):
    weight = torch.zeros(16, 64, dtype=dtype)
    fill(weight, TINY[dtype])
    rounded = as_stored(ROUND[method](weight), dtype)
    assert rounded.isfinite().all()
    assert ((rounded - weight).abs() <= weight.abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize("method", ROUND)
def test_the_ends_of_float16_stay_numbers(method: str):
    """Of an even number of levels one end lies beyond the largest weight."""
    weight = torch.zeros(2, 64, dtype=torch.float16)
    weight[0, 0], weight[0, 1], weight[1, 40] = 65504, -65504, -65504
    rounded = as_stored(ROUND[method](weight), torch.float16)
    assert rounded.isfinite().all()
    assert ((rounded - weight).abs() <= 65504 / 4).all()


@torch.no_grad()
def with_tiny_weights(dtype: torch.dtype) -> PreTrainedModel:
    model = trained("tiny-qwen-s").to(dtype)
    for layer in model.model.layers:
        for linear in (layer.mlp.gate_proj, layer.self_attn.q_proj, layer.mlp.down_proj, layer.self_attn.v_proj):
            fill(linear.weight, TINY[dtype])
    return model


@pytest.mark.parametrize("dtype", TINY)
def test_every_quantizer_writes_numbers_of_tiny_weights(tmp_path: Path, dtype: torch.dtype):
    """Which `finish` looks at; what GPTQ and AWQ pack beside are the same weights, to what the dtype can hold."""
    schemes = [*SCHEMES, "flatquant/w4a4kv4"] if dtype == torch.float16 else ["gptq/w4g32", "awq/w4g32"]
    quantized(tmp_path, with_tiny_weights(dtype), schemes)
    for scheme in ("gptq/w4g32", "awq/w4g32"):
        twin = load_file(tmp_path / scheme / "model.safetensors")
        packed = load_file(tmp_path / scheme / "packed/model.safetensors")
        for name in (name for name in twin if name.endswith("_proj.weight")):
            found, expected = unpacked(packed, name.removesuffix(".weight")).float(), twin[name].float()
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(found, expected, rtol=4 * eps, atol=32 * torch.finfo(dtype).tiny * eps)


@pytest.mark.parametrize("dtype", TINY)
def test_scales_that_float16_has_no_digits_for_are_found(dtype: torch.dtype):
    """Steps of 1e-7 and less, all or few of them in a group; what is found packs the weight."""
    steps = torch.randint(-7, 9, (64, 32), generator=torch.Generator().manual_seed(0)).float()
    steps[1, 2:], steps[1, :2] = 0, torch.tensor([2.0, 5.0])
    steps[2] = 0
    scale = torch.logspace(-5, -9 if dtype != torch.float16 else -6, 64).unsqueeze(1)
    weight = (steps * scale).to(dtype)
    found = scales(weight, scale.half())
    assert found.isfinite().all()
    tensors = pack("x", weight.float(), found, dtype)
    if dtype != torch.float16:  # there the weights themselves have no digits
        torch.testing.assert_close(unpacked(tensors, "x"), weight, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_a_weight_that_is_no_multiple_of_its_scale_is_not_packed():
    weight = torch.arange(32.0).unsqueeze(0)
    for scale in (torch.ones(1, 1), torch.tensor([[0.7]]), torch.tensor([[torch.nan]])):
        with pytest.raises(UserError, match="x: its weights are not 16 multiples"):
            pack("x", weight, scale, torch.float32)


def columns(modules: list[nn.Linear], channel: int) -> None:
    for module in modules:
        module.weight.data[:, channel] = 0


def damaged(kind: str) -> PreTrainedModel:
    """In layer 2 an activation that is NaN or 3e19; `unseen` where no weight sees it, so that outputs are finite."""
    model = trained("tiny-qwen-s")
    layer = model.model.layers[2]
    attention, mlp = layer.self_attn, layer.mlp
    layer.input_layernorm.weight.data[5] = torch.nan if kind == "nan" else 3e19
    if kind == "unseen":
        columns([attention.q_proj, attention.k_proj, attention.v_proj], 5)
    if kind == "unseen before down_proj":
        layer.input_layernorm.weight.data[5] = 1
        mlp.up_proj.weight.data[7] *= 1e20
        columns([mlp.down_proj], 7)
    return model


@pytest.mark.parametrize("kind", ["nan", "3e19"])
@pytest.mark.parametrize("scheme", CALIBRATED)
def test_activations_that_are_no_numbers_are_refused_by_layer(tmp_path: Path, scheme: str, kind: str):
    with pytest.raises(UserError, match=r"layer 2.* (NaN or infinite|too large to be squared).* damaged, or .*dtype"):
        quantized(tmp_path, damaged(kind), [scheme])
    assert not (tmp_path / scheme).exists()


@pytest.mark.parametrize(
    ("scheme", "kind", "place"),
    [
        ("gptq/w4g32", "unseen", "q_proj"),
        ("gptq/w4g32", "unseen before down_proj", "down_proj"),
        ("awq/w4g32", "unseen", "q_proj"),
        ("smoothquant/w8a8kv8", "unseen before down_proj", "down_proj"),
        ("quarot/w4a4kv4", "unseen before down_proj", "down_proj"),
        ("flatquant/w4a4kv4", "unseen", "qkv_proj"),
    ],
)
def test_inputs_that_cannot_be_squared_are_refused_by_layer(tmp_path: Path, scheme: str, kind: str, place: str):
    """By what squares them, though all that the layer gives is finite."""
    with pytest.raises(UserError, match=f"layer 2: the inputs of {place} are too large to be squared"):
        quantized(tmp_path, damaged(kind), [scheme])
