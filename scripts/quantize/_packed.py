"""Packed 4-bit checkpoints: integers with a scale and a zero point per group, as stock vLLM and transformers load them.

The format is compressed-tensors' "pack-quantized": vLLM's reader of GPTQ's own format knows neither zero points nor
activation order, and its reader of AWQ's wants activations of 16 bits.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file

from scripts.quantize._link import link_checkpoint
from scripts.quantize._names import LINEAR_WEIGHT, has_experts
from scripts.quantize._rewrite import of_layers
from scripts.run.errors import UserError
from scripts.run.files import write_atomically

PACKED_BITS = 4
MIDDLE = 2 ** (PACKED_BITS - 1)  # the library takes signed integers


def multiples(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """How often each weight holds its scale: `(out_features, in_features)` → `(out_features, groups, group size)`."""
    return (weight.unflatten(1, (scale.shape[1], -1)) / scale.unsqueeze(-1)).round().nan_to_num(0)


def product_error(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """How far a stored value may be from a multiple of a stored scale: both are off by half of their last digit.

    Or by half of the smallest number of the dtype, of which a scale may have 15.
    """
    kind = torch.finfo(dtype)
    return values.abs() * (kind.eps + 8 * torch.finfo(torch.float32).eps) + 2**PACKED_BITS * kind.tiny * kind.eps


def pack(name: str, weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors of a linear layer whose rounded weight is given.

    Args:
        name: of the layer in the checkpoint.
        weight: `(out_features, in_features)`, in each group at most 16 neighboring multiples of the scale, 0 within.
        scale: `(out_features, groups)`.
        dtype: in which the scale is stored.

    Raises:
        UserError: the integers times the scale, as it is stored, are not the weight.
    """
    steps, stored = multiples(weight, scale), scale.to(dtype)
    zero = -steps.amin(-1).clamp(max=0)  # any will do that makes integers from 0 to 15 of the steps
    integers = (steps + zero.unsqueeze(-1)).flatten(1)
    given = (steps * stored.float().unsqueeze(-1)).flatten(1)
    right = (given - weight).abs() <= 2 * product_error(weight, dtype)  # the scale may be a fit itself
    if not right.all() or integers.amax() >= 2**PACKED_BITS:
        raise UserError(f"{name}: its weights are not {2**PACKED_BITS} multiples of a scale in each group: not packed")
    return {
        f"{name}.weight_packed": pack_to_int32((integers - MIDDLE).to(torch.int8), PACKED_BITS),
        f"{name}.weight_zero_point": pack_to_int32(
            (zero - MIDDLE).to(torch.int8), PACKED_BITS, packed_dim=0
        ).contiguous(),
        f"{name}.weight_scale": stored.contiguous(),
        f"{name}.weight_shape": torch.tensor(weight.shape),
    }


def packing(checkpoint: Path, settings: dict[str, Any]) -> Callable[[], None] | None:
    """What packs the checkpoint as a scheme asks for; None where nothing is: of other bits, and of experts."""
    if settings["bits"] != PACKED_BITS or has_experts(checkpoint):
        return None
    return lambda: add_packed(checkpoint, settings["group_size"], alone=settings.get("packed", False))


def add_packed(checkpoint: Path, group_size: int, *, alone: bool) -> None:
    """Put the checkpoint with packed linear layers into its subfolder `packed/`, or, `alone`, in its place.

    The scales are those that were kept of the layers.
    """
    beside = checkpoint.with_name(".beside")
    shutil.rmtree(beside, ignore_errors=True)
    write_packed(checkpoint, beside, of_layers("scale"), group_size)
    if alone:
        shutil.rmtree(checkpoint)
        beside.rename(checkpoint)
    else:
        beside.rename(checkpoint / "packed")


def write_packed(source: Path, target: Path, scale: Callable[[str], torch.Tensor], group_size: int) -> None:
    """A copy of the checkpoint in which the decoder's linear layers are packed, by the scale of each weight's name."""
    link_checkpoint(source, target)
    places, size = {}, 0
    for shard in sorted(target.glob("*.safetensors")):
        tensors = {}
        for name, tensor in load_file(shard).items():
            if LINEAR_WEIGHT.fullmatch(name):
                tensors |= pack(name.removesuffix(".weight"), tensor.float(), scale(name).float(), tensor.dtype)
            else:
                tensors[name] = tensor
        places |= dict.fromkeys(tensors, shard.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
        write_atomically(shard, lambda path, tensors=tensors: save_file(tensors, path, {"format": "pt"}))
    weights = {"num_bits": PACKED_BITS, "type": "int", "symmetric": False, "dynamic": False}
    weights |= {"strategy": "group", "group_size": group_size} if group_size != -1 else {"strategy": "channel"}
    method = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    _update(target / "config.json", {"quantization_config": method})
    if (index := target / "model.safetensors.index.json").exists():
        _update(index, {"metadata": {"total_size": size}, "weight_map": places})


def _update(path: Path, change: dict) -> None:
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")) | change, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
