"""QuaRot's rotation of one decoder layer by fast transforms, beside the same by dense products.

    python -m tests.bench.rotate

A layer of a 32B model's width with random weights in float32, four row groups; both in float64, side by side.
"""

import copy
import time

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config

from scripts.fakequant.hadamard import hadamard_factors
from scripts.quantize._layers import linears
from scripts.quantize.quarot import random_signs, rotate_layer
from tests.bench import size
from tests.tiny import hadamard_matrix

ROW_GROUPS = 4


def make_layer(hidden: int, intermediate: int, heads: int, kv_heads: int) -> nn.Module:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=1,
        num_attention_heads=heads, num_key_value_heads=kv_heads,
    )  # fmt: skip
    layer = AutoModelForCausalLM.from_config(config, dtype=torch.float32).model.layers[0]
    for name, parameter in layer.named_parameters():
        if "norm" in name or name.endswith("bias"):
            nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


@torch.no_grad()
def rotate_densely(layer: nn.Module, signs: torch.Tensor, row_groups: int) -> None:
    """What `rotate_layer` does, as its formulas are written."""
    modules, rotation = linears(layer), signs[:, None] * hadamard_matrix(len(signs))
    head_dim = layer.self_attn.head_dim

    def by_part(x: torch.Tensor, width: int) -> torch.Tensor:
        return (x.unflatten(-1, (-1, width)) @ hadamard_matrix(width)).flatten(-2)

    def put(linear: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)

    for norm, names in (
        (layer.input_layernorm, ("q_proj", "k_proj", "v_proj")),
        (layer.post_attention_layernorm, ("gate_proj", "up_proj")),
    ):
        for name in names:
            put(modules[name], (modules[name].weight.double() * norm.weight.double()) @ rotation)
        norm.weight.fill_(1)
    value, output, down = (modules[name] for name in ("v_proj", "o_proj", "down_proj"))
    put(value, by_part(value.weight.double().T, head_dim).T, by_part(value.bias.double(), head_dim))
    put(output, by_part(rotation.T @ output.weight.double(), head_dim))
    put(down, by_part(rotation.T @ down.weight.double(), down.in_features // row_groups))


def main() -> None:
    sizes = size((5120, 27648, 40, 8), (512, 1152, 4, 2))
    fast = make_layer(*sizes)
    dense, signs = copy.deepcopy(fast), random_signs(sizes[0], 0)
    hadamard_factors(sizes[0])
    seconds = []
    for rotate, layer in ((rotate_layer, fast), (rotate_densely, dense)):
        started = time.monotonic()
        rotate(layer, signs, ROW_GROUPS)
        seconds.append(time.monotonic() - started)
    pairs = zip(fast.parameters(), dense.parameters(), strict=True)
    error = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    print(f"rotating a layer of hidden size {sizes[0]:,}: fast {seconds[0]:.1f} s, dense {seconds[1]:.1f} s")
    print(f"{seconds[1] / seconds[0]:.1f} times as fast (goal: 5), relative difference {error:.0e} (goal: 1e-6)")


if __name__ == "__main__":
    main()
