"""A model calibrated layer by layer: in memory at once are the model, one layer's work and its activations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from scripts.fakequant.settings import ROW_PARALLEL
from scripts.quantize._gptq import gptq
from scripts.quantize._parameters import as_stored, not_finite, put
from scripts.quantize._store import Tensors, kept
from scripts.run.errors import UserError
from scripts.run.progress import Progress

# Linear layers that see one input, in the order in which a layer runs them; some models fuse them.
SEQUENCE = (
    ("q_proj", "k_proj", "v_proj", "qkv_proj"), ("o_proj",), ("gate_proj", "up_proj", "gate_up_proj"), ("down_proj",)
)  # fmt: skip
TOO_LARGE = "the inputs of {} are too large to be squared"

# A call of a module: its arguments, its keyword arguments, and the tensor that it gave.
Call = tuple[tuple, dict[str, Any], torch.Tensor]


def moved(value: Any, device: torch.device) -> Any:
    """The tensors in a value, however nested, on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    return tuple(moved(part, device) for part in value) if isinstance(value, tuple) else value


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The layer's linear modules by the last part of their names."""
    return {name.rsplit(".", 1)[-1]: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}


def sequence(layer: nn.Module) -> list[tuple[str, ...]]:
    """`SEQUENCE`, as this layer has it."""
    modules = linears(layer)
    return [tuple(name for name in names if name in modules) for names in SEQUENCE]


@torch.no_grad()
def layer_calls(model: PreTrainedModel, ids: list[int]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """What the decoder layers are called with on a sequence: the first one's input, and the keywords of each.

    Nothing is computed but these. Layers of different kinds get different ones, such as the mask of a window.
    """
    calls: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def record(hidden: torch.Tensor, **keywords: Any) -> torch.Tensor:
        calls.append((hidden, keywords))
        return hidden

    layers = list(model.model.layers)
    for layer in layers:
        layer.forward = record
    try:
        model.model(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for layer in layers:
            del layer.forward
    return calls[0][0], [keywords for _, keywords in calls]


class Run:
    """A decoder layer on all sequences: call it to run. What it gave last are the next layer's inputs."""

    def __init__(self, layer: nn.Module, inputs: list[torch.Tensor], named: list[dict[str, Any]], name: str) -> None:
        self.layer, self.inputs, self.named, self.name = layer, inputs, named, name
        self.outputs: list[torch.Tensor] = []

    @torch.no_grad()
    def __call__(self) -> None:
        """Run the layer as it is now.

        Raises:
            UserError: what it gives is not finite.
        """
        self.outputs.clear()
        device = next(self.layer.parameters()).device
        for x, keywords in zip(self.inputs, self.named, strict=True):
            y = self.layer(x.to(device), **moved(keywords, device))
            if not y.isfinite().all():
                raise not_finite(f"{self.name} gives NaN or infinite values")
            self.outputs.append(y.to(x.device))

    def once(self) -> None:
        """Run the layer, if it has not run yet."""
        if not self.outputs:
            self()


@torch.no_grad()
def each_layer(model: PreTrainedModel, sequences: list[list[int]], label: str) -> Iterator[tuple[nn.Module, Run]]:
    """For each decoder layer, on the GPU if there is one: the layer, and what runs it on all sequences.

    The next layer's inputs are what the layer gave when it ran last: the caller decides whether that was before or
    after it changed the layer.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers, calls = model.model.layers, [layer_calls(model, ids) for ids in sequences]
    inputs = [first for first, _ in calls]

    progress = Progress(label, len(layers), "layers")
    progress.print()
    for index, layer in enumerate(layers):
        run = Run(layer.to(device), inputs, [named[index] for _, named in calls], f"{label}: layer {index}")
        yield layer, run
        run.once()
        inputs = run.outputs
        layer.to("cpu")
        progress.add(1)
    progress.close()


@contextmanager
def inputs_of(module: nn.Module, see: Callable[[torch.Tensor], object]) -> Iterator[None]:
    """While the body runs, `see` each input of the module as `(tokens, in_features)`, transforms included."""

    def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:  # what a hook returns would replace the input
        see(inputs[0].flatten(0, -2))

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def calls_of(module: nn.Module, calls: list[Call]) -> Iterator[None]:
    """While the body runs, keep each call of the module, on the CPU."""
    cpu = torch.device("cpu")

    def hook(_: nn.Module, arguments: tuple, keywords: dict[str, Any], output: Any) -> None:
        calls.append(moved((arguments, keywords, _tensor(output)), cpu))

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def output_error(module: nn.Module, calls: list[Call]) -> float:
    """Sum of squared differences between what the module gives now and what it gave in these calls."""
    device = next(module.parameters()).device
    error = torch.zeros((), dtype=torch.float64, device=device)
    for call in calls:
        arguments, keywords, expected = moved(call, device)
        error += (_tensor(module(*arguments, **keywords)) - expected).float().pow(2).sum()
    return error.item()


def _tensor(output: Any) -> torch.Tensor:
    """A module's output, without the attention weights that may come with it."""
    return output[0] if isinstance(output, tuple) else output


def quantize_layers(model: PreTrainedModel, sequences: list[list[int]], bits: int, row_groups: int, label: str) -> None:
    """GPTQ on every linear layer in place, each calibrated on what the layers before it, already rounded, give it.

    Raises:
        UserError: names the layer whose inputs are not finite, or whose Hessian has no factor.
    """
    for index, (layer, run) in enumerate(each_layer(model, sequences, label)):
        rounded = kept(f"gptq{index}", lambda layer=layer, run=run: _quantize_layer(layer, run, bits, row_groups))
        put(layer, rounded)
        run()  # the next layer sees what this one gives with rounded weights


@torch.no_grad()
def _quantize_layer(layer: nn.Module, run: Run, bits: int, row_groups: int) -> Tensors:
    """Quantize a layer in place, on its own inputs: what all its parameters are then."""
    modules = linears(layer)
    for names in sequence(layer):
        first = modules[names[0]]
        hessian = torch.zeros(first.in_features, first.in_features, device=first.weight.device)
        with inputs_of(first, lambda x, hessian=hessian: hessian.addmm_(x.float().T, x.float())):
            run()
        if not hessian.isfinite().all():
            raise not_finite(f"{run.name}: {TOO_LARGE.format(names[0])}")
        for name in names:
            weight = modules[name].weight
            groups = row_groups if name in ROW_PARALLEL else 1
            try:
                weight.data = as_stored(gptq(weight.data, hessian, bits, groups), weight.dtype)
            except torch.linalg.LinAlgError as error:
                raise UserError(f"{run.name}: {name}: {error}: calibrate on more or other data") from None
    return dict(layer.named_parameters())
