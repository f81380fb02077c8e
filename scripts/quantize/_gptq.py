"""GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv 2210.17323), Algorithm 1, for weights whose inputs are transformed or rounded too.
"""

import torch

from scripts.fakequant.rounding import fake_quantize, symmetric_grid
from scripts.quantize._chunks import row_chunks

BLOCK = 128  # columns that are updated lazily together (section 3.3)
DAMPING, MORE_DAMPING = 0.01, 0.0015  # shares of the Hessian's mean diagonal: at first, and added at each failure
NORM, GRID, SHRINK = 2.4, 100, 0.2  # clip search of the study: norm of the error, steps, smallest share of the range


def clipped_grid(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric grid of each last axis whose clip makes the rounding error least: `(..., n)` → two `(..., 1)`."""
    found = [_search(part, bits) for part in row_chunks(groups.flatten(0, -2))]
    scale, zero = (torch.cat(grids) for grids in zip(*found, strict=True))
    return scale.reshape(*groups.shape[:-1], 1), zero.reshape(*groups.shape[:-1], 1)


def _search(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    best_scale, zero = symmetric_grid(groups, bits)
    least = torch.full_like(best_scale, torch.inf)
    for step in range(int((1 - SHRINK) * GRID)):
        scale, _ = symmetric_grid(groups, bits, 1 - step / GRID)
        error = (fake_quantize(groups, scale, zero, bits) - groups).abs().pow(NORM).sum(-1, keepdim=True)
        better = error < least
        least, best_scale = torch.where(better, error, least), torch.where(better, scale, best_scale)
    return best_scale, zero


def inverse_cholesky(hessian: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the damped inverse (section 3.3, step 3): `(n, n)` → `(n, n)`.

    In float32 a Hessian may fail to be positive definite: the damping then grows, as in the study, to at most 1.

    Raises:
        torch.linalg.LinAlgError: no damping makes it positive definite.
    """
    mean = hessian.diagonal().mean()
    for attempt in range(int((1 - DAMPING) / MORE_DAMPING) + 1):
        damped = hessian.clone()
        damped.diagonal().add_((DAMPING + attempt * MORE_DAMPING) * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return upper
    raise torch.linalg.LinAlgError("its Hessian has no Cholesky factor, whatever the damping")


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
    # Transposed, so that what is rounded together lies together.
    columns, hessian = weight.float().T.clone(memory_format=torch.contiguous_format), hessian.float().clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    columns[dead] = 0
    size = len(columns) // row_groups
    scale = zero = columns[0]
    factor = inverse_cholesky(hessian)
    rounded = torch.empty_like(columns)
    for start in range(0, len(columns), BLOCK):
        block = slice(start, min(start + BLOCK, len(columns)))
        left, local = columns[block].clone(), factor[block, block]
        errors = torch.empty_like(left)
        for i in range(len(left)):
            if (start + i) % size == 0:  # as in the study, from the weights as the blocks before have left them
                scale, zero = (x[:, 0] for x in clipped_grid(columns[start + i : start + i + size].T, bits))
            rounded[start + i] = fake_quantize(left[i], scale, zero, bits)
            errors[i] = (left[i] - rounded[start + i]) / local[i, i]
            left[i + 1 :].addr_(local[i, i + 1 :], errors[i], alpha=-1)
        columns[block.stop :].addmm_(factor[block, block.stop :].T, errors, alpha=-1)
    return rounded.T.contiguous()
