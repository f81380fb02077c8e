"""Quantizers do what their papers say: transforms change nothing by themselves, and rounding hurts less after them."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from scripts.fakequant.reference import attach
from scripts.fakequant.rounding import fake_quantize
from scripts.fakequant.settings import ROW_PARALLEL
from scripts.quantize import awq
from scripts.quantize._gptq import clipped_grid, gptq, inverse_cholesky
from scripts.quantize._layers import linears, quantize_layers, sequence
from scripts.quantize.kvquant import key_grids
from scripts.quantize.quarot import random_signs, rotate, rotate_layer
from scripts.quantize.rtn import quantize_weight
from scripts.quantize.smoothquant import norms, smooth
from scripts.run.errors import UserError
from tests.bench.rotate import make_layer, rotate_densely
from tests.tiny import SHAPES, random_model, solved, trained

ROW_GROUPS = 2
ONLINE = {"row_groups": ROW_GROUPS, "hadamard": ["down_proj"]}
SOLVED = solved(36)
EVALUATION, CALIBRATION = SOLVED[:12], SOLVED[12:]


def logits(model: PreTrainedModel, sequences: list[list[int]] = EVALUATION) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in sequences])


def divergence(model: PreTrainedModel, full: torch.Tensor, sequences: list[list[int]] = EVALUATION) -> float:
    """Mean Kullback-Leibler divergence of the next token's distribution from full precision's, in nats."""
    expected, found = full.log_softmax(-1), logits(model, sequences).log_softmax(-1)
    return (expected.exp() * (expected - found)).sum(-1).mean().item()


def add_outliers(model: PreTrainedModel) -> None:
    """Some channels of each norm's output 150 times as large, the weights that read them as much smaller: exact."""
    for layer in model.model.layers:
        for norm, following in norms(layer):
            for channel in (3, 17, 40):
                norm.weight.data[channel] *= 150
                for linear in following:
                    linear.weight.data[:, channel] /= 150


def bias_keys(model: PreTrainedModel) -> None:
    """A large bias on the keys' channels that RoPE turns slowest, where attention hardly sees what all keys share."""
    for layer in model.model.layers:
        bias = layer.self_attn.k_proj.bias.data.unflatten(0, (-1, 32))
        bias[:, 15] += 60
        bias[:, 31] -= 60


def cache(bits: int, clip: float, *, hadamard: bool) -> dict:
    return {"keys": {"bits": bits, "clip": clip, "hadamard": hadamard}, "values": {"bits": bits, "clip": clip}}


def activations(bits: int, clip: float) -> dict:
    return {"row_groups": ROW_GROUPS, "activations": {"bits": bits, "symmetric": False, "clip": clip}}


def rtn(model: PreTrainedModel, bits: int) -> None:
    for name, linear in model.named_modules():
        if isinstance(linear, nn.Linear) and ".layers." in name:
            groups = ROW_GROUPS if name.rsplit(".", 1)[-1] in ROW_PARALLEL else 1
            linear.weight.data = quantize_weight(linear.weight.data, bits, linear.in_features // groups)
    attach(model, activations(bits, 1.0) | cache(bits, 1.0, hadamard=False), {})


def smoothquant(model: PreTrainedModel, bits: int) -> None:
    smooth(model, CALIBRATION, 0.85, "smooth")
    quantize_layers(model, CALIBRATION, bits, ROW_GROUPS, "GPTQ")
    attach(model, activations(bits, 1.0) | cache(bits, 1.0, hadamard=False), {})


def quarot(model: PreTrainedModel, bits: int) -> None:
    rotate(model, 0, ROW_GROUPS)
    attach(model, ONLINE, {})
    quantize_layers(model, CALIBRATION, bits, ROW_GROUPS, "GPTQ")
    for module in model.modules():
        module._forward_pre_hooks.clear()
    attach(model, ONLINE | activations(bits, 0.9) | cache(bits, 0.95, hadamard=True), {})


def kvquant(model: PreTrainedModel, bits: int, place: str) -> None:
    grids = key_grids(model, CALIBRATION, bits, place, "keys")
    values = cache(bits, 1.0, hadamard=False)["values"]
    attach(model, {"keys_before_rope": {"bits": bits, "place": place}, "values": values}, grids)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "trained qwen2, tied": lambda: trained("tiny-qwen-s"),
    "trained llama": lambda: trained("tiny-llama-m"),
    **{f"random {shape}": lambda shape=shape: random_model(shape) for shape in SHAPES},
}


@pytest.mark.parametrize("name", MODELS)
def test_transforms_change_nothing_by_themselves(name: str):
    model = MODELS[name]()
    full = logits(model)
    smoothed = copy.deepcopy(model)
    smooth(smoothed, CALIBRATION[:4], 0.85, "smooth")
    assert (logits(smoothed) - full).abs().max() <= 1e-3
    rotate(model, 0, ROW_GROUPS)
    assert not model.config.tie_word_embeddings
    attach(model, ONLINE | {"keys": cache(16, 1.0, hadamard=True)["keys"]}, {})
    assert (logits(model) - full).abs().max() <= 1e-3


def test_the_rotation_is_that_of_dense_products():
    fast = make_layer(320, 1152, 5, 1)
    dense, signs = copy.deepcopy(fast), random_signs(320, 0)
    rotate_layer(fast, signs, 4)
    rotate_densely(dense, signs, 4)
    for (name, found), expected in zip(fast.named_parameters(), dense.parameters(), strict=True):
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max(), name


