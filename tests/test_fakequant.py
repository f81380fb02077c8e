"""Rounding and transforms are what their formulas say, and vLLM with the plugin computes what the reference does."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from scripts.fakequant.hadamard import hadamard_by_part, hadamard_matrix, hadamard_transform
from scripts.fakequant.orders import has_hadamard
from scripts.fakequant.reference import load_reference
from scripts.fakequant.rounding import round_tokens
from scripts.fakequant.settings import KEY_GRIDS, round_heads, round_input, write_settings
from scripts.models import arithmetic
from scripts.quantize._link import link_checkpoint
from tests.conftest import ROOT
from tests.tiny import solved, trained

# Hidden and intermediate sizes of the study's models and their like.
SIZES = [
    *(576, 896, 1536, 2048, 3584, 4096, 4864, 5120, 8192, 8960, 12288, 13824, 14336),
    *(17408, 18944, 25600, 27648, 28672),
]
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
    torch.testing.assert_close(hadamard_transform(x), x @ hadamard_matrix(order))


def test_a_size_without_a_matrix_is_refused_by_number():
    assert not has_hadamard(11008)
    with pytest.raises(ValueError, match="11008"):
        hadamard_transform(torch.zeros(11008))


@pytest.mark.parametrize("layer", ["qkv_proj", "down_proj"])
def test_rounding_traces_without_graph_breaks(layer: str):
    """As vLLM compiles it on GPUs; this machine runs it eagerly."""
    torch.compiler.reset()
    settings = {"row_groups": 2, "activations": ACTIVATIONS, "hadamard": ["down_proj"], **KV4}

    def traced(x: torch.Tensor, heads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return round_input(x, layer, settings, 2), *round_heads(heads, heads, heads, settings)

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 192, generator=generator), torch.randn(5, 2, 32, generator=generator)
    found = torch.compile(traced, backend="eager", fullgraph=True)(*inputs)
    for x, y in zip(found, traced(*inputs), strict=True):
        assert torch.equal(x, y)


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


ACTIVATIONS = {"bits": 4, "symmetric": False, "clip": 0.9}


@pytest.mark.parametrize("layer", ["o_proj", "down_proj"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_ranks_share_is_rounded_as_the_whole_is(layer: str, ranks: int):
    """Bit for bit; and with another number of groups it is not."""
    settings = {"row_groups": 4, "activations": ACTIVATIONS, "hadamard": ["down_proj"]}
    x = torch.randn(5, 4 * 96, generator=torch.Generator().manual_seed(0))
    whole = round_input(x, layer, settings, 4)
    shares = [round_input(share, layer, settings, 4 // ranks) for share in x.chunk(ranks, -1)]
    assert torch.equal(torch.cat(shares, -1), whole)
    assert not torch.equal(round_input(x, layer, settings, 2), whole)


def test_groups_of_keys_and_values_never_cross_heads():
    """Another head's outlier changes nothing, and a head of 256 channels has two groups."""
    settings = {"keys": {"bits": 3, "clip": 1.0, "hadamard": False}, "values": {"bits": 3, "clip": 1.0}}
    for head_dim in (32, 256):
        heads = torch.randn(3, 2, head_dim, generator=torch.Generator().manual_seed(1))
        changed = heads.clone()
        changed[:, 1, -1] = 1000
        _, *before = round_heads(heads, heads, heads, settings)
        _, *after = round_heads(heads, changed, changed, settings)
        for x, y in zip(before, after, strict=True):
            assert torch.equal(x[:, 0], y[:, 0])
            assert torch.equal(x[:, 1, :128], y[:, 1, :128]) == (head_dim == 256)


# Real vLLM against the reference, on trained tiny models.

