"""What a quantizer has finished survives its being killed, and its memory does not grow with the number of layers."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from scripts.manifest import write_manifest
from scripts.models import arithmetic
from tests.conftest import ROOT
from tests.tiny import solved, trained

QUANTIZERS = yaml.safe_load((ROOT / "config/quantizers.yaml").read_text())
MODEL = "tiny-qwen-s"
KILLED = {  # scheme → part before which the job is killed, parts that it had then, parts in all
    "gptq/w4g32": ("layer2", 2, 4),
    "awq/w4g32": ("layer2", 2, 4),
    "smoothquant/w8a8kv8": ("gptq1", 5, 8),
    "quarot/w4a4kv4": ("gptq2", 2, 4),
    "kvquant/kv4": ("keys3", 3, 4),
    "flatquant/w4a4kv4": ("layer2", 2, 4),
}
# A job that is killed when the part is made, before it is written.
KILLER = """
import os, runpy, signal, sys
from scripts.quantize import _store
last, module, keep = sys.argv[1], sys.argv[2], _store.keep
def die(name, tensors):
    if name == last:
        os.kill(os.getpid(), signal.SIGKILL)
    keep(name, tensors)
_store.keep = die
sys.argv = sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def settings_of(scheme: str) -> dict:
    quantizer, name = scheme.split("/")
    entry = QUANTIZERS[quantizer]
    settings = entry.get("defaults", {}) | entry["schemes"][name]
    return settings | ({"epochs": 1} if "epochs" in settings else {})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("repository") / "results"
    folder = results / "models" / MODEL
    arithmetic.save(trained(MODEL), folder / "checkpoint", arithmetic.RECIPES[MODEL])
    write_manifest(folder / "checkpoint", folder / "manifest.json")
    (results / "calibrate").mkdir()
    (results.parent / "scripts").symlink_to(ROOT / "scripts")  # code is part of a checkpoint's address
    pq.write_table(pa.table({"input_ids": solved(12)}), results / "calibrate/plain.parquet")
    return results


def arguments(scheme: str) -> dict[str, Path]:
    target = Path("results/quantize", MODEL, scheme)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return {
        "model": Path("results/models", MODEL, "checkpoint"),
        "checkpoint": target / "checkpoint",
        "manifest": target / "manifest.json",
    }


def quantize(scheme: str) -> bytes:
    """By way of the store, in this process: what its manifest says."""
    made = arguments(scheme)
    module = import_module(f"scripts.quantize.{scheme.split('/', maxsplit=1)[0]}")
    stored = module.main.registered_commands[0].callback.__wrapped__  # without a record
    stored(**made, settings=settings_of(scheme), calibration=[Path("results/calibrate/plain.parquet")])
    return made["manifest"].read_bytes()


@pytest.mark.parametrize("scheme", KILLED)
def test_a_killed_job_goes_on_where_it_was(
    scheme: str, results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The same bytes as undisturbed, and no finished layer is done again."""
    monkeypatch.chdir(results.parent)
    store = results / "store/checkpoints"
    shutil.rmtree(store, ignore_errors=True)
    name, finished, parts = KILLED[scheme]
    undisturbed = quantize(scheme)
    assert "finished by an earlier job" not in capfd.readouterr().out
    [entry] = [path for path in store.iterdir() if path.is_dir()]
    shutil.rmtree(entry)

    made = arguments(scheme)
    options = [part for key, path in made.items() for part in (f"--{key}", str(path))]
    killed = subprocess.run(
        [
            *(sys.executable, "-c", KILLER, name, f"scripts.quantize.{scheme.split('/', maxsplit=1)[0]}", *options),
            *("--settings", json.dumps(settings_of(scheme)), "results/calibrate/plain.parquet"),
        ],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr[-3000:]
    assert not made["manifest"].exists()
    assert len(list((entry / "parts").iterdir())) == finished

    assert quantize(scheme) == undisturbed
    assert capfd.readouterr().out.count("was finished by an earlier job") == finished
    assert not (entry / "parts").exists()
    assert finished < parts


def test_memory_does_not_grow_with_the_number_of_layers():
    """Beyond the model itself, of every quantizer: 24 layers need what 4 do, where float32 weights would be 20 MB."""
    limits = {f"MALLOC_{name}": "131072" for name in ("MMAP_THRESHOLD_", "TRIM_THRESHOLD_")} | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.memory"],
        cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ | limits,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    few, many = found["layers"]
    layers = found["layers"][many] - found["layers"][few]
    assert found["peak"].keys() == QUANTIZERS.keys() - {"none", "vllm"}
    for quantizer, peak in found["peak"].items():
        # The model itself, and what varies from run to run (up to 3 MB); one more copy in bfloat16 would be twice that.
        assert peak[many] - peak[few] <= 1.75 * layers, quantizer
    # What is rewritten shard by shard never holds the model, within the same 3 MB.
    assert all(found["peak"][quantizer][many] < 0.35 * layers for quantizer in ("rtn", "mxfp4"))
