"""GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv 2210.17323), Algorithm 1, for weights whose inputs are transformed or rounded too.
"""

import torch

from scripts.fakequant.rounding import fake_quantize, symmetric_grid

BLOCK = 128  # columns that are updated lazily together (section 3.3)
DAMPING = 0.01  # share of the Hessian's mean diagonal
NORM, GRID, SHRINK = 2.4, 100, 0.2  # clip search of the study: norm of the error, steps, smallest share of the range


def clipped_grid(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric grid of each last axis whose clip makes the rounding error least: `(..., n)` → two `(..., 1)`."""
    best_scale, zero = symmetric_grid(groups, bits)
    least = torch.full_like(best_scale, torch.inf)
    for step in range(int((1 - SHRINK) * GRID)):
        scale, _ = symmetric_grid(groups, bits, 1 - step / GRID)
        error = (fake_quantize(groups, scale, zero, bits) - groups).abs().pow(NORM).sum(-1, keepdim=True)
        better = error < least
        least, best_scale = torch.where(better, error, least), torch.where(better, scale, best_scale)
    return best_scale, zero


def inverse_cholesky(hessian: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the damped inverse (section 3.3, step 3): `(n, n)` → `(n, n)`."""
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian), device=hessian.device)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def gptq(weight: torch.Tensor, hessian: torch.Tensor, bits: int, row_groups: int) -> torch.Tensor:
    """Fake-quantize a weight, column after column, each error made good by the columns that are left.

    Args:
        weight: `(out_features, in_features)`.
        hessian: `(in_features, in_features)`, a multiple of X Xᵀ over the layer's inputs.
        bits: of the symmetric grid.
        row_groups: parts of the input channels that have a scale of their own in each output channel.

    Returns:
        The rounded weight in float32, same shape.
    """
    weight, hessian = weight.float().clone(), hessian.float().clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    weight[:, dead] = 0
    size = weight.shape[1] // row_groups
    scale, zero = clipped_grid(weight.unflatten(1, (row_groups, size)), bits)
    factor = inverse_cholesky(hessian)
    rounded = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, weight.shape[1]))
        left, errors = weight[:, block].clone(), torch.empty_like(weight[:, block])
        local = factor[block, block]
        for i in range(left.shape[1]):
            group = (start + i) // size
            column = fake_quantize(left[:, i : i + 1], scale[:, group], zero[:, group], bits)
            errors[:, i : i + 1] = (left[:, i : i + 1] - column) / local[i, i]
            left[:, i:] -= errors[:, i : i + 1] * local[i, i:]
            rounded[:, start + i] = column[:, 0]
        weight[:, block.stop :] -= errors @ factor[block, block.stop :]
    return rounded
