"""Peak memory of every quantizer beyond the model, with few layers and with many: python -m tests.memory

Anonymous memory of this process (no mapped files), sampled while a quantizer's own `main` runs, less what was in use
before. A random model in bfloat16, in small shards. Prints last a line of JSON, by quantizer and number of layers, in
bytes, and the size of the model's layers.
"""

import contextlib
import gc
import inspect
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen2Config

from scripts.models.arithmetic import build_tokenizer
from scripts.quantize import _rewrite
from scripts.quantize._store import keeping
from tests.conftest import ROOT

LAYERS = 4, 24
SCHEMES = {
    "rtn": "w4g32",
    "mxfp4": "w4a4kv4",
    "gptq": "w4g128",
    "awq": "w4g128",
    "smoothquant": "w8a8kv8",
    "quarot": "w4a4kv4",
    "kvquant": "kv4",
    "flatquant": "w4a4kv4",
}
HIDDEN, INTERMEDIATE, SEQUENCES, LENGTH = 128, 512, 4, 64
SHARD_SIZE = "1MB"
PERIOD = 0.002  # seconds between two looks


def anonymous() -> int:
    """Bytes of memory in use that are no file's."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def watched(peak: list[int]) -> Iterator[None]:
    """While the body runs, look how much memory is in use; puts the most beyond that of the beginning into `peak`."""
    gc.collect()
    before, most, done = anonymous(), [0], threading.Event()

    def look() -> None:
        while not done.is_set():
            most[0] = max(most[0], anonymous())
            time.sleep(PERIOD)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        peak.append(most[0] - before)


def make_model(folder: Path, layers: int) -> int:
    """Returns the bytes of its layers."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    build_tokenizer().save_pretrained(folder)
    return sum(parameter.nbytes for parameter in model.model.layers.parameters())


def main() -> None:
    torch.set_num_threads(1)
    _rewrite.SHARD_SIZE = SHARD_SIZE
    quantizers = yaml.safe_load((ROOT / "config/quantizers.yaml").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, 16, (SEQUENCES, LENGTH), generator=generator).tolist()
        pq.write_table(pa.table({"input_ids": ids}), folder / "calibration.parquet")
        sizes = {layers: make_model(folder / f"model{layers}", layers) for layers in LAYERS}
        make_model(folder / "model1", 1)
        found = {}
        for quantizer, scheme in SCHEMES.items():
            run = inspect.unwrap(import_module(f"scripts.quantize.{quantizer}").main.registered_commands[0].callback)
            entry = quantizers[quantizer]
            settings = entry.get("defaults", {}) | entry["schemes"][scheme]
            settings |= {"epochs": 1} if quantizer == "flatquant" else {}
            named = {"calibration": [folder / "calibration.parquet"]} if "corpus" in settings else {}
            found[quantizer] = {}
            for layers in (1, *LAYERS):  # the first time costs what libraries take once
                target, peak = folder / quantizer / str(layers), []
                target.parent.mkdir(exist_ok=True)
                with watched(peak), tempfile.TemporaryDirectory() as parts, keeping(Path(parts)):
                    run(
                        model=folder / f"model{layers}", checkpoint=target, manifest=target.with_suffix(".json"),
                        settings=settings, **named,
                    )  # fmt: skip
                found[quantizer][layers] = peak[0]
    print(f"{'peak memory, MB':16}" + "".join(f"{f'{layers} layers':>12}" for layers in LAYERS))
    for quantizer, peaks in found.items():
        print(f"{quantizer:16}" + "".join(f"{peaks[layers] / 1e6:12.1f}" for layers in LAYERS))
    print("the layers      " + "".join(f"{sizes[layers] / 1e6:12.1f}" for layers in LAYERS))
    print(json.dumps({"peak": found, "layers": sizes}))


if __name__ == "__main__":
    main()
