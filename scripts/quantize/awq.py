"""AWQ: Lin et al., "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration"
(arXiv 2306.00978), section 3.2: channels of large inputs are scaled up before rounding, by the power of their mean
magnitude that hurts a module's output least (Equations 4 and 5); then the weights' range is clipped where that hurts
less than rounding it does. The inverse scales go into the norm or the linear layer before: the model stays what it was.
Where nothing before can take them (OLMo's attention and MLP, what gpt-oss clamps before `down_proj`, heads that share a
value) the layer is clipped and rounded alone. All experts of an MLP, and its router, share the scale of their input; an
expert's clips are searched on the tokens that reach it.

The search measures every ratio on a sixteenth of the sequences and the best three of them on all, where the authors
measure all on all: it found the best in 21 of 24 searches on a tiny model, and at worst 4.1 % more error. Grids hold 0
(the authors' need not), and their scales are rounded to the dtype that they are stored in.

At 4 bits a packed checkpoint stands in the subfolder `packed/`, where vLLM does not take it for weights: integers and
scales of the weights beside it. With `packed` it is the checkpoint itself.
"""

from contextlib import ExitStack
from pathlib import Path

import defuser
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from scripts.fakequant.rounding import asymmetric_grid, fake_quantize, grouped
from scripts.quantize._chunks import row_chunks
from scripts.quantize._layers import (
    TOO_LARGE,
    Call,
    Run,
    calls_of,
    each_layer,
    inputs_of,
    output_error,
)
from scripts.quantize._names import has_experts, last_part
from scripts.quantize._packed import packing
from scripts.quantize._parameters import as_stored, not_finite, put
from scripts.quantize._rewrite import of_layers, rewrite
from scripts.quantize._scaled import fold, groups_of, rounded_in
from scripts.quantize._store import Tensors, kept, stored
from scripts.quantize._written import finish, uniform
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import read_rows

RATIOS = 20  # exponents 0, 1/20, …, 19/20 of the mean magnitude
SAMPLE, FINALISTS = 16, 3  # every ratio is measured on each 16th sequence, the best three on all
GRID, SHRINK, TOKENS = 20, 0.5, 512  # clip search: steps, smallest share of the range, tokens at the least
# The product of queries and keys is too sensitive (the authors' code).
NOT_CLIPPED = ("q_proj", "k_proj", "qkv_proj", "in_proj_qkvz")
# What scales are folded into, beside the weights that are rounded.
FUSED = {
    "input_layernorm.weight", "post_attention_layernorm.weight", "pre_feedforward_layernorm.weight", "v_proj.bias",
    "up_proj.bias", "gate.weight", "router.weight", "shared_expert_gate.weight", "in_proj_ba.weight",
}  # fmt: skip


