"""FlatQuant: Sun et al., "FlatQuant: Flatness Matters for LLM Quantization" (arXiv 2410.09426).

Before a linear layer its input x is multiplied by an invertible matrix P and its weight by the inverse, so that both
are flat when they are rounded: Y = Q(x P) Q(P⁻¹ Wᵀ) (Equation 2). P is a Kronecker product of two small factors
(Equation 3) and a diagonal scale, folded into what gives x. P, the scale and the clips of weights, inputs, keys and
values are learned layer by layer, against the full-precision layer's output (Equation 4); see _flatquant.py.

Inputs of row-parallel layers are transformed in row groups, `o_proj`'s across the heads of a group; values are
transformed by head with that folded into `v_proj` and `o_proj`, keys and queries by head after RoPE (Figure 2). As
published but for five things: layers that share an input share its clip; a weight has one clip per row and row group
(the published lower and upper clips end in one symmetric grid), and values below it may take the grid's lowest level;
`v_proj` is clipped behind its transform by head; factors are U diag(exp s) Vᵀ with rotations by Cayley's formula, where
the published code inverts the matrix itself in float64 (final loss after 15 epochs at 4 bits, two layers of a tiny
model, two seeds: 3 to 10 % lower); and between layers the activations have the model's dtype, not float32.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import safetensors.torch
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from scripts.fakequant.settings import TRANSFORMS, write_settings
from scripts.quantize._flatquant import Call, learn, rounded_parameters, served
from scripts.quantize._layers import Run, each_layer
from scripts.quantize._parameters import not_finite, put
from scripts.quantize._rewrite import save_model
from scripts.quantize._store import Tensors, kept, stored
from scripts.quantize._written import finish, uniform
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.files import write_atomically
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import read_rows

# What transforms and scales are folded into, beside the weights that are rounded.
FUSED = {"input_layernorm.weight", "post_attention_layernorm.weight", "v_proj.bias", "up_proj.bias"}


def learn_layers(
    model: PreTrainedModel, sequences: list[list[int]], settings: dict[str, Any], label: str
) -> Iterator[tuple[nn.Module, Tensors]]:
    """Each layer, and what it learned from full precision's inputs; the caller may change it then."""
    losses = []
    for index, (layer, run) in enumerate(each_layer(model, sequences, label)):

        def make(layer: nn.Module = layer, run: Run = run, index: int = index) -> Tensors:
            calls: list[Call] = []
            handle = layer.register_forward_pre_hook(
                lambda _, inputs, named: calls.append((inputs[0], named)), with_kwargs=True
            )
            run()
            handle.remove()
            generator = torch.Generator().manual_seed(settings["seed"] + index)
            try:
                learned = learn(layer, calls, settings, generator)
            except OverflowError as error:
                raise not_finite(f"{label}: layer {index}: {error}") from None
            if not learned["loss"][0].isfinite():  # before anything was learned
                raise not_finite(f"{label}: layer {index} gives or sees what is too large to be squared")
            if not learned["loss"].isfinite().all():
                raise UserError(f"{label}: layer {index} diverged; lower learning_rate of the scheme, {settings}")
            return learned

        learned = kept(f"layer{index}", make)
        before, after = learned["loss"].tolist()
        print(f"{label}: layer {index}: loss {before:.4g} → {after:.4g}", flush=True)
        losses.append({"before": before, "after": after})
        run.once()
        device = next(layer.parameters()).device
        yield layer, {name: x.to(device) for name, x in learned.items()}
    record.add_facts(losses=losses)


def round_layers(learned: Iterable[tuple[nn.Module, Tensors]], bits: int) -> Tensors:
    """Transform and round each layer's weights in place; returns what the engine is to apply, by layer."""
    applied = {}
    for index, (layer, tensors) in enumerate(learned):
        with torch.no_grad():
            put(layer, rounded_parameters(layer, tensors, bits))
        applied |= {f"{index}.{name}": x.cpu().contiguous() for name, x in served(tensors).items()}
    return applied


def served_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to round; the clips are in the file of what was learned."""
    return {
        "row_groups": settings["row_groups"],
        "activations": {"bits": settings["activation_bits"], "symmetric": False},
        "keys": {"bits": settings["kv_bits"], "hadamard": False},
        "values": {"bits": settings["kv_bits"]},
        "learned": True,
    }


@stage
@stored
def main(calibration: Inputs, model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    sequences = [row["input_ids"] for path in calibration for row in read_rows(path)]
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    learned = learn_layers(network, sequences, settings, f"{manifest.parent}: learn")
    tensors = round_layers(learned, settings["bits"])
    save_model(network, model, checkpoint)
    write_atomically(checkpoint / TRANSFORMS, lambda path: safetensors.torch.save_file(tensors, path))
    write_settings(checkpoint, served_settings(settings))
    finish(model, checkpoint, manifest, uniform(settings), FUSED)


if __name__ == "__main__":
    main()
