"""What vLLM rounds itself: its own lists, the bits that it holds, and what it cannot do here, refused in words."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoConfig

from scripts import engine
from scripts.generate.start import MOST, check_held, device_and_attention
from scripts.models import arithmetic
from scripts.quantize import vllm as by_engine
from scripts.run.config import load
from scripts.run.errors import UserError
from scripts.run.read import read_yaml
from tests.conftest import ROOT, TINY_STUDY

SETTINGS = {"max_model_len": 64, "max_num_seqs": 2}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "results/models/tiny/checkpoint"
    tokenizer = arithmetic.build_tokenizer()
    arithmetic.build_model(arithmetic.RECIPES["tiny-qwen-s"], tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def made(model: Path, name: str, **settings: object) -> Path:
    """The checkpoint of a scheme."""
    checkpoint = model.parents[2] / f"quantize/tiny/vllm/{name}/checkpoint"
    by_engine.main.registered_commands[0].callback.__wrapped__(
        model=model, checkpoint=checkpoint, manifest=checkpoint.with_name("manifest.json"), settings=settings
    )
    return checkpoint


def test_its_lists_are_those_of_vllm():
    from vllm.config.cache import CacheDType
    from vllm.config.quantization import _ONLINE_SHORTHANDS
    from vllm.model_executor.layers.quantization import QuantizationMethods

    assert engine.offered("kv_cache_dtype") == list(get_args(CacheDType))
    assert engine.offered("quantization") == list(_ONLINE_SHORTHANDS)
    assert engine.offered("quant_method") == list(get_args(QuantizationMethods))


def test_a_word_that_vllm_does_not_know_is_refused_as_the_configuration_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("config", "scripts", "resources"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config/quantizers.yaml"
    text = path.read_text()
    for scheme, message in {
        "w8a8: {quantization: fp8_per_chanel, bits: 8, activation_bits: 8}":
            "vllm.schemes.w8a8.quantization: .*'fp8_per_chanel'; did you mean 'fp8_per_channel'",
        "kv8: {kv_cache_dtype: fp88, kv_bits: 8}": "vllm.schemes.kv8.kv_cache_dtype: .*'fp88'",
        "kv8: {kv_cache_dtype: fp8}": "'kv_bits' is a dependency of 'kv_cache_dtype'",
        "kv4: {kv_cache_dtype: fp8, kv_bits: 8}": "the name says kv_bits 4, the settings 8",
    }.items():  # fmt: skip
        path.write_text(f"{text}    {scheme}\n")
        with pytest.raises(UserError, match=message):
            load(TINY_STUDY, ["config/config.yaml"])


def test_a_checkpoint_is_the_model_and_what_the_engine_is_told(model: Path):
    settings = {"kv_cache_dtype": "fp8", "kv_bits": 8}
    checkpoint = made(model, "kv8-fp8", **settings)
    assert engine.read_engine(checkpoint) == settings
    for path in model.iterdir():
        assert (checkpoint / path.name).samefile(path)
    stated = json.loads(checkpoint.with_name("manifest.json").read_text())["files"]
    assert engine.FILE in stated  # so that the digest of its samples is its own
    assert engine.read_engine(model) == {}


def test_a_cache_that_the_backend_here_does_not_keep_is_refused(model: Path):
    """vLLM on a CPU takes any, and keeps what it likes: int4_per_token_head answers there are noise."""
    if torch.cuda.is_available():
        pytest.skip("of a CPU's backend")
    assert device_and_attention(made(model, "kv8-fp8", kv_cache_dtype="fp8"), "bfloat16") == ("cpu", "CPU_ATTN")
    for kind in ("int4_per_token_head", "turboquant_4bit_nc", "nvfp4"):
        checkpoint = made(model, kind, kv_cache_dtype=kind)
        with pytest.raises(UserError, match=rf"CPU_ATTN, .*keeps no {kind} cache, only auto, fp8.*leave this"):
            device_and_attention(checkpoint, "bfloat16")


def test_bits_that_vllm_does_not_hold_are_refused(tmp_path: Path):
    stated = {"quantization": "int8_per_channel_weight_only", "bits": 8, "kv_bits": 8}
    check_held(tmp_path, stated, {"bits": 8.5, "kv_bits": 8.0})
    for held in ({"bits": 16.0, "kv_bits": 8.0}, {"bits": 8 * MOST, "kv_bits": 8.0}, {"bits": 8.5, "kv_bits": 4.0}):
        with pytest.raises(UserError, match=r"states (kv_)?bits 8, with quantization int8_per.* vLLM holds"):
            check_held(tmp_path, stated, held)


START = """
import gc, json, sys
from pathlib import Path
from scripts.generate.start import start_engine
from scripts.run.errors import UserError
from vllm import SamplingParams
if __name__ == "__main__":
    settings, said = json.loads(sys.argv[1]), {}
    for name in sys.argv[2:]:
        try:
            llm = start_engine(Path(name), settings)
            llm.generate([{"prompt_token_ids": [3, 4, 5]}], SamplingParams(max_tokens=4), use_tqdm=False)
            said[name] = [llm.collective_rpc("held")[0], None]
            del llm
        except UserError as error:
            said[name] = [None, str(error)]
        gc.collect()
    print(json.dumps(said))
"""


def started(settings: dict, *checkpoints: Path) -> list[list]:
    """Of each checkpoint what vLLM holds, or what is said instead, in one process."""
    command = [sys.executable, "-c", START, json.dumps(SETTINGS | settings), *map(str, checkpoints)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return list(json.loads(done.stdout.splitlines()[-1]).values())


def test_vllm_rounds_or_the_scheme_is_refused(model: Path):
    """Real vLLM, which says itself what a CPU cannot do; and what it leaves as it is without a word."""
    stated = read_yaml(ROOT / "config/quantizers.yaml")["vllm"]["schemes"]
    fp8 = made(model, "w8a8-fp8", **stated["w8a8-fp8"])
    cache = made(model, "kv8-fp8", **stated["kv8-fp8"])
    experts = made(model, "experts", quantization="int8_per_channel_weight_only", bits=8)
    block = made(model, "mxfp4", quantization="mxfp4", bits=4)
    weights, cached, silent, unable = started({"dtype": "bfloat16"}, fp8, cache, experts, block)
    (in_float32,) = started({"dtype": "float32"}, fp8)
    wide = torch.cpu._is_avx512_supported() or torch.cpu._is_amx_tile_supported()
    print("this CPU", "has" if wide else "lacks", "AVX-512 or AMX:", cached)
    config = AutoConfig.from_pretrained(model)
    if wide:
        assert cached[0] == {"bits": 16.0, "kv_bits": 8.0}
        assert 8 < weights[0]["bits"] < 8 + 2 * 32 / config.hidden_size  # a scale of 32 bits by channel
        assert weights[0]["kv_bits"] == 16
    else:
        assert "vLLM does not serve it here" in cached[1]
    assert "states bits 8, with quantization int8_per_channel_weight_only vLLM holds 16.0 of this model" in silent[1]
    assert "vLLM does not serve it here" in unable[1]
    assert "MXFP4" in unable[1]
    assert "torch.float32 is not supported for quantization method fp8_per_channel" in in_float32[1]
