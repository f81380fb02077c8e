"""vLLM with the plugin computes what the quantizers meant: every scheme that rounds as it is served, real engines."""

import inspect
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from scripts.fakequant.reference import load_reference
from scripts.fakequant.settings import read_settings, write_settings
from scripts.models.arithmetic import build_tokenizer
from scripts.quantize._link import link_checkpoint
from scripts.quantize._store import keeping
from tests.conftest import ROOT
from tests.tiny import SHAPES, random_model, solved, trained

QUANTIZERS = yaml.safe_load((ROOT / "config/quantizers.yaml").read_text())
# What vLLM rounds itself, and of which there is nothing of ours to agree with.
ENGINE = {f"vllm/{scheme}": settings for scheme, settings in QUANTIZERS.pop("vllm")["schemes"].items()}
ALL = {
    f"{quantizer}/{scheme}": entry.get("defaults", {}) | settings
    for quantizer, entry in QUANTIZERS.items()
    for scheme, settings in entry["schemes"].items()
}
# The paper's have the same code, but row groups and corpora for its models.
SCHEMES = {
    name: settings
    for name, settings in ALL.items()
    if settings.get("row_groups", 2) == 2 and settings.get("corpus", "plain") in {"plain", "reasoning"}
}
SERVED = [name for name, settings in SCHEMES.items() if settings.keys() & {"activation_bits", "kv_bits"}]
# Transforms, and rounding finer than float32 computes: the bounds are those of no rounding.
EXACT = {
    f"{scheme.split('/')[0]}/exact": SCHEMES[scheme] | {"bits": 22, "activation_bits": 22, "kv_bits": 22} | clips
    for scheme, clips in [
        ("quarot/w4a4kv4", {"activation_clip": 1.0, "kv_clip": 1.0}),
        ("smoothquant/w8a8kv8", {}),
        ("flatquant/w4a4kv4", {"clip": 1.0}),
        ("awq/w4g32", {}),
    ]
}
SOLVED = solved(36)
EVALUATION, CALIBRATION = SOLVED[:12], SOLVED[12:]
ONE_EACH = [f"{q}/w4a4kv4" for q in ("rtn", "quarot", "flatquant", "mxfp4")] + ["smoothquant/w8a8kv8", "kvquant/kv4"]
PACKED = ["awq/w4g32-packed", "gptq/w4g32-packed"]


def save(folder: Path, model: PreTrainedModel) -> None:
    """What quantizers need: `folder/model` and a calibration text."""
    model.save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    pq.write_table(pa.table({"input_ids": CALIBRATION}), folder / "calibration.parquet")


def quantize(folder: Path, scheme: str, *, learned: bool = False) -> None:
    """The checkpoint `folder/{quantizer}/{scheme}` of `folder/model`, made by the quantizer's own main.

    Where something is to be `learned`, it takes as long as its scheme says, else an epoch.
    """
    settings = (ALL | EXACT | ENGINE)[scheme]
    if "epochs" in settings and not learned:
        # What is learned need not be good; nine heads have three groups; and with another seed a value of the token
        # that begins all sequences may lie on the edge between two of the grid.
        heads = AutoConfig.from_pretrained(folder / "model").num_attention_heads
        row_groups = math.gcd(heads, 6) if heads % settings["row_groups"] else settings["row_groups"]
        settings = settings | {"epochs": 1, "row_groups": row_groups, "seed": 10}
    module = import_module(f"scripts.quantize.{scheme.split('/', maxsplit=1)[0]}")
    main = inspect.unwrap(module.main.registered_commands[0].callback)  # without record and store
    named = {"calibration": [folder / "calibration.parquet"]} if "corpus" in settings else {}
    target = folder / scheme
    target.parent.mkdir(exist_ok=True)
    made = {"model": folder / "model", "checkpoint": target, "manifest": target.with_suffix(".json")}
    with tempfile.TemporaryDirectory() as parts, keeping(Path(parts)):
        main(**made, settings=settings, **named)


def quantized(folder: Path, model: PreTrainedModel, schemes: list[str], *, learned: bool = False) -> None:
    """Checkpoints of the model."""
    save(folder, model)
    for scheme in schemes:
        quantize(folder, scheme, learned=learned)


