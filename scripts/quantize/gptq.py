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
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from scripts.fakequant.rounding import asymmetric_grid, fake_quantize, grouped
from scripts.quantize._layers import TOO_LARGE, inputs_of, layer_calls, linears, moved
from scripts.quantize._names import LINEAR_WEIGHT
from scripts.quantize._packed import multiples, packing, product_error
from scripts.quantize._parameters import not_finite, put
from scripts.quantize._rewrite import of_layers, rewrite
from scripts.quantize._store import Tensors, keep, part, stored
from scripts.quantize._written import finish, uniform
from scripts.run.errors import UserError
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

    An expert that no token of the calibration data reached is rounded to nearest, which is told.

    Raises:
        UserError: a layer gives NaN or infinite values, or gets what cannot be squared, by which the library would go
            on quantizing.
    """

    def __init__(self, network: nn.Module, bits: int, group_size: int) -> None:
        self.network, self.bits, self.group_size = network, bits, group_size
        self.weights, self.damaged = Tensors(), None
        self.squares, self.looking = dict[str, float](), contextlib.ExitStack()
        for index, layer in enumerate(network.model.layers):
            layer.register_forward_hook(functools.partial(self.look, index))

    def look(self, index: int, _: nn.Module, __: tuple, output: torch.Tensor | tuple) -> None:
        if self.damaged is None and not (output[0] if isinstance(output, tuple) else output).isfinite().all():
            self.damaged = index

    def subset_event(self, *, stage: str, layer_idx: int, module_names: list[str], **_: object) -> None:
        if stage == "forward_start":  # its own modules are in place; those of one parent see one input
            self.squares.clear()
            for name in {name.rpartition(".")[0]: name for name in reversed(module_names)}.values():
                module = self.network.get_submodule(f"model.layers.{layer_idx}.{name}")
                self.looking.enter_context(inputs_of(module, functools.partial(self.add_squares, name)))
        elif stage == "forward_end":
            self.looking.close()
            for name, squares in self.squares.items():
                if not squares <= torch.finfo(torch.float32).max:  # or not a number
                    raise not_finite(f"layer {layer_idx}: {TOO_LARGE.format(name.rsplit('.', 1)[-1])}")
        elif stage == "quant_complete":  # the library packs them next
            for name in module_names:
                self.weights[name] = self.network.get_submodule(f"model.layers.{layer_idx}.{name}").weight.data

    def add_squares(self, name: str, x: torch.Tensor) -> None:
        if len(x):  # an expert may see none of a batch; no channel's sum is larger
            largest = max(abs(end.item()) for end in x.aminmax())
            self.squares[name] = self.squares.get(name, 0.0) + len(x) * largest**2

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:
        if self.damaged is not None or not all(weight.isfinite().all() for weight in self.weights.values()):
            raise not_finite(f"layer {layer_idx} gives NaN or infinite values")
        if not submodule_finalized or not self.weights:
            return
        tensors = {f"{name}.weight": weight for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            packed = self.network.get_submodule(f"model.layers.{layer_idx}.{name}")
            tensors[f"{name}.scale"] = scales(weight.cpu(), packed.scales.T)
        keep(f"layer{layer_idx}", tensors | self.unseen(layer_idx))
        self.weights = Tensors()

    def unseen(self, layer_idx: int) -> Tensors:
        """Weights and scales of the layer's experts that saw no token, and that the library passes over therefore.

        Raises:
            UserError: it passed over something else.
        """
        tensors, names = Tensors(), []
        for name, module in self.network.get_submodule(f"model.layers.{layer_idx}").named_modules():
            known = LINEAR_WEIGHT.fullmatch(f"model.layers.{layer_idx}.{name}.weight")
            if not known or name in self.weights or not isinstance(module, nn.Linear):
                continue
            if ".experts." not in name:
                raise UserError(f"layer {layer_idx}: GPTQModel passed over {name}: take rtn for this model")
            groups = grouped(module.weight.data.float(), self.group_size)
            scale, zero = asymmetric_grid(groups, self.bits)
            tensors[f"{name}.weight"] = fake_quantize(groups, scale, zero, self.bits).flatten(1).to(module.weight.dtype)
            tensors[f"{name}.scale"] = scale[..., 0]
            names.append(name)
        if names:
            print(
                f"gptq: layer {layer_idx}: no calibration token reached {len(names)} matrices of experts "
                f"({names[0]}, …): rounded to nearest; calibrate on more data",
                flush=True,
            )
        return tensors


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


def call_as_the_model_does(network: nn.Module, sequences: list[list[int]]) -> None:
    """Give each layer its own mask and positions: the library gives all of them those of the first.

    That is right where all layers are of one kind, and only these are left as they are.

    Raises:
        UserError: the sequences are not of one length, so that one mask would not do for all.
    """
    if len(set(getattr(network.config, "layer_types", None) or ())) < 2:
        return
    if len(set(map(len, sequences))) > 1:
        raise UserError(
            "this model's layers attend in different ways, for which GPTQ needs calibration sequences of one length: "
            "give the corpus's text more tokens than one sequence holds, or take rtn"
        )
    _, named = layer_calls(network, sequences[0])

    def own(
        keywords: dict[str, Any], module: nn.Module, arguments: tuple, given: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        x = arguments[0] if arguments else given["hidden_states"]
        return (x,), moved(keywords, x.device)

    for layer, keywords in zip(network.model.layers, named, strict=True):
        layer.register_forward_pre_hook(functools.partial(own, keywords), with_kwargs=True)


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
    call_as_the_model_does(engine.model, sequences)
    engine.subset_callback = engine.layer_callback = Keeper(engine.model, settings.bits, settings.group_size)
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
    rewrite(model, checkpoint, lambda name, _: rounded(name))
    finish(model, checkpoint, manifest, uniform(settings), pack=packing(checkpoint, settings))


if __name__ == "__main__":
    main()
