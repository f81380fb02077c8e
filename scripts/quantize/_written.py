"""What a quantizer wrote is what it states: looked at before the checkpoint gets its manifest, which makes it one.

Names, shapes and dtypes are the model's and every value is finite. Whatever the quantizer does not visit is the model's
own, and the linear weights of the decoder blocks lie on the grid of the scheme: a weight that was on it before may come
out as it was, one that was passed over may not. In memory at once is one tensor; hard links to the model's files are
read only where they should have been rounded.
"""

import math
import shutil
from collections.abc import Callable, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.fakequant.rounding import grouped
from scripts.fakequant.settings import ROW_PARALLEL
from scripts.manifest import write_manifest
from scripts.quantize._names import LEFT, LINEAR_WEIGHT, OF_A_BLOCK, each_matrix, has_experts, last_part
from scripts.quantize._store import forget_parts
from scripts.run.errors import UserError

ROWS = 64  # of a weight whose grid is looked at, evenly apart: all would have to be sorted
SCALE_BITS = 16  # of a group's scale, as scripts/report/efficiency.py counts it
SLACK = 0.01  # share of a step: the grid is multiplied and added in float32


@dataclass(frozen=True)
class Grid:
    """What rounding leaves of a linear weight: in each group of input channels, multiples of one step.

    Attributes:
        steps: at most so many lie between a group's smallest and largest value.
        group_size: input channels of a group; -1: all of them.
        row_groups: where a group has all of them, the groups of layers whose input is split between GPUs.
    """

    steps: int
    group_size: int = -1
    row_groups: int = 1

    @property
    def bits(self) -> float:
        return math.log2(self.steps + 1)


def uniform(settings: dict[str, Any]) -> Grid:
    """The grid of a scheme that states `bits`, and maybe `group_size` and `row_groups`."""
    return Grid(2 ** settings["bits"] - 1, settings.get("group_size", -1), settings.get("row_groups", 1))


def finish(
    model: Path,
    checkpoint: Path,
    manifest: Path,
    grid: Grid | None,
    fused: Set[str] = frozenset(),
    pack: Callable[[], None] | None = None,
) -> None:
    """Check the checkpoint, `pack` it, and write its manifest; one that fails is removed, with its kept parts.

    Args:
        model: folder of the model that was quantized.
        checkpoint: folder that was written.
        manifest: file beside it.
        grid: of all linear weights of the decoder blocks; None: they are not rounded.
        fused: what else the quantizer changes, by the last two parts of its name (`input_layernorm.weight`).
        pack: adds what the check does not know.

    Raises:
        UserError: names the tensor that is not what was stated.
    """
    try:
        check_written(model, checkpoint, grid, fused)
        if pack:
            pack()
    except UserError:
        shutil.rmtree(checkpoint)
        forget_parts()
        raise
    write_manifest(checkpoint, manifest, sizes_with_experts(checkpoint, grid) if grid else None)


def sizes_with_experts(checkpoint: Path, grid: Grid) -> dict[str, float] | None:
    """Bits and bytes of a model with experts, of which some stays in full precision; None where there are none.

    Of other models scripts/report/efficiency.py works them out in the same way, before there is a checkpoint.
    """
    if not has_experts(checkpoint):
        return None
    weights = stored = others = 0.0
    with ExitStack() as stack:
        for name, (_, tensors) in _opened(checkpoint, stack).items():
            part = tensors.get_slice(name)
            shape, full = part.get_shape(), int(part.get_dtype().lstrip("BF"))
            count = math.prod(shape)
            if LINEAR_WEIGHT.fullmatch(name):
                inputs = shape[1]  # of a layer, and of experts that are stored together
                size = _group_size(name, inputs, grid)
                groups = count // inputs * (1 if size == -1 else inputs // size)
                weights, stored = weights + count, stored + count * grid.bits + groups * SCALE_BITS
            elif LEFT.fullmatch(name):
                weights, stored = weights + count, stored + count * full
            else:
                others += count * full
    return {"weight_bits": stored / weights, "weight_bytes": round((stored + others) / 8)}


