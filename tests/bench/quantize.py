"""Time and peak memory of each quantizer on a random model, and our GPTQ core beside GPTQModel.

    python -m tests.bench.quantize

Four layers, hidden size 896, intermediate size 4864, 14 heads and 2 KV heads; 16 sequences of 512 tokens. Each
quantizer runs in a process of its own, which loads the model first: its peak memory holds model and libraries too.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from tests.bench import size

ROW_GROUPS = 2
SEQUENCES, LENGTH, VOCABULARY = *size((16, 512), (4, 16)), 1024
METHODS = ("smooth", "rotate", "gptq core", "key grids", "awq", "flatquant 1", "flatquant 2", "gptqmodel")
SETTINGS = {"bits": 4, "group_size": -1, "sym": True, "desc_act": False, "mse": 2.4, "damp_percent": 0.01}
LAYERS, BATCH = size(4, 1), 4
FLATQUANT = {
    "bits": 4, "activation_bits": 4, "kv_bits": 4, "row_groups": ROW_GROUPS, "alpha": 0.3, "clip": 0.982,
    "batch_size": BATCH, "learning_rate": 0.005, "seed": 0,
}  # fmt: skip


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=896, intermediate_size=4864, num_hidden_layers=LAYERS,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def run_one(folder: Path, method: str) -> None:
    """In a process of its own; prints last a line of JSON."""
    from scripts.quantize import awq, gptq
    from scripts.quantize._layers import quantize_layers
    from scripts.quantize._store import keeping
    from scripts.quantize.flatquant import learn_layers
    from scripts.quantize.kvquant import key_grids
    from scripts.quantize.quarot import rotate
    from scripts.quantize.smoothquant import smooth

    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), generator=generator).tolist()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    started = time.monotonic()
    if method == "smooth":
        smooth(model, sequences, 0.85, method)
    elif method == "rotate":
        rotate(model, 0, ROW_GROUPS)
    elif method == "gptq core":
        quantize_layers(model, sequences, SETTINGS["bits"], 1, method)
    elif method == "key grids":
        key_grids(model, sequences, 4, "before_bias", method)
    elif method == "awq":
        awq.quantize_layers(model, sequences, SETTINGS["bits"], 128, method)
    elif method.startswith("flatquant"):
        for _ in learn_layers(model, sequences, FLATQUANT | {"epochs": int(method.split()[1])}, method):
            pass
    else:
        del model
        with tempfile.TemporaryDirectory() as parts, keeping(Path(parts)):
            gptq.quantize(folder, sequences, SETTINGS)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak}))


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        make_model(Path(scratch))
        found = {}
        print(f"{'':12} {'seconds':>8} {'peak memory, MB':>16}")
        for method in METHODS:
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.quantize", scratch, method],
                check=False, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            found[method] = json.loads(done.stdout.splitlines()[-1])
            print(f"{method:12} {found[method]['seconds']:8.1f} {found[method]['peak'] / 1e6:16,.0f}", flush=True)
    epoch = found["flatquant 2"]["seconds"] - found["flatquant 1"]["seconds"]
    print(
        f"flatquant, after 1 and 2 epochs: {epoch / (LAYERS * SEQUENCES / BATCH):.2f} s per step of {BATCH} sequences"
    )
    ratio = found["gptq core"]["seconds"] / found["gptqmodel"]["seconds"]
    print(f"AWQ's search takes {found['awq']['seconds']:.0f} s (goal: under 60)")
    print(f"our GPTQ core takes {ratio:.2f} of GPTQModel's time (goal: at most 1)")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run_one(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
