"""Rounding and transforms are what their formulas say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts.fakequant.hadamard import hadamard_factors, hadamard_transform
from scripts.fakequant.mxfp4 import round_mxfp4
from scripts.fakequant.orders import has_hadamard
from scripts.fakequant.rounding import round_tokens
from scripts.fakequant.settings import hadamard_at, round_heads, round_input
from tests.tiny import hadamard_matrix

# Hidden and intermediate sizes of the study's models and their like.
SIZES = [
    *(576, 896, 1536, 2048, 3584, 4096, 4864, 5120, 8192, 8960, 12288, 13824, 14336),
    *(17408, 18944, 25600, 27648, 28672),
]
KV4 = {"keys": {"bits": 4, "clip": 0.95, "hadamard": True}, "values": {"bits": 4, "clip": 0.95}}
ACTIVATIONS = {"bits": 4, "symmetric": False, "clip": 0.9}
FLOATS = st.floats(-100, 100, width=32, allow_subnormal=False)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_of_the_study_and_its_parts_has_a_hadamard_matrix(size: int):
    assert all(has_hadamard(size // parts) for parts in (1, 4, 8))


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 28, 36, 76, 140, 148, 200, 256, 576, 896, 2 * 148])
def test_a_hadamard_matrix_has_signs_and_orthogonal_rows(order: int):
    matrix = hadamard_matrix(order)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(order, dtype=torch.float64))
    torch.testing.assert_close((matrix * math.sqrt(order)).abs(), torch.ones(order, order, dtype=torch.float64))


@pytest.mark.parametrize("order", [1, 12, 128, 448, 2432])
def test_the_fast_transform_is_the_matrix(order: int):
    x = torch.randn(2, 3, order, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factors = hadamard_factors(order)
    torch.testing.assert_close(hadamard_transform(x, factors), x @ hadamard_matrix(order))
    parts = torch.cat([x, 2 * x], -1)
    torch.testing.assert_close(hadamard_transform(parts, factors).chunk(2, -1)[1], 2 * x @ hadamard_matrix(order))


@pytest.mark.parametrize("size", [3584, 4736, 3072, 2240, 128])
def test_a_transform_of_16_bits_is_rounded_once(size: int):
    """Sums in float32 of what bf16 holds, with factors of exactly ±1: no gain of its own, and ties alone differ."""
    factors = hadamard_factors(size)
    assert all(factor.dtype == torch.float32 and factor.abs().eq(1).all() for factor in factors)
    x = torch.randn(64, size, generator=torch.Generator().manual_seed(0)).bfloat16()
    found, exact = hadamard_transform(x, factors), x.double() @ hadamard_matrix(size)
    assert (found != exact.bfloat16()).float().mean() < 1e-3
    assert abs((found.double() * exact).sum() / exact.pow(2).sum() - 1) < 1e-4
    one = torch.zeros(size, dtype=torch.bfloat16)
    one[0] = 1
    assert hadamard_transform(one, factors).double().norm() == pytest.approx(1, abs=2e-3)


def test_a_size_without_a_matrix_is_refused_by_number():
    assert not has_hadamard(11008)
    with pytest.raises(ValueError, match="11008"):
        hadamard_factors(11008)


def plain_loop(row: list[float], bits: int, clip: float, *, symmetric: bool) -> list[float]:
    """Rounding of one group as the formula says, one number after the other, in float32."""

    def f32(x: float) -> float:
        return torch.tensor(x, dtype=torch.float32).item()

    if symmetric:
        scale = f32(f32(max(abs(x) for x in row) * clip) / (2 ** (bits - 1) - 1)) or 1.0
        zero = 2 ** (bits - 1)
    else:
        low, high = f32(min([*row, 0.0]) * clip), f32(max([*row, 0.0]) * clip)
        scale = f32(f32(high - low) / (2**bits - 1)) or 1.0
        zero = round(f32(-low / scale))
    return [f32((min(max(round(f32(x / scale)) + zero, 0), 2**bits - 1) - zero) * scale) for x in row]


@given(
    st.lists(FLOATS, min_size=8, max_size=8),
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from([-1, 4]),
    st.sampled_from([1.0, 0.5]),
    st.booleans(),
)
def test_rounding_of_tokens_equals_a_plain_loop(row: list, bits: int, group_size: int, clip: float, symmetric: bool):
    size = 8 if group_size == -1 else group_size
    groups = [row[start : start + size] for start in range(0, 8, size)]
    expected = [value for group in groups for value in plain_loop(group, bits, clip, symmetric=symmetric)]
    found = round_tokens(torch.tensor([row], dtype=torch.float32), bits, group_size, symmetric=symmetric, clip=clip)
    assert found.tolist() == [expected]


E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # by code; the eight codes with a sign are their negatives


def mxfp4_loop(block: list[float]) -> list[float]:
    """Section 6.3 of the MX specification, one number after the other, in exact arithmetic."""
    largest = max(map(abs, block))
    exponent = max(math.frexp(largest)[1] - 1 - 2, -127) if largest else -127

    def nearest(x: float) -> float:
        magnitude = abs(math.ldexp(x, -exponent))
        code = min(range(8), key=lambda c: (abs(E2M1[c] - magnitude), c % 2))  # ties go to the even code
        return math.copysign(math.ldexp(E2M1[code], exponent), x)

    return [nearest(x) for x in block]


def mxfp4(*values: float) -> list[float]:
    """The values rounded in a block whose largest magnitude is 4, so that its scale is 1."""
    return round_mxfp4(torch.tensor([*values, 4.0] + [0.0] * (31 - len(values)))).tolist()[: len(values)]


def test_all_codes_of_e2m1_are_kept():
    codes = [sign * value for value in E2M1 for sign in (1, -1)]
    assert mxfp4(*codes) == codes
    for exponent in (-127, -3, 5, 120):
        scaled = torch.tensor([math.ldexp(code, exponent) for code in codes * 2])
        assert torch.equal(round_mxfp4(scaled), scaled)


def test_ties_of_e2m1_go_to_even_mantissas_and_the_largest_saturate():
    assert mxfp4(0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -5) == [0, 1, 1, 2, 2, 4, 4, 0, -1, -4]
    assert mxfp4(0.26, 0.74, 2.51, 4.99, 5.01) == [0.5, 0.5, 3, 4, 6]
    assert mxfp4(6.5, 7.0, 7.99, -7.5) == [6, 6, 6, -6]


def test_a_block_shares_no_scale_with_another():
    x = torch.cat([torch.full((32,), 1e-3), torch.full((32,), 1e3)])
    rounded = round_mxfp4(torch.stack([x, x.flip(0)]))
    torch.testing.assert_close(rounded, torch.stack([x, x.flip(0)]), rtol=0.25, atol=0)
    assert torch.equal(rounded[0], rounded[1].flip(0))
    assert not round_mxfp4(torch.zeros(2, 64)).any()


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=32, max_size=32),
    st.integers(-60, 0),
)
def test_mxfp4_equals_a_plain_loop(block: list[float], exponent: int):
    """Over all of float32, subnormal numbers included, and with blocks of like magnitudes."""
    for values in (block, [math.remainder(x, 8) * 2.0**exponent for x in block]):
        x = torch.tensor(values, dtype=torch.float32)
        assert round_mxfp4(x).tolist() == mxfp4_loop(x.tolist())


@pytest.mark.parametrize("layer", ["o_proj", "down_proj"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_ranks_share_is_rounded_as_the_whole_is(layer: str, ranks: int):
    """Bit for bit; and with another number of groups it is not."""
    settings = {"row_groups": 4, "activations": ACTIVATIONS, "hadamard": ["down_proj"]}
    x = torch.randn(5, 4 * 96, generator=torch.Generator().manual_seed(0))
    factors = hadamard_at(settings, layer, 96)
    assert bool(factors) == (layer == "down_proj")
    whole = round_input(x, layer, settings, 4, factors)
    shares = [round_input(share, layer, settings, 4 // ranks, factors) for share in x.chunk(ranks, -1)]
    assert torch.equal(torch.cat(shares, -1), whole)
    assert not torch.equal(round_input(x, layer, settings, 2, factors), whole)


def test_groups_of_keys_and_values_never_cross_heads():
    """Another head's outlier changes nothing, and a head of 256 channels has two groups."""
    settings = {"keys": {"bits": 3, "clip": 1.0, "hadamard": False}, "values": {"bits": 3, "clip": 1.0}}
    for head_dim in (32, 256):
        heads = torch.randn(3, 2, head_dim, generator=torch.Generator().manual_seed(1))
        changed = heads.clone()
        changed[:, 1, -1] = 1000
        _, *before = round_heads(heads, heads, heads, settings, {})
        _, *after = round_heads(heads, changed, changed, settings, {})
        for x, y in zip(before, after, strict=True):
            assert torch.equal(x[:, 0], y[:, 0])
            assert torch.equal(x[:, 1, :128], y[:, 1, :128]) == (head_dim == 256)


@pytest.mark.parametrize(("bits", "outliers", "ratio"), [(8, False, 1.04), (8, True, 1.0), (4, False, 1.0)])
def test_a_grid_in_bfloat16_has_the_larger_error_that_is_stated(bits: int, outliers: bool, ratio: float):
    """The study's order of operations, each of which rounds to bfloat16."""
    x = torch.randn(512, 3584, generator=torch.Generator().manual_seed(0))
    x = (x * torch.where(torch.arange(3584) % 500 == 0, 60.0, 1.0) if outliers else x).bfloat16()
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    theirs = ((x / scale).round() + zero).clamp(0, 2**bits - 1).sub(zero) * scale
    errors = [(found.float() - x.float()).square().mean().sqrt() for found in (theirs, round_tokens(x, bits))]
    assert errors[0] / errors[1] == pytest.approx(ratio, abs=0.01)
