"""GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv 2210.17323), Algorithm 1, by the GPTQModel library.

Each layer is kept as it is finished (_store.py). A job that goes on puts the finished ones into the model and tells the
library to leave them as they are: their outputs, and so all later layers, are those of an undisturbed run. At 4 bits a
packed checkpoint stands in the subfolder `packed/`, where vLLM does not take it for weights; with `packed` it is the
checkpoint itself.
"""

import contextlib
import functools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from scripts.quantize._layers import TOO_LARGE, inputs_of, linears
from scripts.quantize._packed import multiples, packing, product_error
from scripts.quantize._parameters import not_finite, put
from scripts.quantize._rewrite import of_layers, rewrite_linears
from scripts.quantize._store import Tensors, keep, part, stored
from scripts.quantize._written import finish, uniform
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import read_rows

if TYPE_CHECKING:
    from gptqmodel.models.base import BaseQModel

BATCH_SIZE = 8
MOST = 15  # times its scale is a value at 4 bits, the most that are packed
# Its packing workers cannot be pinned on machines of two cores otherwise, and compiling costs more than it saves.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


class Keeper:
    """What the library calls: keeps each layer's rounded weights, and the scales of their groups.

    Raises:
        UserError: a layer gives NaN or infinite values, or gets what cannot be squared, by which the library would go
            on quantizing.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.weights, self.damaged = network, Tensors(), None
        self.squares, self.looking = 0.0, contextlib.ExitStack()
        for index, layer in enumerate(network.model.layers):
            layer.register_forward_hook(functools.partial(self.look, index))

    def look(self, index: int, _: nn.Module, __: tuple, output: torch.Tensor | tuple) -> None:
        if self.damaged is None and not (output[0] if isinstance(output, tuple) else output).isfinite().all():
            self.damaged = index

    def subset_event(self, *, stage: str, layer_idx: int, module_names: list[str], **_: object) -> None:
        if stage == "forward_start":  # its own modules are in place, and see one input
            self.squares = 0.0
            first = self.network.get_submodule(f"model.layers.{layer_idx}.{module_names[0]}")
            self.looking.enter_context(inputs_of(first, self.add_squares))
        elif stage == "forward_end":
            self.looking.close()
            if not self.squares <= torch.finfo(torch.float32).max:  # or not a number
                raise not_finite(f"layer {layer_idx}: {TOO_LARGE.format(module_names[0].rsplit('.', 1)[-1])}")
        elif stage == "quant_complete":  # the library packs them next
            for name in module_names:
                self.weights[name] = self.network.get_submodule(f"model.layers.{layer_idx}.{name}").weight.data

    def add_squares(self, x: torch.Tensor) -> None:
        self.squares += len(x) * max(abs(end.item()) for end in x.aminmax()) ** 2  # no channel's sum is larger

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:
        if self.damaged is not None or not all(weight.isfinite().all() for weight in self.weights.values()):
            raise not_finite(f"layer {layer_idx} gives NaN or infinite values")
        if not submodule_finalized or not self.weights:
            return
        tensors = {f"{name}.weight": weight for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            packed = self.network.get_submodule(f"model.layers.{layer_idx}.{name}")
            tensors[f"{name}.scale"] = scales(weight.cpu(), packed.scales.T)
        keep(f"layer{layer_idx}", tensors)
        self.weights = Tensors()


def scales(weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The scales by which a weight was rounded, which the library keeps in float16, exactly: by least squares.

    Those that float16 has no digits for are looked for among the parts of the smallest value.

    Args:
        weight: `(out_features, in_features)`, multiples of the scales.
        rounded: `(out_features, groups)`, the scales in float16.

    Returns:
        `(out_features, groups)` in float32.
    """
    groups = weight.float().unflatten(1, (rounded.shape[1], -1))
    few = rounded.abs() < torch.finfo(torch.float16).tiny
    first = rounded.float().masked_scatter(few, _scale_of_multiples(groups[few], weight.dtype))
    steps = multiples(weight.float(), first)
    return torch.where(steps.any(-1) & ~few, (groups * steps).sum(-1) / steps.pow(2).sum(-1), first)


