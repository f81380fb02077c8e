"""How vLLM is started, and what of it is part of a sample's address."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.generate import start
from scripts.generate.start import device_and_attention, engine_identity, kv_bytes_per_token, preferred, start_engine
from scripts.models.arithmetic import RECIPES, build_model, build_tokenizer
from scripts.run.errors import UserError
from scripts.run.imports import code_files
from scripts.run.resources import GPU_SHARE
from tests.conftest import ROOT, Copy
from tests.tiny import trained

SETTINGS = {"dtype": "float32", "max_model_len": 16, "max_num_seqs": 1}


@pytest.mark.parametrize(("name", "size"), [("tiny-qwen-s", 2 * 4 * 1 * 32 * 4), ("tiny-llama-m", 2 * 4 * 2 * 32 * 4)])
def test_kv_cache_size_follows_from_the_model(name: str, size: int):
    config = build_model(RECIPES[name], build_tokenizer()).config
    assert kv_bytes_per_token(config, "float32") == size
    assert kv_bytes_per_token(config, "bfloat16") == size // 2
    config.head_dim = 64  # stated, and not hidden / heads
    assert kv_bytes_per_token(config, "float32") == size * 2
    assert torch.float32.itemsize == 4


def configured(folder: Path, quantization: dict | None) -> Path:
    """A checkpoint of nothing but its configuration."""
    folder.mkdir()
    config = {"model_type": "qwen2"} | ({"quantization_config": quantization} if quantization else {})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_edit_of_the_plugin_moves_the_samples_of_what_it_serves(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every address of those, and none of full precision's; a comment moves none."""
    monkeypatch.chdir(copy.root)
    full = configured(tmp_path / "full", None)
    fake = configured(tmp_path / "fake", {"quant_method": "fakequant", "values": {"bits": 4, "clip": 1.0}})

    def identities() -> tuple[dict, dict]:
        code_files.cache_clear()
        return tuple(engine_identity(folder, {"dtype": "float32"}) for folder in (full, fake))

    before = identities()
    path = copy.root / "scripts/fakequant/rounding.py"
    path.write_text(path.read_text() + "\n# a comment\n")
    assert identities() == before
    assert "2**bits - 1" in path.read_text()
    path.write_text(path.read_text().replace("2**bits - 1", "2**bits - 2"))
    after = identities()
    code_files.cache_clear()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_ranks_that_would_split_a_row_group_are_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake = configured(tmp_path / "fake", {"quant_method": "fakequant", "row_groups": 4})
    monkeypatch.setattr(start, "tensor_parallel_size", lambda: 3)
    with pytest.raises(UserError, match=r"fake: tensor-parallel size 3 does not divide row_groups 4 .* 1 or 2 or 4"):
        start_engine(fake, SETTINGS)


# vLLM's choice for a GPU of capability 9.0, which is only pretended: of its kernels none is called.
HOPPER = """
import json, sys
from pathlib import Path
from types import ModuleType
sys.modules["vllm._C_stable_libtorch"] = ModuleType("kernels")
import torch
from vllm.platforms import current_platform
from vllm.platforms.cuda import NonNvmlCudaPlatform
from vllm.platforms.interface import DeviceCapability
from scripts.generate.start import engine_identity
NonNvmlCudaPlatform.get_device_capability = lambda: DeviceCapability(9, 0)
current_platform.get_attn_backend_cls = NonNvmlCudaPlatform.get_attn_backend_cls
current_platform.get_device_name = lambda: "NVIDIA H100"
torch.cuda.is_available = lambda: True
print(json.dumps([engine_identity(Path(sys.argv[1]), {"dtype": dtype}) for dtype in ("bfloat16", "float32")]))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def test_the_attention_backend_of_an_address_is_the_one_that_vllm_prefers(tmp_path: Path):
    folder = configured(tmp_path / "full", None)
    assert device_and_attention(folder, "float32") == preferred(128, "float32") == ("cpu", "CPU_ATTN")
    done = python(HOPPER, str(folder))
    assert done.returncode == 0, done.stderr
    identities = json.loads(done.stdout.splitlines()[-1])
    assert [one["attention_backend"] for one in identities] == ["FLASH_ATTN", "TRITON_ATTN"]
    assert {one["device"] for one in identities} == {"NVIDIA H100"}


def test_the_engine_takes_the_backend_of_the_addresses_and_the_planned_share_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Engine:
        def __init__(self, **named: Any) -> None:
            taken.update(named)

        def collective_rpc(self, _: str) -> list[list[str]]:
            return [["TRITON_ATTN"], used]

    taken: dict[str, Any] = {}
    used = ["TRITON_ATTN"]
    monkeypatch.setattr("vllm.LLM", Engine)
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(start, "tensor_parallel_size", lambda: 2)
    monkeypatch.setattr(start, "preferred", lambda *_: ("NVIDIA H100", "TRITON_ATTN"))
    folder = configured(tmp_path / "full", None)
    start_engine(folder, SETTINGS)
    assert taken["attention_backend"] == engine_identity(folder, SETTINGS)["attention_backend"]
    assert taken["gpu_memory_utilization"] == GPU_SHARE
    assert start.os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    used[:] = ["FLASH_ATTN"]
    with pytest.raises(RuntimeError, match="FLASH_ATTN"):
        start_engine(folder, SETTINGS)


OTHERWISE = """
import json, sys
from pathlib import Path
from unittest import mock
from scripts.generate.start import start_engine
with mock.patch("scripts.generate.start.device_and_attention", return_value=("cpu", "FLASH_ATTN")):
    start_engine(Path(sys.argv[1]), json.loads(sys.argv[2]))
"""


def test_a_real_engine_that_attends_otherwise_is_refused(tmp_path: Path):
    """vLLM passes in silence over a backend that a CPU does not have; one sequence at a time is enough to start."""
    trained("tiny-qwen-s").save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    done = python(OTHERWISE, str(tmp_path), json.dumps(SETTINGS | {"max_model_len": 130}))
    assert done.returncode == 1
    assert "vLLM attends with {'CPU_ATTN'}, but the addresses of its samples say FLASH_ATTN" in done.stderr