@pytest.mark.parametrize("shape", SHAPES)
def test_every_quantizer_takes_every_shape(shape: str):
    """At eight bits all stay near full precision, on any number of heads."""
    model = random_model(shape)
    full = logits(model)
    places = ["after_norm"] if shape == "qwen3" else ["before_bias", "after_bias"]
    methods = [lambda m: rtn(m, 8), lambda m: smoothquant(m, 8), lambda m: quarot(m, 8)]
    methods += [lambda m, place=place: kvquant(m, 8, place) for place in places]
    for method in methods:
        quantized = copy.deepcopy(model)
        method(quantized)
        assert 0 < divergence(quantized, full) < 0.02


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["tiny-qwen-m", "tiny-llama-m"])
def test_smoothing_and_rotating_tame_outliers(name: str, bits: int):
    model = trained(name)
    full = logits(model)
    add_outliers(model)
    assert (logits(model) - full).abs().max() <= 1e-3
    found = {}
    for method in (rtn, smoothquant, quarot):
        quantized = copy.deepcopy(model)
        method(quantized, bits)
        found[method] = divergence(quantized, full)
    assert found[smoothquant] < found[rtn]
    assert found[quarot] < found[rtn]


def test_keys_are_rounded_before_a_large_bias():
    """The collapse of the paper's Qwen 1.5B and 7B: rotation spreads the bias over all channels of a head."""
    model = trained("tiny-qwen-m")
    bias_keys(model)
    full = logits(model)
    found = {}
    for name, method in {
        "before": lambda m: kvquant(m, 4, "before_bias"),
        "after": lambda m: kvquant(m, 4, "after_bias"),
        "quarot": lambda m: attach(m, cache(4, 0.95, hadamard=True), {}),
    }.items():
        quantized = copy.deepcopy(model)
        method(quantized)
        found[name] = divergence(quantized, full)
    assert found["before"] < found["after"]
    assert found["quarot"] > 10 * found["before"]


def test_gptq_makes_good_what_rounding_breaks():
    """Less error on its inputs than rounding to the same grid, and none of its own at 16 bits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 96, generator=generator) @ torch.randn(96, 96, generator=generator)
    weight = torch.randn(32, 96, generator=generator)
    hessian = x.T @ x

    def error(rounded: torch.Tensor) -> float:
        return ((rounded - weight) @ x.T).pow(2).sum().item()

    for groups in (1, 2, 4):
        parts = weight.unflatten(1, (groups, -1))
        nearest = fake_quantize(parts, *clipped_grid(parts, 4), 4).flatten(1)
        found = gptq(weight, hessian, 4, groups)
        assert error(found) < 0.6 * error(nearest)
        assert all(len(group.unique()) <= 16 for row in found.unflatten(1, (groups, -1)) for group in row)
        torch.testing.assert_close(gptq(weight, hessian, 16, groups), weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gptq_is_that_of_a_plain_loop(groups: int):
    """Column by column, each row group's grid from the weights as the blocks of 128 before it have left them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 160, generator=generator) @ torch.randn(160, 160, generator=generator)
    weight, hessian = torch.randn(8, 160, generator=generator), x.T @ x
    factor, left, expected = inverse_cholesky(hessian), weight.clone(), torch.empty(8, 160)
    for column in range(160):
        if column % 128 == 0:
            at_block = left.clone()
        if column % (160 // groups) == 0:
            scale, zero = clipped_grid(at_block[:, column : column + 160 // groups], 3)
        value = left[:, column : column + 1]
        expected[:, column : column + 1] = rounded = fake_quantize(value, scale, zero, 3)
        left[:, column:] -= (value - rounded) / factor[column, column] * factor[column, column:]
    torch.testing.assert_close(gptq(weight, hessian, 3, groups), expected, atol=1e-3, rtol=0)


def test_damping_grows_until_the_hessian_has_a_factor():
    hessian = torch.diag(torch.tensor([1.0] * 63 + [-0.0105]))
    assert inverse_cholesky(hessian).isfinite().all()  # at the second attempt
    with pytest.raises(torch.linalg.LinAlgError, match="whatever the damping"):
        inverse_cholesky(torch.diag(torch.tensor([1.0] * 63 + [-5.0])))


@pytest.mark.parametrize("value", [float("nan"), 3e19])
def test_what_is_not_finite_is_refused_by_layer(value: float):
    model = trained("tiny-qwen-s")
    model.model.layers[2].input_layernorm.weight.data[5] = value
    for method in (
        lambda: quantize_layers(model, CALIBRATION[:2], 8, 1, "somewhere"),
        lambda: smooth(model, CALIBRATION[:2], 0.85, "somewhere"),
        lambda: awq.quantize_layers(model, CALIBRATION[:2], 8, 32, "somewhere"),
    ):
        with pytest.raises(UserError, match=r"somewhere: layer 2"):
            method()


def test_gptq_passes_over_channels_that_are_never_used():
    hessian = torch.eye(8)
    hessian[3, 3] = 0
    found = gptq(torch.ones(4, 8), hessian, 4, 1)
    assert found[:, 3].eq(0).all()
    assert found[:, :3].eq(1).all()


def test_every_linear_layer_of_a_block_is_calibrated():
    layer = random_model("qwen3").model.layers[0]
    assert sorted(linears(layer)) == sorted(name for names in sequence(layer) for name in names)