def grid(groups: torch.Tensor, bits: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Asymmetric scale and zero point of each last axis, the scale as exact as `dtype` stores it, both in float32."""
    scale, zero = asymmetric_grid(groups, bits)
    scale = scale.to(dtype).float()
    return scale.masked_fill_(scale == 0, 1), zero  # what float16 cannot hold (below 3e-8) is rounded to 0


def round_weight(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """Round `(out_features, in_features)` to nearest in groups of input channels: same shape, in float32."""
    rounded = torch.empty_like(weight, dtype=torch.float32)
    for part, target in zip(row_chunks(weight), row_chunks(rounded), strict=True):
        groups = grouped(part.float(), group_size)
        target.copy_(fake_quantize(groups, *grid(groups, bits, weight.dtype), bits).flatten(1))
    return rounded


def channel_scale(magnitude: torch.Tensor, ratio: float) -> torch.Tensor:
    """Equation 5, `magnitude**ratio`, about 1: `(in_features,)`, mean magnitudes of the inputs, to the same shape."""
    scale = magnitude.pow(ratio).clamp(min=1e-4)
    return scale / (scale.max() * scale.min()).sqrt()


def scale_error(
    module: nn.Module, calls: list[Call], scaled: list[nn.Linear], scale: torch.Tensor, bits: int, group_size: int
) -> float:
    """Equation 4: error of the module's output with `scaled` layers rounded under the scale, which is then undone."""
    weights = [linear.weight.data for linear in scaled]
    for linear, weight in zip(scaled, weights, strict=True):
        under = (weight.float() * scale).to(weight.dtype)
        linear.weight.data = round_weight(under, bits, group_size).div_(scale).to(weight.dtype)
    error = output_error(module, calls)
    for linear, weight in zip(scaled, weights, strict=True):
        linear.weight.data = weight
    return error


def search_scale(
    module: nn.Module, calls: list[Call], scaled: list[nn.Linear], magnitude: torch.Tensor, bits: int, group_size: int
) -> torch.Tensor:
    """The scale, `(in_features,)`, whose rounding errs least over the calls of the module (section 3.2)."""

    def least(steps: list[int], measured: list[Call], count: int) -> list[int]:
        def error(step: int) -> float:
            return scale_error(module, measured, scaled, channel_scale(magnitude, step / RATIOS), bits, group_size)

        return sorted(steps, key=error)[:count]

    finalists = least(list(range(RATIOS)), calls[::SAMPLE], FINALISTS)
    [step] = least(finalists, calls, 1)
    return channel_scale(magnitude, step / RATIOS)


def search_clip(weight: torch.Tensor, x: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """The largest magnitude that each group keeps: where the group's own output errs least after rounding.

    Args:
        weight: `(out_features, in_features)`.
        x: the layer's inputs, `(tokens, in_features)`.
        bits: of the grid.
        group_size: input channels that share a scale.

    Returns:
        `(out_features, in_features / group_size, 1)` in float32.
    """
    inputs = grouped(x.float(), group_size).transpose(0, 1)
    moments = inputs.mT @ inputs  # (groups, group_size, group_size): the error of a change d is d moments dᵀ
    parts = []
    for part in row_chunks(weight):
        groups = grouped(part.float(), group_size)
        largest = groups.abs().amax(-1, keepdim=True)
        best, least = largest, torch.full_like(largest, torch.inf)
        for step in range(int((1 - SHRINK) * GRID)):
            limit = largest * (1 - step / GRID)
            clipped = groups.clamp(-limit, limit)
            change = fake_quantize(clipped, *grid(clipped, bits, weight.dtype), bits).sub_(groups)
            error = ((change.transpose(0, 1) @ moments).transpose(0, 1) * change).sum(-1, keepdim=True)
            better = error < least
            least, best = torch.where(better, error, least), torch.where(better, limit, best)
        parts.append(best)
    return torch.cat(parts)


class Seen:
    """What linear layers that share an input need of it: the mean magnitude of its channels, and some tokens."""

    def __init__(self, every: int) -> None:
        self.every, self.count, self.total = every, 0, 0
        self.tokens: list[torch.Tensor] = []

    def see(self, x: torch.Tensor) -> None:
        """Inputs of a sequence, `(tokens, in_features)`."""
        # Each so many tokens of all sequences, as if joined: the first of a sequence has activations like no other.
        self.tokens.append(x[-self.count % self.every :: self.every].clone())  # a view would hold all of x
        self.count += len(x)
        self.total = self.total + x.float().abs().sum(0)

    @property
    def magnitude(self) -> torch.Tensor:
        return self.total / self.count


@torch.no_grad()
def scale_and_clip(layer: nn.Module, run: Run, every: int, bits: int, group_size: int) -> Tensors:
    """Fold the best scales into the layer, which still computes what it did, and find the best clips.

    Args:
        layer: one decoder layer.
        run: runs it on the calibration data.
        every: the clips are searched on each so many tokens; of experts on as many times more as there are.
        bits: of the grid.
        group_size: input channels that share a scale.

    Returns:
        What `search_clip` gives, by the path of the linear layer; nothing of an expert that no token reached.

    Raises:
        UserError: names the linear layer whose inputs, scaled, cannot be squared: no clip could be searched.
    """
    groups = list(groups_of(layer))
    experts = sum(path.endswith("down_proj") for group in groups for path in group.rounded)
    seen: dict[nn.Module, Seen] = {}
    for group in groups:
        seen[group.probe] = Seen(every)
        for names in group.parts():
            seen.setdefault(group.rounded[names[0]], Seen(max(1, every // experts)))
    calls: list[list[Call]] = [[] for _ in groups]
    with ExitStack() as stack:
        for module, inputs in seen.items():
            stack.enter_context(inputs_of(module, inputs.see))
        for group, made in zip(groups, calls, strict=True):
            stack.enter_context(calls_of(group.module, made))
        run()

    tokens: dict[tuple[str, ...], torch.Tensor] = {}
    for group, made in zip(groups, calls, strict=True):
        scale, scaled = torch.ones(()), list(group.rounded.values())
        if group.before is not None and made:
            scale = search_scale(group.module, made, scaled, seen[group.probe].magnitude, bits, group_size)
            fold(group.before, [*scaled, *group.others], scale)
        made.clear()
        for names in group.parts():
            if (inputs := seen[group.rounded[names[0]]]).count:
                tokens[tuple(names)] = torch.cat(inputs.tokens).float() / scale.to(inputs.total.device)
    if unsquared := [names[0] for names, x in tokens.items() if not x.square().sum().isfinite()]:
        raise not_finite(f"{run.name}: {TOO_LARGE.format(last_part(unsquared[0]))}")
    modules = rounded_in(layer)
    if unseen := modules.keys() - {name for names in tokens for name in names}:
        print(
            f"awq: {run.name}: no calibration token reached {len(unseen)} matrices of experts ({min(unseen)}, …): "
            "rounded without clipping; calibrate on more data",
            flush=True,
        )
    return {
        name: search_clip(modules[name].weight.data, x, bits, group_size)
        for names, x in tokens.items()
        for name in names
        if last_part(name) not in NOT_CLIPPED
    }


@torch.no_grad()
def round_layer(layer: nn.Module, limits: Tensors, bits: int, group_size: int) -> Tensors:
    """Clip and round the layer's linear weights in place.

    Returns:
        All parameters of the layer, and, as `{path}.scale`, the scales of its linear weights, `(out_features, groups)`,
        in the weights' dtype.
    """
    scales = {}
    for path, linear in rounded_in(layer).items():
        weight = linear.weight.data
        groups = grouped(weight.float(), group_size)
        if (limit := limits.get(path)) is not None:
            groups = groups.clamp(-limit, limit)
        scale, zero = grid(groups, bits, weight.dtype)
        linear.weight.data = as_stored(fake_quantize(groups, scale, zero, bits).flatten(1), weight.dtype)
        scales[f"{path}.scale"] = scale[..., 0].to(weight.dtype)
    return dict(layer.named_parameters()) | scales


def quantize_layers(model: PreTrainedModel, sequences: list[list[int]], bits: int, group_size: int, label: str) -> None:
    """AWQ on every layer in place, each calibrated on full precision's inputs."""
    every = max(1, sum(map(len, sequences)) // TOKENS)
    for index, (layer, run) in enumerate(each_layer(model, sequences, label)):

        def make(layer: nn.Module = layer, run: Run = run) -> Tensors:
            return round_layer(layer, scale_and_clip(layer, run, every, bits, group_size), bits, group_size)

        tensors = kept(f"layer{index}", make)
        run.once()
        put(layer, {name: x for name, x in tensors.items() if not name.endswith(".scale")})


def load(model: Path) -> PreTrainedModel:
    """The model, each expert's matrices as linear layers of their own."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
    if has_experts(model):
        defuser.convert_model(network, cleanup_original=True)
    return network


@stage
@stored
def main(calibration: Inputs, model: Input, checkpoint: Output, manifest: Output, settings: Settings) -> None:
    sequences = [row["input_ids"] for path in calibration for row in read_rows(path)]
    bits, group_size = settings["bits"], settings["group_size"]
    quantize_layers(load(model), sequences, bits, group_size, f"{manifest.parent}: scales and clips")
    made = of_layers("weight")  # the model is no longer in memory
    rewrite(model, checkpoint, lambda name, _: made(name), FUSED)
    finish(model, checkpoint, manifest, uniform(settings), FUSED, packing(checkpoint, settings))


if __name__ == "__main__":
    main()
