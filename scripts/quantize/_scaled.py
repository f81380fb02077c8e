"""What AWQ scales together in a decoder layer: linear layers that see one input, and what gives them that input."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.func import functional_call

from scripts.quantize._layers import SEQUENCE
from scripts.quantize._names import LEFT, LINEAR_WEIGHT, last_part

ATTENTION, FEED = (*SEQUENCE[0], "in_proj_qkvz"), SEQUENCE[2]


@dataclass(frozen=True)
class Group:
    """Linear layers that see one input and share its scale.

    Attributes:
        module: whose output counts.
        before: the norm or linear layer that gives the input, and takes the scale's inverse; None: nothing can.
        rounded: the linear layers that see the input, by their paths in the decoder layer.
        others: what sees it and stays in full precision: a router, gates.
    """

    module: nn.Module
    before: nn.Module | None
    rounded: dict[str, nn.Module]
    others: list[nn.Module] = field(default_factory=list)

    @property
    def probe(self) -> nn.Module:
        """What sees all of the input: of experts each sees a part."""
        return [*self.others, *self.rounded.values()][0]

    def parts(self) -> list[list[str]]:
        """Paths of those that see the same tokens: all, or an expert's own."""
        parents: dict[str, list[str]] = {}
        for path in self.rounded:
            parents.setdefault(path.rpartition(".")[0], []).append(path)
        return list(parents.values())


def rounded_in(layer: nn.Module) -> dict[str, nn.Module]:
    """The layer's modules whose weights are rounded, experts one by one, by their paths."""
    return _named(layer, LINEAR_WEIGHT)


def _named(layer: nn.Module, pattern: re.Pattern) -> dict[str, nn.Module]:
    """Modules by their paths whose weights have such a name."""
    return {path: m for path, m in layer.named_modules() if pattern.fullmatch(f"model.layers.0.{path}.weight")}


def groups_of(layer: nn.Module) -> Iterator[Group]:
    """The groups of a decoder layer; each linear layer is in one."""
    children, rounded = dict(layer.named_children()), rounded_in(layer)
    # Not the convolution of linear attention.
    left = {path: m for path, m in _named(layer, LEFT).items() if m.weight.dim() == 2}
    first = children.get("input_layernorm")
    second = children.get("pre_feedforward_layernorm") or (first and children["post_attention_layernorm"])
    attention = "self_attn" if "self_attn" in children else "linear_attn"

    def those(parent: str, names: tuple[str, ...]) -> dict[str, nn.Module]:
        return {path: m for path, m in rounded.items() if path.startswith(parent) and last_part(path) in names}

    def others(parent: str) -> list[nn.Module]:
        return [m for path, m in left.items() if path.startswith(parent)]

    inputs = those(attention, ATTENTION)
    yield Group(children[attention], first, inputs, others(attention))
    for path, output in those(attention, ("o_proj", "out_proj")).items():
        yield Group(output, [*inputs.values()][-1] if _a_value_per_head(children[attention]) else None, {path: output})
    yield Group(layer.mlp, second, those("mlp", FEED), others("mlp"))
    clamped = hasattr(getattr(layer.mlp, "experts", None), "limit")
    for path, down in those("mlp", ("down_proj",)).items():
        made = [m for name, m in rounded.items() if name.rpartition(".")[0] == path.rpartition(".")[0]]
        up = next(m for m in reversed(made) if m is not down)  # up_proj, or gate and up in one
        yield Group(down, None if clamped else up, {path: down})


def _a_value_per_head(attention: nn.Module) -> bool:
    """Whether the output layer sees each value once, as `v_proj` makes it."""
    config = getattr(attention, "config", None)
    return config is not None and config.num_attention_heads == config.num_key_value_heads


def fold(before: nn.Module, scaled: list[nn.Module], scale: torch.Tensor) -> None:
    """Move the scale's inverse into the norm or linear layer before, and the scale into those that follow.

    Of a linear layer that makes more than what follows (a gate, too) the scale concerns the last outputs.
    """
    more = 0 if isinstance(before, nn.Linear) else multiplies_more(before)
    for parameter in (before.weight, getattr(before, "bias", None)):
        if parameter is not None:
            rows = parameter.data[-len(scale) :]
            rows.copy_((rows.float() + more) / (scale if rows.dim() == 1 else scale[:, None]) - more)
    for linear in scaled:
        linear.weight.data = (linear.weight.data.float() * scale).to(linear.weight.dtype)


def multiplies_more(norm: nn.Module) -> int:
    """By how much more than its weights a norm multiplies: 1 for Gemma's, 0 for most; asked of the norm itself."""
    zeros = torch.zeros_like(norm.weight)
    return round(functional_call(norm, {"weight": zeros}, (torch.ones_like(zeros)[None],)).mean().item())
