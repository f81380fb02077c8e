"""FlatQuant's learning: what is learned for one decoder layer, and how (Sun et al., arXiv 2410.09426, section 3.1)."""

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scripts.fakequant.kronecker import balanced, kronecker
from scripts.fakequant.rounding import asymmetric_grid, fake_quantize, grouped, symmetric_grid
from scripts.fakequant.settings import KV_GROUP, PLACES
from scripts.quantize._layers import TOO_LARGE, inputs_of, linears
from scripts.quantize._store import Tensors
from scripts.quantize.smoothquant import smoothing

CLIP_RATE = 10  # times the learning rate: of clips, as published
LAST_RATE = 1e-3  # share of the learning rate that the cosine ends at
# Linear layers that see one input, by its place; and the layer in whose output the scale of that input is folded.
FOLLOWING = {place: [name for name, at in PLACES.items() if at == place] for place in ("qkv_proj", "gate_up_proj")}
FOLLOWING |= {"down_proj": ["down_proj"]}
SCALED_BY = {"qkv_proj": "input_layernorm", "gate_up_proj": "post_attention_layernorm", "down_proj": "up_proj"}


class StraightThrough(torch.autograd.Function):
    """`fake_quantize` with the gradients of Bengio et al. (arXiv 1308.3432): rounding counts as the identity."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
        rounded = fake_quantize(x, scale, zero, bits)
        steps = (x / scale).round_().add_(zero)
        ctx.save_for_backward(x, scale, rounded, (steps < 0) | (steps >= 2**bits))
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, rounded, clipped = ctx.saved_tensors
        unclipped = gradient.masked_fill(clipped, 0)
        of_scale = (gradient * rounded).sub_(unclipped * x).sum_to_size(scale.shape) / scale
        return unclipped, of_scale, None, None


def round_activations(x: torch.Tensor, bits: int, group_size: int, clip: torch.Tensor) -> torch.Tensor:
    """Forwards `round_tokens`, with gradients: `(..., n)`; clip is `(groups, 2)`, or `(1, 2)`."""
    groups = grouped(x, group_size)
    scale, zero = asymmetric_grid(groups, bits, clip)
    return StraightThrough.apply(groups, scale, zero, bits).reshape(x.shape)


def round_weight(weight: torch.Tensor, bits: int, clip: torch.Tensor) -> torch.Tensor:
    """Symmetric per output channel and row group: `(out_features, in_features)`; clip `(out_features, groups, 1)`."""
    groups = weight.unflatten(1, (clip.shape[1], -1))
    scale, zero = symmetric_grid(groups, bits, clip)
    return StraightThrough.apply(groups, scale, zero, bits).reshape(weight.shape)


def cayley(x: torch.Tensor) -> torch.Tensor:
    """Rotations from the lower triangles of `(..., n, n)`: same shape, orthogonal whatever x is."""
    skew = x.tril(-1) - x.tril(-1).mT
    one = torch.eye(x.shape[-1], device=x.device)
    return torch.linalg.solve(one + skew, one - skew)


def start(layer: nn.Module, largest: Tensors, settings: dict[str, Any], generator: torch.Generator) -> Tensors:
    """Parameters before learning: random rotations, the scales of SmoothQuant, one clip for all.

    Args:
        layer: one decoder layer.
        largest: largest magnitude of each channel of the inputs at `qkv_proj`, `gate_up_proj` and `down_proj`.
        settings: of the scheme.
        generator: of the rotations, on the CPU.
    """
    modules, row_groups = linears(layer), settings["row_groups"]
    head_dim = layer.self_attn.head_dim
    widths = {place: modules[names[0]].in_features for place, names in FOLLOWING.items()}
    groups = {"qkv_proj": 1, "gate_up_proj": 1, "o_proj": row_groups, "down_proj": row_groups}
    matrices = {"o_proj.left": modules["o_proj"].in_features // head_dim // row_groups}
    matrices |= {"heads.key": head_dim, "heads.value": head_dim}
    for place, width in widths.items():
        matrices[f"{place}.left"], matrices[f"{place}.right"] = balanced(width // groups[place])
    parameters = {}
    for name, size in matrices.items():
        count = groups.get(name.split(".")[0], 1)
        parameters[f"{name}.rotations"] = torch.randn(2, count, size, size, generator=generator) / math.sqrt(size)
        parameters[f"{name}.logarithms"] = torch.zeros(count, size)
    for place, names in FOLLOWING.items():
        weights = torch.cat([modules[name].weight for name in names])
        parameters[f"{place}.scale"] = -smoothing(largest[place], weights, settings["alpha"]).log()
    clips = {f"{place}.clip": (count, 2) for place, count in groups.items()}
    clips |= {"heads.key_clip": (1, 2), "heads.value_clip": (1, 2)}
    clips |= {f"{n}.weight_clip": (m.out_features, groups[PLACES.get(n, n)], 1) for n, m in modules.items()}
    logit = torch.tensor(settings["clip"]).logit().item()
    parameters |= {name: torch.full(shape, logit) for name, shape in clips.items()}
    return {name: x.to(modules["o_proj"].weight.device).requires_grad_() for name, x in parameters.items()}


def values(parameters: Tensors) -> Tensors:
    """What the parameters stand for: clips, scales, and matrices `(groups, n, n)` with their inverses.

    A matrix is U diag(exp(s)) Vᵀ with rotations U and V, so that its inverse costs nothing and always exists (the
    published code has the diagonal itself in place of its logarithm, and can reach zero). `.inverse` is transposed.
    """
    found = {}
    for name, x in parameters.items():
        if name.endswith("clip"):
            found[name] = x.sigmoid()
        elif name.endswith(".scale"):
            found[name] = x.exp()
        elif name.endswith(".rotations"):
            matrix = name.removesuffix(".rotations")
            (u, v), s = cayley(x).unbind(), parameters[f"{matrix}.logarithms"].unsqueeze(-2)
            found[matrix], found[f"{matrix}.inverse"] = u * s.exp() @ v.mT, u * (-s).exp() @ v.mT
    return found


def by_head(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply each head of `(..., heads * head_dim)` by `(head_dim, head_dim)`."""
    return (x.unflatten(-1, (-1, len(matrix))) @ matrix).flatten(-2)


