"""How far each scheme moves each tiny reasoner, and how near vLLM comes to what the quantizer meant, by ranks.

    python -m tests.bench.agreement

First the Kullback-Leibler divergence of the next token's distribution from full precision's, in nats, mean over solved
problems; then, for schemes that round as they are served, differences of log-probabilities between vLLM on one and two
ranks and the quantizer's model in memory.
"""

import contextlib
import io
import tempfile
from pathlib import Path

import torch

from scripts.fakequant.reference import load_reference
from scripts.models.arithmetic import RECIPES
from tests.bench import size
from tests.test_agreement import SCHEMES, SERVED, quantized, reference, served
from tests.test_methods import divergence, logits
from tests.tiny import trained

RANKS = size((1, 2), (1,))
MODELS = size(list(RECIPES), ["tiny-qwen-s"])
MOVED = size(list(SCHEMES)[1:], ["rtn/w3"])  # behind none/full
ROUNDING = size(SERVED, ["rtn/w4a4kv4"])


def divergences(folder: Path) -> None:
    models = {name: trained(name) for name in MODELS}
    full = {name: logits(model) for name, model in models.items()}
    print(f"{'KL to none/full, nats':24}" + "".join(f"{name:>14}" for name in models))
    for scheme in MOVED:
        settings = SCHEMES[scheme]
        if settings.get("packed") or settings.get("group_size", -1) > 32:
            continue  # the numbers of another; groups that do not divide tiny-qwen-s
        row = []
        for name, model in models.items():
            target = folder / name / scheme.replace("/", "-")
            target.mkdir(parents=True)
            with contextlib.redirect_stdout(io.StringIO()):
                quantized(target, model, [scheme], learned=True)
            row.append(divergence(load_reference(target / scheme, torch.float32), full[name]))
        print(f"{scheme:24}" + "".join(f"{value:14.5f}" for value in row), flush=True)


def agreements(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        quantized(folder, trained("tiny-qwen-s"), ROUNDING)
    expected = {name: reference(folder / name) for name in ROUNDING}
    found = {ranks: served(folder, ROUNDING, ranks) for ranks in RANKS}
    print(f"{'vLLM, tiny-qwen-s':24}" + "".join(f"{f'mean |Δ|, TP {n}':>16}{'above 1e-3':>12}" for n in RANKS))
    for name in ROUNDING:
        differences = [(found[ranks][name] - expected[name]).abs() for ranks in RANKS]
        cells = (f"{d.mean():16.1e}{(d > 1e-3).float().mean():12.1%}" for d in differences)
        print(f"{name:24}" + "".join(cells))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        divergences(Path(scratch, "divergences"))
        agreements(Path(scratch, "agreements"))