def _scale_of_multiples(groups: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The largest scale of which a group's values, as `dtype` stores them, are multiples, 16 at the most.

    Args:
        groups: `(count, group size)`.
        dtype: of the weight.

    Returns:
        `(count, 1)`; a fifteenth of the range (and a bit more) where none fits, and 1 where all values are 0.
    """
    off, largest, smallest = product_error(groups, dtype), groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
    found = (largest.clamp(min=0) - smallest.clamp(max=0)) / (MOST - 0.5)  # both ends rounded are no further apart
    least = groups.abs().masked_fill(groups == 0, torch.inf).amin(1, keepdim=True)
    for share in range(MOST, 0, -1):
        steps = (groups * share / least).round()
        near = ((steps * least / share - groups).abs() <= off).all(1, keepdim=True)
        fits = near & (steps.amax(1, keepdim=True).clamp(min=0) - steps.amin(1, keepdim=True).clamp(max=0) <= MOST)
        found = torch.where(fits & least.isfinite(), least / share, found)
    return found.masked_fill(found == 0, 1)


def flush(layer: nn.Module) -> None:
    """Make 0 of weights below float32's normal numbers: of such a group the library divides by a scale of 0."""
    for linear in linears(layer).values():
        if (tiny := linear.weight.abs() < torch.finfo(torch.float32).tiny).logical_and_(linear.weight != 0).any():
            linear.weight.data = linear.weight.data.masked_fill(tiny, 0)


def quantize(model: Path, sequences: list[list[int]], settings: dict) -> "BaseQModel":
    """GPTQ on all decoder linear layers, calibrated on sequences of token ids; keeps a part of each layer.

    Raises:
        UserError: a layer gives NaN or infinite values; the message names it.
    """
    from gptqmodel import GPTQModel, QuantizeConfig

    config = AutoConfig.from_pretrained(model)
    finished = {}
    for index in range(config.num_hidden_layers):
        if (path := part(f"layer{index}")) is None:
            break
        print(f"store: layer{index} was finished by an earlier job", flush=True)
        finished[index] = path
    settings = QuantizeConfig(
        bits=settings["bits"],
        group_size=settings["group_size"],
        sym=settings["sym"],
        desc_act=settings["desc_act"],
        static_groups=settings["desc_act"],
        mse=settings["mse"],
        damp_percent=settings["damp_percent"],
        act_group_aware=False,
        format="gptq_v2",  # of zero points; the other knows symmetric grids alone
        fallback=None,  # it would round to nearest where a layer fails, and say so in its log only
        offload_to_disk=False,
        wait_for_submodule_finalizers=True,
        dynamic={rf"-:model\.layers\.{index}\.": {} for index in finished} or None,
    )
    engine = GPTQModel.load(str(model.absolute()), settings, dtype=config.dtype)
    for index, path in finished.items():
        layer = engine.model.model.layers[index]
        put(layer, {name: x for name, x in load_file(path).items() if name.endswith(".weight")})
    with torch.no_grad():
        for index, layer in enumerate(engine.model.model.layers):
            if index not in finished:
                flush(layer)
    engine.subset_callback = engine.layer_callback = Keeper(engine.model)
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in sequences]
    # It leaves a log of its own in the working folder; what it says is in our log too.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        engine.quantize(examples, batch_size=BATCH_SIZE)
    return engine


@stage
@stored
def main(calibration: Inputs, model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    sequences = [row["input_ids"] for path in calibration for row in read_rows(path)]
    layers = AutoConfig.from_pretrained(model).num_hidden_layers
    if part(f"layer{layers - 1}") is None:
        quantize(model, sequences, settings)
    rounded = of_layers("weight")
    rewrite_linears(model, checkpoint, lambda name, _: rounded(name))
    finish(model, checkpoint, manifest, uniform(settings), pack=packing(checkpoint, settings))


if __name__ == "__main__":
    main()
