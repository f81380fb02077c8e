"""A model calibrated layer by layer: in memory at once are the model, one layer's work and its activations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from scripts.fakequant.settings import ROW_PARALLEL
from scripts.quantize._gptq import gptq
from scripts.run.progress import Progress

# Linear layers that see one input, in the order in which a layer runs them.
SEQUENCE = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))

# A call of a module: its arguments, its keyword arguments, and the tensor that it gave.
Call = tuple[tuple, dict[str, Any], torch.Tensor]


class _FirstLayerReachedError(Exception):
    pass


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


@torch.no_grad()
def each_layer(model: PreTrainedModel, sequences: list[list[int]], label: str) -> Iterator[tuple[nn.Module, Callable]]:
    """For each decoder layer, on the GPU if there is one: the layer, and a function that runs it on all sequences.

    The next layer's inputs are what the layer makes of its own after the caller has changed it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs: list[torch.Tensor] = []
    named: list[dict[str, Any]] = []
    layers = model.model.layers

    def catch(_: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        inputs.append(arguments[0])
        named.append(keywords)
        raise _FirstLayerReachedError

    handle = layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for ids in sequences:
        try:
            model(input_ids=torch.tensor([ids]), use_cache=False)
        except _FirstLayerReachedError:
            continue
    handle.remove()

    progress = Progress(label, len(layers), "layers")
    progress.print()
    for layer in layers:
        layer.to(device)

        @torch.no_grad()  # it runs in the caller's context, not in this one's
        def run(layer: nn.Module = layer) -> list[torch.Tensor]:
            keywords = [moved(k, device) for k in named]
            return [layer(x.to(device), **k).to(x.device) for x, k in zip(inputs, keywords, strict=True)]

        yield layer, run
        inputs[:] = run()
        layer.to("cpu")
        progress.add(1)
    progress.close()


def fold(before: nn.Module, scaled: list[nn.Linear], scale: torch.Tensor) -> None:
    """Move the scale's inverse into the norm or linear layer before, and the scale into those that follow."""
    weight = before.weight.data.float()
    before.weight.data = (weight / (scale if weight.dim() == 1 else scale[:, None])).to(before.weight.dtype)
    if getattr(before, "bias", None) is not None:
        before.bias.data = (before.bias.data.float() / scale).to(before.bias.dtype)
    for linear in scaled:
        linear.weight.data = (linear.weight.data.float() * scale).to(linear.weight.dtype)


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


@torch.no_grad()
def quantize_layers(model: PreTrainedModel, sequences: list[list[int]], bits: int, row_groups: int, label: str) -> None:
    """GPTQ on every linear layer in place, each calibrated on what the layers before it, already rounded, give it."""
    for layer, run in each_layer(model, sequences, label):
        modules = linears(layer)
        for names in SEQUENCE:
            first = modules[names[0]]
            hessian = torch.zeros(first.in_features, first.in_features, device=first.weight.device)
            with inputs_of(first, lambda x, hessian=hessian: hessian.addmm_(x.float().T, x.float())):
                run()
            for name in names:
                weight = modules[name].weight
                groups = row_groups if name in ROW_PARALLEL else 1
                weight.data = gptq(weight.data, hessian, bits, groups).to(weight.dtype)