def reference(checkpoint: Path, *, rounded: bool = True, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Log-probability of every token but the first, by the model in memory; or without what is rounded online."""
    if rounded:
        model = load_reference(checkpoint, dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    found = []
    for ids in EVALUATION:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
        found.append(scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])])
    return torch.cat(found)


def served(folder: Path, names: list[str], ranks: int) -> dict[str, torch.Tensor]:
    """The same from vLLM, in a process of its own: traced on one rank, eager on two."""
    (folder / "tokens.json").write_text(json.dumps(EVALUATION))
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve", str(folder), "traced" if ranks == 1 else "eager", str(ranks), *names],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {name: torch.tensor(values) for name, values in json.loads(done.stdout.splitlines()[-1]).items()}


def agree(found: torch.Tensor, expected: torch.Tensor, *, exact: bool = False, share: float = 0.05) -> bool:
    """Rounding is discontinuous: where there is any, few positions may differ, and little on the mean."""
    difference = (found - expected).abs()
    assert len(difference) >= 500
    if exact:
        return difference.max() <= 1e-3
    return difference.mean() <= 1e-2 and (difference > 1e-3).float().mean() <= share


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All schemes of a trained model with one KV head, which two ranks both hold."""
    folder = tmp_path_factory.mktemp("checkpoints")
    quantized(folder, trained("tiny-qwen-s"), [*EXACT, *SERVED])
    moved = folder.with_name("moved")
    folder.rename(moved)  # a checkpoint goes where it likes
    return moved


@pytest.mark.parametrize(
    ("ranks", "exact", "schemes"),
    [
        (1, ["model", *EXACT], SERVED),
        (2, ["quarot/exact", "flatquant/exact"], ["rtn/w4a4kv4", "kvquant/kv4"]),
        pytest.param(2, ["quarot/exact", "flatquant/exact"], ONE_EACH, marks=pytest.mark.campaign),
    ],
)
def test_vllm_computes_what_the_quantizer_meant(checkpoints: Path, ranks: int, exact: list[str], schemes: list[str]):
    found = served(checkpoints, [*exact, *schemes], ranks)
    for name in exact:
        assert agree(found[name], reference(checkpoints / name), exact=True), name
        assert agree(found[name], reference(checkpoints / "model"), exact=True), name
    for name in schemes:
        # A token that all sequences begin with has a value on the edge between two of SmoothQuant's grid.
        share = 0.1 if name.startswith("smoothquant/") else 0.05
        assert agree(found[name], reference(checkpoints / name), share=share), name
        # The bounds tell rounding from no rounding.
        assert not agree(found[name], reference(checkpoints / name, rounded=False)), name


def test_the_bounds_tell_one_place_or_grid_from_another(checkpoints: Path):
    one = reference(checkpoints / "kvquant/kv4")
    assert not agree(one, reference(checkpoints / "kvquant/kv4-after-bias"))
    wrong = checkpoints / "wrong"
    link_checkpoint(checkpoints / "quarot/w4a4kv4", wrong)
    write_settings(wrong, read_settings(wrong) | {"row_groups": 1})
    assert not agree(reference(wrong), reference(checkpoints / "quarot/w4a4kv4"))


# Each shape with two schemes, each scheme with some shape.
TWO_EACH = {shape: [*ONE_EACH[1:], *ONE_EACH[1:]][2 * i % 5 : 2 * i % 5 + 2] for i, shape in enumerate(SHAPES)}


@pytest.mark.parametrize(
    "chosen", [TWO_EACH, pytest.param(dict.fromkeys(SHAPES, ONE_EACH[1:]), marks=pytest.mark.campaign)]
)
def test_vllm_agrees_for_other_architectures_and_numbers_of_heads(tmp_path: Path, chosen: dict[str, list[str]]):
    for shape, schemes in chosen.items():
        (tmp_path / shape).mkdir()
        quantized(tmp_path / shape, random_model(shape), schemes)
    names = [f"{shape}/{scheme}" for shape, schemes in chosen.items() for scheme in schemes]
    found = served(tmp_path, names, 1)
    for name in names:
        # With 4864 channels nearly every token has one on the edge between two values.
        share = 0.15 if name.startswith("qwen2/") else 0.05
        assert agree(found[name], reference(tmp_path / name), share=share), name
        assert not agree(found[name], reference(tmp_path / name, rounded=False), share=0.5), name


def test_vllm_serves_packed_weights_as_their_twins(tmp_path: Path):
    """As stock transformers does; the subfolder `packed/` of AWQ holds what its packed scheme serves."""
    twins = [name.removesuffix("-packed") for name in PACKED]
    quantized(tmp_path, trained("tiny-qwen-m"), [*PACKED, *twins])
    names = [*PACKED, "awq/w4g32/packed"]
    found = served(tmp_path, names, 1)
    for name, twin in zip(names, [*twins, "awq/w4g32"], strict=True):
        expected = reference(tmp_path / twin)
        assert agree(found[name], expected, exact=True), name
        assert agree(reference(tmp_path / name, rounded=False), expected, exact=True), name
        assert not agree(found[name], reference(tmp_path / "model")), name


def test_the_documented_command_serves_the_rounding(checkpoints: Path, tmp_path: Path):
    """Through vLLM's OpenAI API, in an environment that says nothing of the plugin."""
    name = "quarot/w4a4kv4"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "scripts.fakequant.serve", "--model", str(checkpoints / name), "--enforce-eager"]
    options = ["--dtype", "float32", "--max-model-len", "256", "--kv-cache-memory-bytes", "10000000"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command + options + address, cwd=ROOT, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        body = {"model": str(checkpoints / name), "prompt": EVALUATION, "max_tokens": 1, "echo": True, "logprobs": 0}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            choices = json.load(answer)["choices"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    found = torch.tensor([value for c in choices for value in c["logprobs"]["token_logprobs"][1:-1]])
    assert agree(found, reference(checkpoints / name))
    assert not agree(found, reference(checkpoints / name, rounded=False))
