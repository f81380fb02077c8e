"""Packed checkpoints in stock vLLM, with nothing of ours: what the README says of them, on this machine's processor."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.fakequant.settings import is_packed
from scripts.generate import engine, packed, start
from scripts.run.errors import UserError
from tests.conftest import ROOT
from tests.test_agreement import EVALUATION, quantized, reference
from tests.tiny import trained

SCHEMES = ["gptq/w4g32", "awq/w4g32"]
PACKED = [f"{scheme}/packed" for scheme in SCHEMES]
SETTINGS = {"dtype": "bfloat16", "max_model_len": 256, "max_num_seqs": 16}
# Differences of log-probabilities in bfloat16, in which GPTQ's scales are stored: the mean, and the share above 0.1.
# Seen: 0.0043 and 0.09 %; AWQ, which rounds by such scales, 7e-6 and none.
MEAN, MOST, SHARE = 0.008, 0.1, 0.01


def scores(way: str, folder: Path, names: list[str]) -> tuple[bool, dict[str, torch.Tensor]]:
    """Whether vLLM has the kernel here, and what it gave by checkpoint, in a process of its own."""
    # Stock is started where Python finds nothing of this repository.
    program, place = (["-m", "tests.stock"], ROOT) if way == "project" else ([str(ROOT / "tests/stock.py")], folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *program, way, str(folder), *names],
        cwd=place, check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["kernel"], {name: torch.tensor(values) for name, values in answer["found"].items()}


def differ(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Mean, and share above the bound."""
    difference = (found - expected).abs()
    assert len(difference) >= 500
    return difference.mean().item(), (difference > MOST).float().mean().item()


def test_stock_vllm_serves_packed_checkpoints_as_the_project_serves_their_twins(tmp_path: Path):
    """Where vLLM has the kernel; elsewhere the project refuses them, and this test says so."""
    quantized(tmp_path, trained("tiny-qwen-m").to(torch.bfloat16), SCHEMES)
    (tmp_path / "tokens.json").write_text(json.dumps(EVALUATION))
    assert all(is_packed(tmp_path / name) for name in PACKED)
    kernel, found = scores("stock", tmp_path, PACKED)
    print("stock vLLM", "serves packed weights on this CPU" if kernel else "has no kernel for them on this CPU")
    if not kernel:
        for name in PACKED:
            with pytest.raises(UserError, match="no kernel for them on this CPU"):
                packed.check_packed(tmp_path / name, SETTINGS)
        return
    _, ours = scores("project", tmp_path, [*SCHEMES, PACKED[0]])
    full = reference(tmp_path / "model", rounded=False)
    for name, twin in zip(PACKED, SCHEMES, strict=True):
        packed.check_packed(tmp_path / name, SETTINGS)
        mean, share = differ(found[name], ours[twin])
        print(f"{name}: mean {mean:.2g}, above {MOST}: {share:.2%}; of full precision", differ(found[name], full))
        assert mean <= MEAN, name
        assert share <= SHARE, name
        assert differ(found[name], full)[0] > max(MEAN, 2 * mean), name  # which tells rounded from unrounded
    assert torch.equal(found[PACKED[0]], ours[PACKED[0]])  # a scheme that is evaluated packed is served so


def write_config(folder: Path, **changes: object) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = {"model_type": "qwen2", **sizes, "quantization_config": {"format": "pack-quantized"}} | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("settings", "kernel", "sizes", "reason"),
    [
        (SETTINGS, False, {}, "vLLM has no kernel for them on this CPU"),
        (SETTINGS | {"dtype": "float32"}, True, {}, "computes in bfloat16, the model's dtype is float32"),
        (SETTINGS, True, {"intermediate_size": 144}, "takes multiples of 32, a layer has 144 channels"),
    ],
)
def test_packed_weights_without_a_kernel_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, kernel: bool, sizes: dict, reason: str
):
    """Before anything else is read, and before the engine starts."""
    monkeypatch.setattr(packed, "has_cpu_kernel", lambda: kernel)
    write_config(tmp_path, **sizes)
    main = inspect.unwrap(engine.main.registered_commands[0].callback)
    parameters = dict.fromkeys(inspect.signature(main).parameters)
    with pytest.raises(UserError, match=f"{tmp_path}: its weights are packed, and .*{reason}.*GPU.*quantizers.yaml"):
        main(**parameters | {"checkpoint": tmp_path, "settings": settings})


def test_what_is_computed_with_packed_weights_is_part_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a CPU; on a GPU, and of other weights, nothing of it is said."""
    write_config(tmp_path)
    monkeypatch.setattr(packed, "has_cpu_kernel", lambda: True)
    packed.check_packed(tmp_path, SETTINGS)
    assert start.engine_identity(tmp_path, SETTINGS)["int4_w4a8"] == "0"
    (tmp_path / "plain").mkdir()
    write_config(tmp_path / "plain", quantization_config={})
    assert "int4_w4a8" not in start.engine_identity(tmp_path / "plain", SETTINGS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(start, "preferred", lambda *model: ("a GPU", "FLASH_ATTN"))
    packed.check_packed(tmp_path, SETTINGS | {"dtype": "float16"})
    assert "int4_w4a8" not in start.engine_identity(tmp_path, SETTINGS)
