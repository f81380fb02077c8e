"""Quantizers: the arithmetic equals a plain loop, the files hold what the arithmetic gave, the twins match."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gptqmodel import BACKEND, GPTQModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from scripts.fakequant.rounding import asymmetric_grid, fake_quantize, grouped
from scripts.models import arithmetic
from scripts.quantize import _gptq, gptq
from scripts.quantize._layers import inputs_of
from scripts.quantize._link import link_checkpoint
from scripts.quantize._names import LINEAR_WEIGHT, check_linears
from scripts.quantize._packed import write_packed
from scripts.quantize._rewrite import of_layers, rewrite
from scripts.quantize._store import keeping
from scripts.quantize.rtn import quantize_weight
from scripts.run.errors import UserError
from tests.conftest import Copy
from tests.test_fakequant import FLOATS, plain_loop
from tests.tiny import solved, trained

NAME = "tiny-qwen-s"
GPTQ_SETTINGS = {"bits": 4, "group_size": 32, "sym": False, "desc_act": True, "mse": 2.4, "damp_percent": 0.01}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    arithmetic.save(trained(NAME), folder, arithmetic.RECIPES[NAME])
    return folder


def batch(count: int, *, evaluation: bool) -> torch.Tensor:
    """Solved problems as one batch of token ids, padded on the right."""
    return pad_sequence([torch.tensor(ids) for ids in solved(count, evaluation=evaluation)], batch_first=True)


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(input_ids=ids).logits


@given(st.lists(FLOATS, min_size=8, max_size=8), st.sampled_from([2, 3, 4, 8]), st.sampled_from([-1, 4]))
def test_rounding_equals_a_plain_loop(row: list[float], bits: int, group_size: int):
    size = 8 if group_size == -1 else group_size
    expected = [
        value
        for start in range(0, 8, size)
        for value in plain_loop(row[start : start + size], bits, 1.0, symmetric=False)
    ]
    found = quantize_weight(torch.tensor([row], dtype=torch.float32), bits, group_size)
    assert found.tolist() == [expected]


@given(st.lists(FLOATS, min_size=1, max_size=16), st.sampled_from([2, 3, 4, 8]))
def test_rounding_keeps_zero_and_stays_within_half_a_step(row: list[float], bits: int):
    x = torch.tensor([[*row, 0.0]])
    scale, zero = asymmetric_grid(x, bits)
    rounded = fake_quantize(x, scale, zero, bits)
    assert rounded[0, -1] == 0
    # The zero point is rounded too, so that the ends of the range may be half a step further off.
    assert ((rounded - x).abs() <= scale * (1 + 1e-4)).all()
    assert len(rounded.unique()) <= 2**bits


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="groups of 3 do not divide 8"):
        grouped(torch.zeros(1, 8), 3)


def test_only_linear_layers_of_the_blocks_change(checkpoint: Path, tmp_path: Path):
    before = (checkpoint / "model.safetensors").read_bytes()
    rewrite(checkpoint, tmp_path / "new", lambda _, weight: weight + 1)
    old, new = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "new/model.safetensors")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if LINEAR_WEIGHT.fullmatch(name)}
    assert len(changed) == 7 * 4
    assert (checkpoint / "model.safetensors").read_bytes() == before
    assert (tmp_path / "new/config.json").samefile(checkpoint / "config.json")


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("model.layers.1.mlp.fc1.weight", "mlp.fc1"),
        ("model.layers.1.block_sparse_moe.experts.0.w1.weight", "experts.0.w1"),
        ("model.layers.1.mlp.gate.weight", "mlp.gate.weight"),
        ("base_model.model.layers.1.mlp.up_proj.weight", "base_model.model.layers.1.mlp.up_proj"),
        ("layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj"),
    ],
)
def test_a_model_that_would_be_quantized_in_part_is_refused(checkpoint: Path, tmp_path: Path, name: str, left: str):
    check_linears(checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    tensors[name] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"{left}.* 6% of the blocks' weights .*would not be quantized"):
        check_linears(tmp_path)


def test_a_shard_without_linear_layers_is_a_hard_link(checkpoint: Path, tmp_path: Path):
    link_checkpoint(checkpoint, tmp_path / "sharded")
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "sharded/other.safetensors", {"format": "pt"})
    rewrite(tmp_path / "sharded", tmp_path / "new", lambda _, weight: weight)
    assert (tmp_path / "new/other.safetensors").samefile(tmp_path / "sharded/other.safetensors")
    assert not (tmp_path / "new/model.safetensors").samefile(tmp_path / "sharded/model.safetensors")


def test_rtn_in_memory_and_rtn_loaded_give_equal_logits(built: Copy):
    source = built.root / "results/models" / NAME / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if LINEAR_WEIGHT.fullmatch(name):
                weight.copy_(quantize_weight(weight, 3, -1))
        ids = batch(8, evaluation=True)
        before = model(input_ids=ids).logits
    assert torch.equal(before, logits(built.root / "results/quantize" / NAME / "rtn/w3/checkpoint", ids))


@pytest.fixture(scope="module")
def twins(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """GPTQ through GPTQModel: what its own packed checkpoint says, and what we keep of it while it runs."""
    folder = tmp_path_factory.mktemp("gptq")
    with keeping(folder / "parts"):
        engine = gptq.quantize(checkpoint, solved(64), GPTQ_SETTINGS)
        rounded, scale = of_layers("weight"), of_layers("scale")
        rewrite(checkpoint, folder / "dequantized", lambda name, _: rounded(name))
        write_packed(folder / "dequantized", folder / "packed", scale, 32)
    engine.save(str(folder / "theirs"))
    rewrite(checkpoint, folder / "rtn", lambda _, weight: quantize_weight(weight, 4, 32))
    theirs = GPTQModel.load(str(folder / "theirs"), backend=BACKEND.GPTQ_TORCH, dtype=torch.float16).model
    rest = {
        name: x for name, x in load_file(checkpoint / "model.safetensors").items() if not LINEAR_WEIGHT.fullmatch(name)
    }
    theirs.float().load_state_dict(rest, strict=False)  # all but the packed layers, unrounded
    asked = batch(16, evaluation=True)
    with torch.no_grad():
        return {
            "theirs": theirs(input_ids=asked).logits,
            "packed": logits(folder / "packed", asked),
            "dequantized": logits(folder / "dequantized", asked),
            "full": logits(checkpoint, asked),
            "rtn": logits(folder / "rtn", asked),
            "weights": load_file(folder / "dequantized/model.safetensors"),
            "stored": load_file(folder / "theirs/model.safetensors"),
        }


def test_packed_and_dequantized_gptq_give_the_same_logits(twins: dict):
    """Ours by stock transformers; theirs keeps its scales in float16."""
    assert (twins["packed"] - twins["dequantized"]).abs().max() <= 1e-3
    assert (twins["theirs"] - twins["dequantized"]).abs().mean() <= 5e-3
    assert (twins["packed"] - twins["full"]).abs().max() > 0.1  # it is quantized indeed


def test_weights_are_the_packed_integers_times_their_scales(twins: dict):
    """Unpacked by hand: eight 4-bit integers to a word."""
    shifts, count = torch.arange(0, 32, 4, dtype=torch.int32), 0
    for name, weight in twins["weights"].items():
        if not LINEAR_WEIGHT.fullmatch(name):
            continue
        count += 1
        parts = ("qweight", "qzeros", "scales", "g_idx")
        stored = {part: twins["stored"][name.replace("weight", part)] for part in parts}
        integers = (stored["qweight"].unsqueeze(1) >> shifts.view(1, -1, 1)).bitwise_and(15).flatten(0, 1)
        zeros = (stored["qzeros"].unsqueeze(2) >> shifts).bitwise_and(15).flatten(1)
        group = stored["g_idx"].long()
        theirs = stored["scales"].float()[group] * (integers - zeros[group])
        torch.testing.assert_close(weight.T, theirs, rtol=2**-11, atol=1e-7)  # their scales are rounded to float16
    assert count == 7 * 4


def test_gptq_is_nearer_to_full_precision_than_rounding(twins: dict):
    def divergence(other: torch.Tensor) -> float:
        full = twins["full"].log_softmax(-1)
        return (full.exp() * (full - other.log_softmax(-1))).sum(-1).mean().item()

    assert math.isfinite(divergence(twins["rtn"]))
    assert divergence(twins["dequantized"]) < divergence(twins["rtn"])


def test_our_gptq_core_errs_no_more_than_gptqmodel(checkpoint: Path, tmp_path: Path):
    """On the first layer's queries, whose inputs no earlier rounding has touched: same bits, grid and calibration."""
    settings = {"bits": 4, "group_size": -1, "sym": True, "desc_act": False, "mse": 2.4, "damp_percent": 0.01}
    sequences = solved(32)
    with keeping(tmp_path):
        gptq.quantize(checkpoint, sequences, settings)
        theirs = of_layers("weight")("model.layers.0.self_attn.q_proj.weight")

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    layer, seen = model.model.layers[0].self_attn.q_proj, []
    with torch.no_grad(), inputs_of(layer, seen.append):
        for ids in sequences:
            model(input_ids=torch.tensor([ids]))
    x, weight = torch.cat(seen), layer.weight.data
    ours = _gptq.gptq(weight, x.T @ x, 4, 1)

    def error(rounded: torch.Tensor) -> float:
        return ((rounded - weight) @ x.T).pow(2).sum().item()

    assert 0 < error(ours) <= error(theirs)


def test_gptq_twice_makes_the_same_bytes(built: Copy, copy: Copy):
    """The study's own checkpoint, quantized once more elsewhere: the manifest holds a digest of every file."""
    folder = f"results/quantize/{NAME}/gptq/w3g32"
    for results in (f"results/models/{NAME}", f"results/calibrate/{NAME}"):
        shutil.copytree(built.root / results, copy.root / results)
    command = json.loads((built.root / folder / "record.json").read_text())["command"]
    environment = os.environ | {"PATH": built.path}
    subprocess.run([sys.executable, *command[1:]], cwd=copy.root, check=True, capture_output=True, env=environment)
    manifest = (copy.root / folder / "manifest.json").read_text()
    assert manifest == (built.root / folder / "manifest.json").read_text()
    assert "model.safetensors" in json.loads(manifest)["files"]