KV4 = {"keys": {"bits": 4, "clip": 0.95, "hadamard": True}, "values": {"bits": 4, "clip": 0.95}}
VARIANTS = {
    "full": None,
    "transforms": {"row_groups": 2, "keys": {"bits": 16, "clip": 1.0, "hadamard": True}},
    "a8kv8": {
        "row_groups": 2,
        "activations": {"bits": 8, "symmetric": False, "clip": 1.0},
        "keys": {"bits": 8, "clip": 1.0, "hadamard": False},
        "values": {"bits": 8, "clip": 1.0},
    },
    "a4kv4": {"row_groups": 2, "hadamard": ["down_proj"], "activations": ACTIVATIONS, **KV4},
    "k4-before-bias": {"keys_before_rope": {"bits": 4, "place": "before_bias"}},
    "k4-after-bias": {"keys_before_rope": {"bits": 4, "place": "after_bias"}},
}
EXACT = {"full", "transforms"}


@pytest.fixture(scope="module")
def tokens() -> list[list[int]]:
    return solved(12)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the middle model for each variant, with the weights that an online transform asks for."""
    name, folder = "tiny-qwen-m", tmp_path_factory.mktemp("variants")
    for variant, settings in VARIANTS.items():
        model = trained(name)
        if "hadamard" in (settings or {}):
            for layer in model.model.layers:
                weight = layer.mlp.down_proj.weight.data
                weight.copy_(hadamard_by_part(weight, weight.shape[1] // 2))
        checkpoint = folder / variant
        arithmetic.save(model, checkpoint, arithmetic.RECIPES[name])
        if settings:
            write_settings(checkpoint, settings)
        if "keys_before_rope" in (settings or {}):
            generator = torch.Generator().manual_seed(0)
            grids = {f"{i}.scale": torch.rand(64, generator=generator) * 0.2 + 0.1 for i in range(4)}
            grids |= {f"{i}.zero": torch.full((64,), 8.0) for i in range(4)}
            (checkpoint / KEY_GRIDS).parent.mkdir()
            save_file(grids, checkpoint / KEY_GRIDS)
    moved = folder.with_name("moved")
    folder.rename(moved)  # a checkpoint goes where it likes
    return moved


def reference(checkpoint: Path, tokens: list[list[int]]) -> torch.Tensor:
    """Log-probability of every token but the first."""
    model = load_reference(checkpoint, torch.float32)
    found = []
    for ids in tokens:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])])
    return torch.cat(found)


def served(folder: Path, names: list[str], tokens: list[list[int]], ranks: int) -> dict[str, torch.Tensor]:
    """The same from vLLM, in a process of its own."""
    (folder / "tokens.json").write_text(json.dumps(tokens))
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve", str(folder), str(ranks), *names],
        cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {name: torch.tensor(values) for name, values in json.loads(done.stdout.splitlines()[-1]).items()}


def assert_agree(found: torch.Tensor, expected: torch.Tensor, *, exact: bool) -> None:
    """Rounding is discontinuous: where there is any, few positions may differ, and little on the mean."""
    difference = (found - expected).abs()
    assert len(difference) >= 500
    if exact:
        assert difference.max() <= 1e-3
    assert difference.mean() <= 1e-2
    assert (difference > 1e-3).float().mean() <= 0.05


@pytest.mark.parametrize("ranks", [1, 2])
def test_vllm_computes_what_the_reference_does(variants: Path, tokens: list[list[int]], ranks: int):
    found = served(variants, list(VARIANTS), tokens, ranks)
    expected = {name: reference(variants / name, tokens) for name in VARIANTS}
    for name in VARIANTS:
        assert_agree(found[name], expected[name], exact=name in EXACT)
    # What rounds is not what does not, and neither are two ways of rounding: else the bounds say nothing.
    for name, other in [("a8kv8", "full"), ("a4kv4", "a8kv8"), ("k4-before-bias", "k4-after-bias")]:
        with pytest.raises(AssertionError):
            assert_agree(found[name], expected[other], exact=False)


def test_another_number_of_row_groups_is_another_model(variants: Path, tokens: list[list[int]]):
    """The negative control: with one group instead of two the bounds do not hold."""
    wrong = variants / "wrong"
    link_checkpoint(variants / "a4kv4", wrong)
    write_settings(wrong, VARIANTS["a4kv4"] | {"row_groups": 1})
    with pytest.raises(AssertionError):
        assert_agree(reference(wrong, tokens), reference(variants / "a4kv4", tokens), exact=False)
