"""How long the page of a large study takes to make and to open: the paper's grid with 100,000 invented answers.

python -m tests.bench.page
"""

import csv
import json
import random
import tempfile
import time
from pathlib import Path

import yaml

from scripts.generate.engine import SCHEMA as SAMPLES
from scripts.questions._table import SCHEMA as QUESTIONS
from scripts.report.efficiency import CONDITIONS
from scripts.score._table import SCHEMA as SCORES
from scripts.table import write_table
from tests.bench import size
from tests.browser import chromium, opened, see_all
from tests.conftest import ASKED, Copy

BENCHMARKS = ["aime120", "math500", "gsm8k", "gpqa", "livecodebench"]
SEEDS = [42, 43, 44]
COUNT = size(56, 2)  # questions of each benchmark
STEPS = 24  # of an answer
RULES = ["tables", "ablations", "scaling", "loops", "efficiency", "findings", "paper", "headline"]
RULES += ["explorer", "figures", "page", "study_magnitudes"]


def thought(draw: random.Random) -> str:
    """About 3,000 characters with two dozen formulas, every other of them like none before."""
    lines = []
    for step in range(STEPS):
        a, b = draw.randrange(1000), draw.randrange(10)
        lines.append(f"Wait, let me check step {step}: since \\(x_{{{b}}} = \\frac{{{a}}}{{{b + 1}}}\\) is positive,")
        lines.append(f"the sum cannot exceed $n^2 + {b}$, and so on.")
    return "\n".join(lines)


def write_cell(results: Path, cell: tuple[str, str], draw: random.Random) -> int:
    """Invented answers, verdicts and records of a cell; the number of its samples."""
    model, (quantizer, scheme) = cell[0], cell[1].split("/")
    skill = {name: draw.uniform(0.3, 0.95) for name in BENCHMARKS}
    samples, scores = [], {name: [] for name in BENCHMARKS}
    for benchmark in BENCHMARKS:
        for number in range(COUNT):
            for seed in SEEDS:
                keys = {"model": model, "quantizer": quantizer, "scheme": scheme, "suite": "paper",
                        "benchmark": benchmark, "id": f"{benchmark}-{number}", "seed": seed}  # fmt: skip
                right, tokens = draw.random() < skill[benchmark], draw.randrange(500, 32000)
                common = keys | {"finish_reason": "stop" if tokens < 31000 else "length", "output_tokens": tokens}
                output = f"{thought(draw)}</think>The answer is \\boxed{{{number}}}."
                samples.append(
                    common
                    | {
                        "prompt": "",
                        "prompt_tokens": 0,
                        "output": output,
                        "sample": "",
                        "token_ids": [],
                        "cut": None,
                    }
                )
                verdict = {"correct": right, "correct_final": right, "status": "ok", "sandboxed": None,
                           "extracted_final": str(number), "status_final": "ok"}  # fmt: skip
                scores[benchmark].append(common | verdict | {"level": str(number % 5 + 1), "extracted": str(number)})
    folder = results / "generate" / model / quantizer / scheme
    write_table(folder / "paper.parquet", samples, SAMPLES, think=ASKED["think"])
    facts = {"generated": 0, "output_tokens": 0, "tokens_per_second": None}
    facts["conditions"] = dict.fromkeys(CONDITIONS, "invented")
    record = {"outputs": {}, "facts": facts, "gpus": [], "cpu": {"model": "none", "cores": 0},
              "wall_seconds": 0, "host": "nowhere", "packages": {}, "start": ""}  # fmt: skip
    (folder / "paper.record.json").write_text(json.dumps(record))
    for benchmark, rows in scores.items():
        write_table(results / "score" / model / quantizer / scheme / f"paper/{benchmark}.parquet", rows, SCORES)
    manifest = results / "quantize" / model / quantizer / scheme / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"files": {}}))
    return len(samples)


def write_questions(results: Path) -> None:
    for benchmark in BENCHMARKS:
        rows = [
            {"benchmark": benchmark, "id": f"{benchmark}-{number}", "gold": str(number), "subject": "algebra",
             "messages": [{"role": "user", "content": f"What is $\\sqrt{{{number}^2}}$?"}],
             "level": str(number % 5 + 1), "expected_tokens": 0}
            for number in range(COUNT)
        ]  # fmt: skip
        write_table(results / f"questions/{benchmark}.parquet", rows, QUESTIONS)


def study() -> dict:
    """The paper's study alone."""
    config = yaml.safe_load(Path("config/paper.yaml").read_text())
    paper = config["studies"]["paper"]
    first = paper["grid"][0]
    few = [{"models": first["models"][:1], "schemes": first["schemes"][:2]}]
    without = {"speed": False, "magnitudes": ""}  # there is no checkpoint
    return config | {"studies": {"paper": paper | without | {"grid": size(paper["grid"], few)}}}


def on_disk(paths: list[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:,.1f} MB in {len(paths):,} file{'s' * (len(paths) > 1)}"


def main() -> None:
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Copy(Path(scratch) / "repository")
        copy.write_config(config := study())
        results, report = copy.root / "results", copy.root / "results/report/paper"
        grid = config["studies"]["paper"]["grid"]
        cells = [(model, scheme) for block in grid for model in block["models"] for scheme in block["schemes"]]
        write_questions(results)
        count = sum(write_cell(results, cell, draw) for cell in cells)
        print(f"{len(cells)} cells, {count:,} samples of about {len(thought(draw)):,} characters", flush=True)
        copy.build("--allowed-rules", "all", "code", "samples", *RULES)
        for path in sorted((copy.root / "results/timings/report/paper").glob("*.tsv")):
            with path.open() as stream:
                row = next(csv.DictReader(stream, delimiter="\t"))
            print(f"    {path.stem:12} {float(row['s']):6.1f} s, {float(row['max_rss'] or 0):6,.0f} MB of memory")
        print(f"page:      {on_disk([report / 'index.html'])}")
        print(f"explorer:  {on_disk(list(report.glob('explorer/files/**/*.js')))}")
        with chromium() as browser:
            for _ in range(size(3, 1)):
                started = time.monotonic()
                with opened(browser, report / "index.html") as view:
                    view.locator("#accuracy tbody tr").last.wait_for()
                    loaded = time.monotonic() - started
                    view.locator("#outputs").scroll_into_view_if_needed()
                    view.locator(".output header").last.wait_for()
                    outputs = time.monotonic() - started
                    see_all(view)
                    print(
                        f"open:      {loaded:.2f} s to the table, {outputs:.2f} s to two outputs side by side, "
                        f"{time.monotonic() - started:.2f} s to the last chart",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