def rounded_parameters(layer: nn.Module, learned: Tensors, bits: int) -> Tensors:
    """Parameters by name that take the places of the layer's: with the transforms of its inputs, and without rounding,
    it computes what it did.

    Equation 2 of the paper: x becomes x S P and W becomes W S⁻¹ P⁻ᵀ, then rounded. S is folded into what gives x.
    """
    found = {f"{norm}.weight": getattr(layer, norm).weight.float() * learned[f"{place}.scale"]
             for place, norm in SCALED_BY.items() if norm.endswith("norm")}  # fmt: skip
    paths = {path.rsplit(".", 1)[-1]: path for path, _ in layer.named_modules()}
    for name, linear in linears(layer).items():
        place = PLACES.get(name, name)
        weight, bias = linear.weight.float(), None if linear.bias is None else linear.bias.float()
        left = learned[f"{place}.left.inverse"]
        if name == "o_proj":
            right = learned["heads.value.inverse"].expand(len(left), -1, -1)
        else:
            weight, right = weight / learned[f"{place}.scale"], learned[f"{place}.right.inverse"]
        weight = kronecker(weight, left, right)
        if name == "v_proj":
            weight = by_head(weight.T, learned["heads.value"][0]).T
            bias = None if bias is None else by_head(bias, learned["heads.value"][0])
        weight = round_weight(weight, bits, learned[f"{name}.weight_clip"])
        if name == SCALED_BY["down_proj"]:  # its grids are per output channel: to scale one scales its grid
            weight = weight * learned["down_proj.scale"].unsqueeze(1)
            bias = None if bias is None else bias * learned["down_proj.scale"]
        found[f"{paths[name]}.weight"] = weight
        if bias is not None:
            found[f"{paths[name]}.bias"] = bias
    return found


def served(learned: Tensors) -> Tensors:
    """What the engine is to apply while it serves: the tensors of scripts/fakequant/settings.py of one layer."""
    tensors = {name: x for name, x in learned.items() if name.endswith((".left", ".right", ".clip", "_clip"))}
    tensors = {name: x for name, x in tensors.items() if not name.endswith(".weight_clip")}
    return tensors | {"heads.key": learned["heads.key"][0], "heads.query": learned["heads.key.inverse"][0]}