def check_written(model: Path, checkpoint: Path, grid: Grid | None, fused: Set[str]) -> None:
    """As `finish` describes it.

    Raises:
        UserError: names the checkpoint, whose path holds its quantizer, and the tensor.
    """
    with ExitStack() as stack:
        before, after = (_opened(folder, stack) for folder in (model, checkpoint))
        shapes, linears = _described(checkpoint, after.keys())
        if grid and not linears:
            raise UserError(f"{checkpoint}: transformers knows no linear layer of its blocks: nothing would be rounded")
        if lost := sorted(shapes.keys() - after.keys()):
            raise UserError(f"{checkpoint}: {lost[0]} is not written, which the model has: mend the quantizer")
        if new := sorted(after.keys() - shapes.keys() - before.keys()):
            raise UserError(f"{checkpoint}: {new[0]} is written, which the model does not have: mend the quantizer")
        for name, (path, tensors) in after.items():
            rounded = grid is not None and name in linears
            old, source = before.get(name, (None, None))
            if not rounded and old is not None and path.samefile(old):
                continue
            tensor, origin = tensors.get_tensor(name), source and source.get_tensor(name)
            visited = rounded or ".".join(name.split(".")[-2:]) in fused
            if fault := _fault(tensor, origin, visited, shapes.get(name, list(tensor.shape))):
                raise UserError(f"{checkpoint}: {name} {fault}: mend the quantizer")
            if rounded and not all(
                lies_on_grid(matrix, _group_size(each, matrix.shape[1], grid), grid.steps)
                for each, matrix in each_matrix(name, tensor)
            ):
                raise UserError(
                    f"{checkpoint}: {name} does not lie on the scheme's grid: it was passed over, or changed after it "
                    "was rounded; mend the quantizer"
                )
    for path in checkpoint.rglob("*/*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                if not is_finite(tensors.get_tensor(name)):
                    raise UserError(f"{checkpoint}: {name} in {path.name} has values that are not finite")


def lies_on_grid(weight: torch.Tensor, group_size: int, steps: int) -> bool:
    """Whether in no group two neighboring values are nearer to each other than the grid allows, over some rows.

    Neighbors are as far apart as `steps` of them in the range of the group, or are equal: what is not rounded has some
    that are nearer, where the values are more than a few. What storing does to both counts as nothing.
    """
    kind, exact = torch.finfo(weight.dtype), torch.finfo(torch.float32)
    values = grouped(weight[:: -(-len(weight) // ROWS)].float(), group_size).sort(-1).values
    magnitude = values.abs()
    # A value is off by half of its last digit, or of the smallest number; one at the end of the range by any amount.
    digits = (magnitude * (kind.eps + 4 * exact.eps) + kind.tiny * kind.eps).masked_fill_(
        magnitude >= kind.max, torch.inf
    )
    off = torch.maximum(digits[..., 1:], digits[..., :-1])
    gaps, span = values.diff(dim=-1), values[..., -1:] - values[..., :1]
    least = (span - torch.maximum(digits[..., -1:], digits[..., :1])) / steps * (1 - SLACK)
    return not ((gaps > 0) & (gaps + off < least)).any()


def is_finite(tensor: torch.Tensor) -> bool:
    """Without a copy, whatever its shape; of integers, too."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def _described(checkpoint: Path, stored: Set[str]) -> tuple[dict[str, list[int]], set[str]]:
    """What the checkpoint's own config.json describes: the shape of each tensor, and which are to be rounded."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint))
    linears = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    shapes = {}
    for name, parameter in model.named_parameters():
        together = parameter.dim() == 3 and ".experts." in name
        alone = _experts(name, list(parameter.shape)) if together and name not in stored else {}
        shapes |= alone or {name: list(parameter.shape)}
        linears |= alone.keys() or {name} if together else set()
    return shapes, {name for name in linears if OF_A_BLOCK.fullmatch(name) and not LEFT.fullmatch(name)}


def _experts(name: str, shape: list[int]) -> dict[str, list[int]]:
    """The shapes of experts that transformers keeps in one tensor and files have one by one, gate and up as well."""
    experts, leaf = name.rsplit(".", 1)
    leaves = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else (leaf,)
    return {
        f"{experts}.{index}.{one}.weight": [shape[1] // len(leaves), shape[2]]
        for index in range(shape[0])
        for one in leaves
    }


def _opened(folder: Path, stack: ExitStack) -> dict[str, tuple[Path, Any]]:
    """Of each tensor of a folder's weights the file, and what reads it."""
    found: dict[str, tuple[Path, Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = stack.enter_context(safe_open(path, framework="pt"))
        found |= dict.fromkeys(tensors.keys(), (path, tensors))
    return found


def _fault(tensor: torch.Tensor, origin: torch.Tensor | None, visited: bool, shape: list[int]) -> str | None:
    """What is wrong with a tensor; `origin` is the model's, which has none for a head that was tied."""
    if list(tensor.shape) != shape or (origin is not None and tensor.shape != origin.shape):
        return f"has the shape {list(tensor.shape)}, not the model's"
    if origin is not None and tensor.dtype != origin.dtype:
        return f"is stored as {tensor.dtype}, the model's is {origin.dtype}"
    if not is_finite(tensor):
        return "has values that are not finite"
    if not visited and (origin is None or not torch.equal(tensor, origin)):
        return "was changed, which is none of what this scheme states to change"
    return None


def _group_size(name: str, inputs: int, grid: Grid) -> int:
    if grid.group_size == -1 and last_part(name) in ROW_PARALLEL:
        return inputs // grid.row_groups
    return grid.group_size
