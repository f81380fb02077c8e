"""MXFP4: "OCP Microscaling Formats (MX) Specification", version 1.0: E2M1 values with a shared power of two (E8M0)."""

import torch

BLOCK = 32  # values that share a scale (section 5.2, table 1)
LARGEST = 6.0  # of E2M1 (section 5.3.3)
LARGEST_EXPONENT = 2
BIAS, MANTISSA_BITS = 127, 23  # of float32; E8M0 has its bias


def round_mxfp4(x: torch.Tensor) -> torch.Tensor:
    """Round each 32 values of the last axis to MXFP4 and return to real numbers: `(..., 32 n)`, in x's dtype.

    Section 6.3: the shared exponent is that of the block's largest magnitude less that of E2M1's; what lies above
    6 of its units saturates; ties go to the even mantissa.
    """
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    # E8M0 is what float32 has for an exponent: floor(log2) without a logarithm's error, 0 for what is not normal.
    exponent = blocks.abs().amax(-1, keepdim=True).view(torch.int32) >> MANTISSA_BITS
    shared = (exponent - LARGEST_EXPONENT).clamp_(min=0)
    inverse = ((2 * BIAS - shared) << MANTISSA_BITS).view(torch.float32)  # of the scale, which may be subnormal itself
    values = blocks * inverse
    magnitude = values.abs()
    # Two values in each of [1, 2), [2, 4) and [4, 8); below 1 the step is that of [1, 2), as subnormals have it.
    step = (magnitude >= 2) * 0.5 + (magnitude >= 4) + 0.5
    rounded = (values / step).round_().mul_(step).clamp_(-LARGEST, LARGEST)
    return (rounded / inverse).flatten(-2).to(x.dtype)
