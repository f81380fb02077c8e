"""Rounding to few bits and back: what the quantizers and the engine agree on. Pure functions on tensors."""

import torch


def grouped(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """View the last axis in groups: `(..., n)` → `(..., n / group_size, group_size)`; -1 is one group.

    Raises:
        ValueError: the groups do not divide the axis.
    """
    if group_size == -1:
        return x.unsqueeze(-2)
    if x.shape[-1] % group_size:
        raise ValueError(f"groups of {group_size} do not divide {x.shape[-1]} channels")
    return x.unflatten(-1, (-1, group_size))


def asymmetric_grid(x: torch.Tensor, bits: int, clip: float | torch.Tensor = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each last axis, from minimum and maximum including 0: `(..., n)` → two `(..., 1)`.

    Equation 2 of Nagel et al., "A White Paper on Neural Network Quantization" (arXiv 2106.08295), with the zero
    point an integer on the grid; `clip` shrinks both ends, a tensor `(..., 2)` each by a share of its own. The scale
    has gradients, with regard to both arguments.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    if isinstance(clip, torch.Tensor):
        low, high = low * clip[..., :1], high * clip[..., 1:]
    elif clip != 1:
        low, high = low * clip, high * clip
    scale = (high - low).div_(2**bits - 1)
    scale.masked_fill_(scale == 0, 1)
    return scale, (low / scale).neg_().round_()


def symmetric_grid(x: torch.Tensor, bits: int, clip: float | torch.Tensor = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale of each last axis, from the largest magnitude, and the zero point in the middle of the grid.

    Equation 6 of Nagel et al. (arXiv 2106.08295), signed: the largest magnitude is the largest positive integer;
    `clip` shrinks it, a tensor `(..., 1)` each by a share of its own.
    """
    scale = x.abs().amax(-1, keepdim=True) * clip / (2 ** (bits - 1) - 1)
    scale.masked_fill_(scale == 0, 1)
    return scale, torch.full_like(scale, 2 ** (bits - 1))


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to the nearest of `2**bits` values of the grid and return to real numbers: same shape as `x`."""
    # In place where the tensor is our own: rounding is a dozen short passes, and allocating would cost as much.
    return (x / scale).round_().add_(zero).clamp_(0, 2**bits - 1).sub_(zero).mul_(scale)


def round_tokens(
    x: torch.Tensor, bits: int, group_size: int = -1, *, symmetric: bool = False, clip: float | torch.Tensor = 1.0
) -> torch.Tensor:
    """Fake-quantize each token's channels, in groups that have a grid of their own: `(..., n)`, in x's dtype.

    The grid is computed in float32, whatever the dtype of `x`. The study computes it in bfloat16, and its errors are
    larger: at 8 bits 1.04 times (root mean square) for normal values, less where channels stand out; the same at 4
    bits. A tensor of clips is `(groups, 2)`, or `(1, 2)`.
    """
    groups = grouped(x.float(), group_size)
    scale, zero = (symmetric_grid if symmetric else asymmetric_grid)(groups, bits, clip)
    return fake_quantize(groups, scale, zero, bits).reshape(x.shape).to(x.dtype)
