"""How fast vLLM serves checkpoints through the plugin, beside full precision.

    python -m tests.bench.plugin

A tiny model on one thread, equal numbers of tokens for all, medians of alternating runs.
"""

import copy as copying
import dataclasses
import statistics
import tempfile
from pathlib import Path

from tests.bench import size
from tests.bench.generate import MODEL, STUDY, TRIALS, bare, built, speed
from tests.conftest import TINY_STUDY

TOKENS = size(200, 5)  # of each answer
# With the share of full precision's speed that is asked of them.
SCHEMES = size(
    {"none/full": None, "quarot/kv4": None, "smoothquant/w8a8kv8": 0.85, "quarot/w4a4kv4": 0.60},
    {"none/full": None, "rtn/w4a4kv4": None},
)


def main() -> None:
    study = copying.deepcopy(STUDY)
    study["studies"]["tiny"]["grid"][0]["schemes"] = list(SCHEMES)
    study["suites"]["own_reasoning"] = TINY_STUDY["suites"]["own_reasoning"]
    study["corpora"] = TINY_STUDY["corpora"]
    with tempfile.TemporaryDirectory() as scratch:
        targets = [f"results/quantize/{MODEL}/{scheme}/manifest.json" for scheme in SCHEMES]
        copy, requests = built(Path(scratch, "repository"), study, targets)
        length = {"max_tokens": TOKENS, "min_tokens": TOKENS, "ignore_eos": True}
        requests = [dataclasses.replace(r, sampling=r.sampling | length) for r in requests[:300]]
        rates: dict[str, list[float]] = {scheme: [] for scheme in SCHEMES}
        for _ in range(TRIALS):
            for scheme in SCHEMES:
                checkpoint = f"results/quantize/{MODEL}/{scheme}/checkpoint"
                rates[scheme].append(speed(bare(copy, requests, checkpoint=checkpoint)))
    full = statistics.median(rates["none/full"])
    print(f"{'scheme':20} {'tokens/s':>9} {'of full':>8} {'goal':>5}")
    for scheme, goal in SCHEMES.items():
        rate = statistics.median(rates[scheme])
        print(f"{scheme:20} {rate:9,.0f} {rate / full:8.2f} {goal or '':>5}")


if __name__ == "__main__":
    main()
