"""FlatQuant: its transforms cancel, what is learned helps, and a killed job's layers are not learned again."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import PreTrainedModel

from scripts.fakequant.kronecker import balanced, kronecker
from scripts.fakequant.reference import attach
from scripts.fakequant.rounding import asymmetric_grid, round_tokens, symmetric_grid
from scripts.fakequant.settings import round_heads, round_input
from scripts.manifest import write_manifest
from scripts.models import arithmetic
from scripts.quantize._flatquant import cayley, round_activations, round_weight
from scripts.quantize._store import Tensors
from scripts.quantize.flatquant import learn_layers, round_layers, served_settings
from scripts.run.errors import UserError
from tests.conftest import ROOT, Copy
from tests.test_methods import CALIBRATION, MODELS, add_outliers, divergence, logits, quarot
from tests.tiny import random_model, solved, trained

DEFAULTS = yaml.safe_load((ROOT / "config/quantizers.yaml").read_text())["flatquant"]["defaults"]
W4A4KV4 = DEFAULTS | {"bits": 4, "activation_bits": 4, "kv_bits": 4}
FINE = {"bits": 22, "activation_bits": 22, "kv_bits": 22}  # finer than float32 computes


def apply(model: PreTrainedModel, learned: list[Tensors], settings: dict) -> None:
    tensors = round_layers(zip(model.model.layers, learned, strict=True), settings["bits"])
    attach(model, served_settings(settings), tensors)


def learn(model: PreTrainedModel, sequences: list[list[int]], settings: dict) -> list[Tensors]:
    return [tensors for _, tensors in learn_layers(model, sequences, settings, "somewhere")]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(math.prod(shape)))


@pytest.mark.parametrize("right", [True, False])
def test_a_kronecker_transform_is_the_dense_matrix(right: bool):
    x, left = random(2, 7, 3 * 4 * 5, dtype=torch.float64), random(3, 4, 4, dtype=torch.float64)
    factors = random(3, 5, 5, dtype=torch.float64) if right else torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    dense = torch.block_diag(*(torch.kron(a, b) for a, b in zip(left, factors, strict=True)))
    torch.testing.assert_close(kronecker(x, left, factors if right else None), x @ dense)


def test_factors_are_as_near_to_each_other_as_can_be():
    sizes = {64: (8, 8), 192 // 2: (8, 12), 896: (28, 32), 18944 // 4: (64, 74), 8960 // 2: (64, 70), 7: (1, 7)}
    assert {n: balanced(n) for n in sizes} == sizes


@pytest.mark.parametrize("layer", ["o_proj", "down_proj"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_ranks_share_is_transformed_as_the_whole_is(layer: str, ranks: int):
    settings = {"row_groups": 4, "activations": {"bits": 4, "symmetric": False}}
    learned = {"left": random(4, 8, 8), "right": random(4, 12, 12), "clip": random(4, 2).sigmoid()}
    if layer == "o_proj":
        del learned["right"]
    x = random(5, 4 * 96)
    whole = round_input(x, layer, settings, 4, learned)
    shares = [
        round_input(share, layer, settings, 4 // ranks, {name: t.chunk(ranks)[rank] for name, t in learned.items()})
        for rank, share in enumerate(x.chunk(ranks, -1))
    ]
    assert torch.equal(torch.cat(shares, -1), whole)


def test_a_ranks_heads_are_transformed_as_all_are():
    settings = {"keys": {"bits": 4, "hadamard": False}, "values": {"bits": 4}}
    learned = {"query": random(64, 64), "key": random(64, 64).T, "key_clip": random(1, 2), "value_clip": random(1, 2)}
    heads = random(33, 4, 64)
    whole = round_heads(heads, heads, heads, settings, learned)
    for rank, share in enumerate(heads.chunk(2, 1)):
        for found, expected in zip(round_heads(share, share, share, settings, learned), whole, strict=True):
            assert torch.equal(found, expected.chunk(2, 1)[rank])


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_learned_with_is_what_is_served_with(bits: int):
    """Bit for bit; and the gradients are those of rounding as the identity, written out."""
    x, clip = random(6, 4 * 16).requires_grad_(), random(4, 2).sigmoid().requires_grad_()
    found = round_activations(x, bits, 16, clip)
    assert torch.equal(found, round_tokens(x.detach(), bits, 16, clip=clip.detach()))
    weight = random(6, 4)
    gradients = torch.autograd.grad((found.unflatten(1, (4, 16)).sum(-1) * weight).sum(), (x, clip))
    groups = x.unflatten(1, (4, 16))
    scale, zero = asymmetric_grid(groups, bits, clip)
    steps = groups / scale
    steps = (steps + (steps.round() - steps).detach() + zero.detach()).clamp(0, 2**bits - 1) - zero.detach()
    expected = torch.autograd.grad(((steps * scale).sum(-1) * weight).sum(), (x, clip))
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-3)
    scale, zero = symmetric_grid(groups.detach(), bits, torch.full((6, 4, 1), 0.9))
    assert torch.equal(
        round_weight(x.detach(), bits, torch.full((6, 4, 1), 0.9)),
        ((groups.detach() / scale).round().add(zero).clamp(0, 2**bits - 1).sub(zero) * scale).flatten(1),
    )


def test_cayley_gives_rotations():
    rotation = cayley(random(3, 9, 9))
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(9).expand(3, 9, 9))
    assert (torch.linalg.det(rotation) > 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_transforms_cancel_before_and_after_learning(name: str):
    """Without clips; and with fewer bits they do not, nor if one of them is left out."""
    model = MODELS[name]()
    row_groups = math.gcd(model.config.num_attention_heads, 6)  # 3 for nine heads
    settings = W4A4KV4 | {"row_groups": row_groups, "clip": 1.0, "epochs": 1, "batch_size": 2}
    full = logits(model)
    sequences = CALIBRATION[:4]
    for learned in (
        learn(model, sequences, settings | {"epochs": 0}),
        learn(model, sequences, settings),
    ):
        found = {}
        for bits in (FINE, {}):
            changed = copy.deepcopy(model)
            apply(changed, learned, settings | bits)
            found[bool(bits)] = (logits(changed) - full).abs().max()
        assert found[True] <= 1e-3 < found[False]
    partial = copy.deepcopy(model)
    tensors = round_layers(zip(partial.model.layers, learned, strict=True), FINE["bits"])
    del tensors["0.o_proj.left"]
    attach(partial, served_settings(settings | FINE), tensors)
    assert (logits(partial) - full).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["tiny-qwen-m", pytest.param("tiny-llama-m", marks=pytest.mark.campaign)])
def test_learning_lowers_the_loss_and_tames_outliers(name: str):
    model, sequences = trained(name), solved(264)
    # Few of the evaluation's tokens make most of its mean; of fewer to learn from, they are learned by heart.
    evaluation, calibration = sequences[:200], sequences[200:]
    full = logits(model, evaluation)
    add_outliers(model)
    found = {}
    for epochs in (0, DEFAULTS["epochs"]):
        flat = copy.deepcopy(model)
        learned = learn(flat, calibration, W4A4KV4 | {"epochs": epochs})
        apply(flat, learned, W4A4KV4)
        found[epochs] = divergence(flat, full, evaluation)
    assert all(after < 0.9 * before for before, after in (tensors["loss"].tolist() for tensors in learned))
    quarot(model, 4)
    assert found[DEFAULTS["epochs"]] < found[0]
    # On some processors they are nearly equal.
    assert found[DEFAULTS["epochs"]] <= 1.1 * divergence(model, full, evaluation)


def test_a_layer_that_diverges_is_refused_by_name():
    with pytest.raises(UserError, match="somewhere: layer 0 diverged; lower learning_rate"):
        learn(random_model("qwen3"), CALIBRATION[:2], W4A4KV4 | {"epochs": 2, "learning_rate": 1e9})


def test_heads_that_row_groups_do_not_divide_are_refused(copy: Copy):
    path = copy.root / "config/models/tiny-qwen-s.yaml"
    document = yaml.safe_load(path.read_text())
    widths = {"hidden_size": 896, "intermediate_size": 4864, "heads": 14, "kv_heads": 2, "head_dim": 64}
    document["facts"] |= widths
    path.write_text(yaml.safe_dump(document))
    quantizers, scheme = copy.root / "config/quantizers.yaml", "bits: 4, activation_bits: 4, kv_bits: 4}"
    quantizers.write_text(quantizers.read_text().replace(scheme, f"row_groups: 4, {scheme}"))
    config = yaml.safe_load((copy.root / "config/tiny.yaml").read_text())
    config["studies"]["tiny"]["grid"][0]["schemes"].append("flatquant/w4a4kv4")
    copy.write_config(config)
    done = copy.snakemake("-n")
    message = done.stdout + done.stderr
    assert done.returncode != 0
    for word in (
        "studies.tiny.grid",
        "flatquant/w4a4kv4",
        "row_groups 4",
        "tiny-qwen-s",
        "the 14 heads",
        "choose 1 or 2",
    ):
        assert word in message
    assert "Traceback" not in message


def start(copy: Copy) -> subprocess.Popen[str]:
    folder = "results/quantize/tiny-qwen-s/flatquant/w4a4kv4"
    settings = W4A4KV4 | {"epochs": 2}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "scripts.quantize.flatquant", "--settings", json.dumps(settings)),
            *("--manifest", f"{folder}/manifest.json", "--checkpoint", f"{folder}/checkpoint"),
            *("--model", "results/models/tiny-qwen-s/checkpoint", "results/calibrate/tiny-qwen-s/reasoning.parquet"),
        ],
        cwd=copy.root, env=os.environ | {"PATH": copy.path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_job_resumes_at_its_layer(copy: Copy):
    """Killed after two of four layers, one of them damaged since: the same bytes as undisturbed."""
    results = copy.root / "results"
    folder = results / "models/tiny-qwen-s"
    arithmetic.save(trained("tiny-qwen-s"), folder / "checkpoint", arithmetic.RECIPES["tiny-qwen-s"])
    write_manifest(folder / "checkpoint", folder / "manifest.json")
    (results / "calibrate/tiny-qwen-s").mkdir(parents=True)
    pq.write_table(pa.table({"input_ids": CALIBRATION}), results / "calibrate/tiny-qwen-s/reasoning.parquet")
    manifest = results / "quantize/tiny-qwen-s/flatquant/w4a4kv4/manifest.json"

    undisturbed = start(copy).communicate()[0]
    assert undisturbed.count("loss") == 4
    expected = manifest.read_bytes()
    assert len(json.loads((manifest.with_name("record.json")).read_text())["facts"]["losses"]) == 4
    for path in (results / "store", manifest.parent):
        shutil.rmtree(path)

    killed = start(copy)
    for line in killed.stdout:
        if "layer 1: loss" in line:
            killed.kill()
            break
    assert killed.wait() == -9
    assert not manifest.exists()
    parts = sorted(results.glob("store/checkpoints/*/parts/*"))
    assert [path.stem for path in parts] == ["layer0", "layer1"]
    damaged = bytearray(parts[0].read_bytes())
    damaged[-1] ^= 1
    Path(parts[0]).write_bytes(damaged)

    resumed = start(copy).communicate()[0]
    assert f"{parts[0].relative_to(copy.root)} is damaged" in resumed
    assert [f"layer{i} was finished" in resumed for i in range(4)] == [False, True, False, False]
    assert manifest.read_bytes() == expected
    assert not parts[0].parent.exists()