def round_inside(layer: nn.Module, tensors: Tensors, settings: dict[str, Any]) -> None:
    """Make the layer transform and round, with gradients, as `tensors` say, which the caller may renew."""

    def at(place: str, x: torch.Tensor) -> torch.Tensor:
        left, right, clip = (tensors.get(f"{place}.{part}") for part in ("left", "right", "clip"))
        return round_activations(kronecker(x, left, right), settings["activation_bits"], x.shape[-1] // len(left), clip)

    def attention(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        scaling: float,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        query, key = query @ tensors["heads.query"], key @ tensors["heads.key"]
        size = min(KV_GROUP, key.shape[-1])
        key, value = (
            round_activations(x, settings["kv_bits"], size, tensors[f"heads.{clip}"])
            for x, clip in ((key, "key_clip"), (value, "value_clip"))
        )
        # For float32 CUDA's only kernel that takes fewer heads of keys than of queries keeps all scores of a batch.
        key, value = (repeat_kv(x, module.num_key_value_groups) for x in (key, value))
        y = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling, is_causal=mask is None)
        return y.transpose(1, 2).contiguous(), None

    # A norm's output is the input of several layers: transformed once.
    layer.input_layernorm.register_forward_hook(lambda *a: at("qkv_proj", a[2]))
    layer.post_attention_layernorm.register_forward_hook(lambda *a: at("gate_up_proj", a[2]))
    for name in ("o_proj", "down_proj"):
        linears(layer)[name].register_forward_pre_hook(lambda _, a, name=name: (at(name, a[0]),))
    ALL_ATTENTION_FUNCTIONS.register("flatquant", attention)
    layer.self_attn.config._attn_implementation = "flatquant"


def magnitudes(layer: nn.Module, forward: Callable[[], object]) -> Tensors:
    """Largest magnitude of each channel of the inputs that have a scale, over all that `forward` runs."""
    modules = linears(layer)
    first = {place: modules[names[0]] for place, names in FOLLOWING.items()}
    largest = {place: torch.zeros(m.in_features, device=m.weight.device) for place, m in first.items()}
    with ExitStack() as stack:
        for place, module in first.items():
            seen = largest[place]
            stack.enter_context(inputs_of(module, lambda x, seen=seen: torch.maximum(seen, x.abs().amax(0), out=seen)))
        forward()
    return largest


Call = tuple[torch.Tensor, dict[str, Any]]  # hidden states `(1, tokens, hidden_size)` and keywords of a layer's call


def learn(layer: nn.Module, calls: list[Call], settings: dict[str, Any], generator: torch.Generator) -> Tensors:
    """What a layer learns from its calls in full precision: `values`, and `loss` before and after.

    As published, the rounded layer sees full precision's inputs and is to give full precision's outputs. It is copied,
    and learns in float32.

    Raises:
        OverflowError: names the place whose inputs cannot be squared.
    """
    layer = copy.deepcopy(layer).float().requires_grad_(False)
    with torch.no_grad():
        targets: list[torch.Tensor] = []
        largest = magnitudes(layer, lambda: targets.extend(layer(x.float(), **named).cpu() for x, named in calls))
        for place, seen in largest.items():
            if not seen.square().isfinite().all():
                raise OverflowError(TOO_LARGE.format(place))
        parameters = start(layer, largest, settings, generator)
    groups = [[x for name, x in parameters.items() if name.endswith("clip") is clips] for clips in (False, True)]
    rates = [settings["learning_rate"], settings["learning_rate"] * CLIP_RATE]
    optimizer = torch.optim.AdamW([{"params": g, "lr": rate} for g, rate in zip(groups, rates, strict=True)])
    batches = torch.arange(len(calls)).split(settings["batch_size"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, settings["epochs"] * len(batches), settings["learning_rate"] * LAST_RATE
    )
    tensors: Tensors = {}

    def loss(batch: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the tokens of the sequences, padded on the right, where no token sees it."""
        device = parameters["qkv_proj.scale"].device
        x, expected = (
            pad_sequence([part[0].float() for part in parts], batch_first=True).to(device)
            for parts in ([calls[i][0] for i in batch], [targets[i] for i in batch])
        )
        lengths = torch.tensor([calls[i][0].shape[1] for i in batch], device=device)
        named = calls[max(batch, key=lambda i: calls[i][0].shape[1])][1]
        learned = values(parameters)
        tensors.update(served(learned))
        found = functional_call(layer, rounded_parameters(layer, learned, settings["bits"]), (x,), named)
        real = torch.arange(x.shape[1], device=device) < lengths.unsqueeze(1)
        return nn.functional.mse_loss(found[real], expected[real])

    @torch.no_grad()
    def mean_loss() -> torch.Tensor:
        return torch.stack([loss(batch) for batch in batches]).mean()

    round_inside(layer, tensors, settings)
    before = mean_loss()
    for _ in range(settings["epochs"]):
        for batch in batches:
            error = loss(batch)
            optimizer.zero_grad()
            (error / error.detach()).backward()
            optimizer.step()
            schedule.step()
    after = mean_loss()
    with torch.no_grad():
        return values(parameters) | {"loss": torch.stack([before, after])}
