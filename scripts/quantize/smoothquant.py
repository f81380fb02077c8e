"""SmoothQuant: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models"
(arXiv 2211.10438), Equation 4, folded into the norms before the attention's and the MLP's first layers; then GPTQ.
Scales are in float32 (the study rounds them to bfloat16; either way both sides of a layer have the same).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from scripts.fakequant.settings import write_settings
from scripts.quantize._layers import Run, each_layer, inputs_of, linears, quantize_layers, sequence
from scripts.quantize._rewrite import save_model
from scripts.quantize._scaled import fold
from scripts.quantize._store import Tensors, kept, stored
from scripts.quantize._written import finish, uniform
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import read_rows

FUSED = {"input_layernorm.weight", "post_attention_layernorm.weight"}  # beside the weights that are rounded


def smoothing(inputs: torch.Tensor, weights: torch.Tensor, alpha: float) -> torch.Tensor:
    """Equation 4: `max|X_j|**alpha / max|W_j|**(1 - alpha)` for each input channel j.

    Args:
        inputs: largest magnitude of each input channel, `(in_features,)`.
        weights: `(out_features, in_features)` of all layers that see the input.
        alpha: share of the difficulty that moves into the weights.

    Returns:
        What the input is divided and the weights are multiplied by, `(in_features,)`.
    """
    largest = weights.abs().amax(0).clamp(min=1e-5)
    return (inputs.clamp(min=1e-5) ** alpha / largest ** (1 - alpha)).clamp(min=1e-5)


def norms(layer: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Linear]]]:
    """The layer's norms, each with the linear layers that see what it gives."""
    modules, (attention, _, feed, _) = linears(layer), sequence(layer)
    yield layer.input_layernorm, [modules[name] for name in attention]
    yield layer.post_attention_layernorm, [modules[name] for name in feed]


def smooth(model: PreTrainedModel, sequences: list[list[int]], alpha: float, label: str) -> None:
    """Fold the scales in place: the model computes what it did."""
    for index, (layer, run) in enumerate(each_layer(model, sequences, label)):
        scales = kept(f"smooth{index}", lambda layer=layer, run=run: smoothing_of(layer, run, alpha))
        run.once()
        for position, (norm, following) in enumerate(norms(layer)):
            fold(norm, following, scales[str(position)].to(norm.weight.device))


@torch.no_grad()
def smoothing_of(layer: nn.Module, run: Run, alpha: float) -> Tensors:
    """What `smoothing` gives for each of the layer's norms, by position, from one run in full precision."""
    pairs = list(norms(layer))
    largest = [torch.zeros(linears[0].in_features, device=norm.weight.device) for norm, linears in pairs]

    with ExitStack() as stack:
        for (_, following), seen in zip(pairs, largest, strict=True):

            def see(x: torch.Tensor, seen: torch.Tensor = seen) -> None:
                torch.maximum(seen, x.float().abs().amax(0), out=seen)

            stack.enter_context(inputs_of(following[0], see))
        run()
    return {
        str(position): smoothing(seen, torch.cat([linear.weight.float() for linear in following]), alpha)
        for position, ((_, following), seen) in enumerate(zip(pairs, largest, strict=True))
    }


def served_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to round."""
    cache = {"bits": settings["kv_bits"], "clip": 1.0}
    return {
        "row_groups": settings["row_groups"],
        "activations": {"bits": settings["activation_bits"], "symmetric": False, "clip": 1.0},
        "keys": cache | {"hadamard": False},
        "values": cache,
    }


@stage
@stored
def main(calibration: Inputs, model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    sequences = [row["input_ids"] for path in calibration for row in read_rows(path)]
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    smooth(network, sequences, settings["alpha"], f"{manifest.parent}: smooth")
    quantize_layers(network, sequences, settings["bits"], settings["row_groups"], f"{manifest.parent}: GPTQ")
    save_model(network, model, checkpoint)
    write_settings(checkpoint, served_settings(settings))
    finish(model, checkpoint, manifest, uniform(settings), FUSED)


if __name__ == "__main__":
    main()
