"""What generating costs beside bare vLLM, one start beside many, ordered beside shuffled, resumed beside whole.

    python -m tests.bench.generate

Everything runs here and now, on copies of the tiny study in a temporary folder; medians of `TRIALS` alternating runs.
"""

import dataclasses
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from transformers import AutoTokenizer

from scripts.generate.prompts import Request, build_requests
from scripts.generate.store import FLUSH_SECONDS, Store, segments
from scripts.table import read_rows
from tests.bench import size
from tests.conftest import ASKED, TINY_STUDY, Copy

TRIALS = size(3, 1)
MODEL = "tiny-qwen-m"
ARTIFACT = f"results/generate/{MODEL}/none/full/arithmetic.parquet"
CHECKPOINT = f"results/quantize/{MODEL}/none/full/checkpoint"
SAMPLES = "results/store/samples"
SUITE = TINY_STUDY["suites"]["arithmetic"] | size({"seeds": [42, 43, 44]}, {"seeds": [42], "benchmarks": ["addition"]})
STUDY = {
    "studies": {
        "tiny": {"suites": ["arithmetic"], "grid": [{"models": [MODEL], "schemes": ["none/full"]}]},
    },
    "suites": {"arithmetic": SUITE},
    "corpora": {},
}


def run(copy: Copy, *arguments: str) -> tuple[float, str]:
    """Wall seconds and standard output of a Python command in the copy, on one thread."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy.root, check=False, capture_output=True, text=True,
        env=os.environ | {"PATH": copy.path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return time.monotonic() - started, done.stdout


def ours(copy: Copy) -> dict:
    """The generate job as its record says it was started, with the store as it is."""
    record = (copy.root / ARTIFACT).with_suffix(".record.json")
    seconds, _ = run(copy, *json.loads(record.read_text())["command"][1:])
    return json.loads(record.read_text())["facts"] | {"seconds": seconds}


def bare(copy: Copy, requests: list[Request], max_num_seqs: int = 128, checkpoint: str = CHECKPOINT) -> dict:
    settings = SUITE | {"dtype": "float32", "max_num_seqs": max_num_seqs}
    job = {"checkpoint": checkpoint, "settings": settings, "requests": [dataclasses.asdict(r) for r in requests]}
    (copy.root / "job.json").write_text(json.dumps(job))
    seconds, output = run(copy, "-m", "tests.bench.bare", "job.json")
    return json.loads(output.splitlines()[-1]) | {"seconds": seconds}


def speed(facts: dict) -> float:
    return facts["generated_tokens"] / facts["generation_seconds"]


def against_bare(copy: Copy, requests: list[Request]) -> float:
    """Prints (a); returns the median wall seconds of our whole job."""
    pairs = []
    for _ in range(TRIALS):
        shutil.rmtree(copy.root / SAMPLES)
        pairs.append((ours(copy), bare(copy, requests)))
    rates = [statistics.median(speed(facts) for facts in side) for side in zip(*pairs, strict=True)]
    starts = [statistics.median(f["startup_seconds"] for f in side) for side in zip(*pairs, strict=True)]
    print(f"(a) {len(requests):,} samples, generate job against bare LLM.generate (goals: at least 0.97, at most 1.05)")
    print(f"    tokens/s  {rates[0]:9,.0f} {rates[1]:9,.0f}  ratio {rates[0] / rates[1]:.3f}")
    print(f"    start, s  {starts[0]:9.2f} {starts[1]:9.2f}  ratio {starts[0] / starts[1]:.3f}", flush=True)
    return statistics.median(facts["seconds"] for facts, _ in pairs)


def against_many_starts(copy: Copy, requests: list[Request], whole: float) -> None:
    parts = [
        [request for request in requests if (request.benchmark, request.seed) == key]
        for key in sorted({(request.benchmark, request.seed) for request in requests})
    ]
    many = sum(bare(copy, part)["seconds"] for part in parts)
    print(f"(b) one start against {len(parts)}, one for each benchmark and seed (goal: at least 3.8)")
    print(f"    wall, s   {whole:9.1f} {many:9.1f}  ratio {many / whole:.2f}", flush=True)


def against_shuffled(copy: Copy, requests: list[Request]) -> None:
    """Answers of lognormal length, a few of them very long, on an engine of 32 sequences."""
    draw = random.Random(0)
    lengths = [min(200, max(4, int(draw.lognormvariate(3, 1.2)))) for _ in requests]
    heavy = [
        dataclasses.replace(
            request,
            expected_tokens=length,
            sampling=request.sampling | {"max_tokens": length, "min_tokens": length},
        )
        for request, length in zip(requests, lengths, strict=True)
    ]
    shuffled = draw.sample(heavy, len(heavy))
    ordered = sorted(heavy, key=lambda request: -request.expected_tokens)
    runs = [(bare(copy, ordered, 32), bare(copy, shuffled, 32)) for _ in range(TRIALS)]
    seconds = [statistics.median(f["generation_seconds"] for f in side) for side in zip(*runs, strict=True)]
    print(
        f"(c) longest first against shuffled, lengths with mean {statistics.mean(lengths):.0f}, longest {max(lengths)}"
    )
    print(f"    generating, s {seconds[0]:5.2f} {seconds[1]:9.2f}  ratio {seconds[1] / seconds[0]:.2f}", flush=True)


def resumed(copy: Copy, requests: list[Request], whole: float) -> None:
    """As if the job had been killed when half of the samples were stored."""
    samples = {request.sample for request in requests}
    folder = segments(copy.root / SAMPLES)[0].parent
    stored = Store(folder.name, samples, {}, folder.parent).samples
    shutil.rmtree(folder)
    half = Store(folder.name, set(), {}, folder.parent)
    for sample in sorted(stored)[::2]:
        half.add(sample, stored[sample])
    half.flush()
    facts = ours(copy)
    ideal = facts["startup_seconds"] + (whole - facts["startup_seconds"]) / 2
    print(f"(d) resumed at half: {facts['generated']:,} of {facts['samples']:,} samples generated")
    print(f"    wall, s   {facts['seconds']:9.1f}, of {whole:.1f} for all; a start and half of the rest is {ideal:.1f}")
    print(f"    a killed job loses at most {FLUSH_SECONDS} s of finished samples", flush=True)


def built(root: Path, study: dict, targets: list[str]) -> tuple[Copy, list[Request]]:
    """These files of the study, built in a copy of the repository, and what its suite asks."""
    copy = Copy(root)
    shutil.copytree(Path(__file__).parent.parent, copy.root / "tests")
    copy.write_config(study)
    tables = [f"results/questions/{name}.parquet" for name in SUITE["benchmarks"]]
    copy.build("--", *tables, *targets)
    rows = [row for path in tables for row in read_rows(copy.root / path)]
    tokenizer = AutoTokenizer.from_pretrained(copy.root / CHECKPOINT)
    return copy, build_requests(rows, tokenizer, SUITE | ASKED | {"top_k": 0, "paper_seeds": False}, {}, {})


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy, requests = built(Path(scratch, "repository"), STUDY, [ARTIFACT])
        artifact = pq.read_table(copy.root / ARTIFACT).to_pylist()
        requests = [dataclasses.replace(r, sample=a["sample"]) for r, a in zip(requests, artifact, strict=True)]
        whole = against_bare(copy, requests)
        against_many_starts(copy, requests, whole)
        resumed(copy, requests, whole)
        against_shuffled(copy, requests)


if __name__ == "__main__":
    main()
