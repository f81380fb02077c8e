"""KVQuant*: the study's simplification of Hooper et al., "KVQuant: Towards 10 Million Context Length LLM Inference with
KV Cache Quantization" (arXiv 2401.18079): keys before RoPE (section 3.2) on a static grid per channel (section 3.1),
from minimum and maximum over the calibration data; values per token; neither non-uniform grids nor outliers kept apart.
"""

from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from scripts.fakequant.rounding import asymmetric_grid
from scripts.fakequant.settings import KEY_GRIDS, write_settings
from scripts.quantize._layers import Run, each_layer
from scripts.quantize._link import link_checkpoint
from scripts.quantize._store import Tensors, kept, stored
from scripts.quantize._written import finish
from scripts.run.files import write_atomically
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import read_rows


class Range:
    """Smallest and largest value of each key channel, over all tokens seen."""

    def __init__(self) -> None:
        self.ends: torch.Tensor | None = None  # (2, kv_heads * head_dim)

    def see(self, keys: torch.Tensor) -> None:
        """Keys of some tokens, `(..., kv_heads * head_dim)`."""
        keys = keys.float().flatten(0, -2)
        ends = torch.stack([keys.amin(0), keys.amax(0)])
        if self.ends is not None:
            ends = torch.stack([torch.minimum(ends[0], self.ends[0]), torch.maximum(ends[1], self.ends[1])])
        self.ends = ends

    def grid(self, bits: int) -> Tensors:
        """Scale and zero point of each channel, `(kv_heads * head_dim,)` both."""
        scale, zero = asymmetric_grid(self.ends.T, bits)
        return {"scale": scale[:, 0].contiguous(), "zero": zero[:, 0].contiguous()}


def key_grids(
    network: PreTrainedModel, sequences: list[list[int]], bits: int, place: str, label: str
) -> dict[str, torch.Tensor]:
    """`{layer}.scale` and `{layer}.zero` of every layer's keys at the place where they are rounded."""
    grids = {}
    for index, (layer, run) in enumerate(each_layer(network, sequences, label)):
        grid = kept(f"keys{index}", lambda layer=layer, run=run: key_grid(layer, run, bits, place))
        grids |= {f"{index}.{name}": part.cpu() for name, part in grid.items()}
    return grids


def key_grid(layer: nn.Module, run: Run, bits: int, place: str) -> Tensors:
    """The grid of one layer's keys."""
    attention, seen = layer.self_attn, Range()

    def see(module: nn.Module, inputs: tuple[torch.Tensor], keys: torch.Tensor) -> None:
        if place == "before_bias":
            keys = nn.functional.linear(inputs[0], module.weight)  # keys - bias would be rounded as keys are
        seen.see(keys.flatten(2) if place == "after_norm" else keys)

    handle = (attention.k_norm if place == "after_norm" else attention.k_proj).register_forward_hook(see)
    run()
    handle.remove()
    return seen.grid(bits)


def served_settings(settings: dict[str, Any], *, normed: bool) -> dict[str, Any]:
    """What the engine is to round; in a model whose keys are `normed`, behind that norm."""
    bits, place = settings["kv_bits"], "before_bias" if settings["before_bias"] else "after_bias"
    keys = {"bits": bits, "place": "after_norm" if normed else place}
    return {"keys_before_rope": keys, "values": {"bits": bits, "clip": 1.0}}


@stage
@stored
def main(calibration: Inputs, model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    sequences = [row["input_ids"] for path in calibration for row in read_rows(path)]
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    served = served_settings(settings, normed=hasattr(network.model.layers[0].self_attn, "k_norm"))
    bits, place = (served["keys_before_rope"][name] for name in ("bits", "place"))
    grids = key_grids(network, sequences, bits, place, f"{manifest.parent}: ranges of keys")
    link_checkpoint(model, checkpoint)
    write_atomically(checkpoint / KEY_GRIDS, lambda path: save_file(grids, path))
    write_settings(checkpoint, served)
    finish(model, checkpoint, manifest, None)


if __name__ == "__main__":
    main()
