"""What planning costs: `snakemake -n` on large grids beside a bare Snakefile of as many jobs, in user CPU seconds.

python -m tests.bench.plan
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from scripts.report import TABLES as REPORTED
from tests.bench import size
from tests.conftest import TINY_STUDY, Copy

# models, schemes: the paper's grid has eight and fifteen.
GRIDS = size([(8, 15), (20, 50), (100, 100)], [(1, 2)])
BENCHMARKS = ["addition", "multiplication"]
TABLES = [f"table{i}" for i in range(len(REPORTED))]

BARE = """
models = [f"m{{i}}" for i in range({models})]
schemes = [f"s{{i}}" for i in range({schemes})]

rule all:
    input:
        expand("report/{{table}}.parquet", table={tables}),

rule model:
    output: "models/{{model}}/manifest.json"
    shell: "true"

rule questions:
    output: "questions/{{benchmark}}.parquet"
    shell: "true"

rule quantize:
    input: "models/{{model}}/manifest.json"
    output: "quantize/{{model}}/{{scheme}}/manifest.json"
    shell: "true"

rule generate:
    input:
        "quantize/{{model}}/{{scheme}}/manifest.json",
        expand("questions/{{benchmark}}.parquet", benchmark={benchmarks}),
    output: "generate/{{model}}/{{scheme}}/suite.parquet"
    shell: "true"

rule score:
    input:
        "generate/{{model}}/{{scheme}}/suite.parquet",
        "questions/{{benchmark}}.parquet",
    output: "score/{{model}}/{{scheme}}/{{benchmark}}.parquet"
    shell: "true"

rule samples:
    input:
        expand("score/{{model}}/{{scheme}}/{{benchmark}}.parquet",
            model=models, scheme=schemes, benchmark={benchmarks}),
    output: "report/samples.parquet"
    shell: "true"

rule tables:
    input: "report/samples.parquet"
    output: "report/{{table}}.parquet"
    shell: "true"
"""


def plan(folder: Path, *arguments: str) -> tuple[int, float]:
    """Planned jobs, `rule all` included, and the user CPU seconds that planning took."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", *arguments]
    environment = os.environ | {"PATH": Copy.path}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        text = output.read()
    assert status == 0, text[-3000:]
    totals = [line.split()[1] for line in text.splitlines() if line.startswith("total ")]
    return int(totals[-1]), usage.ru_utime


def ours(folder: Path, models: int, schemes: int) -> Copy:
    """The pipeline with a grid of this size: tiny models under other names, one quantizer under many."""
    copy = Copy(folder)
    one = copy.root / "config/models/tiny-qwen-s.yaml"
    names = [f"tiny-{i}" for i in range(models)]
    for name in names:
        shutil.copy(one, one.with_stem(name))
    quantizers = {
        "none": {"schemes": {"full": {}}},
        "rtn": {"schemes": {f"w3-v{i}": {"bits": 3, "group_size": -1} for i in range(schemes - 1)}},
    }
    (copy.root / "config/quantizers.yaml").write_text(yaml.safe_dump(quantizers))
    pairs = [f"{quantizer}/{scheme}" for quantizer, entry in quantizers.items() for scheme in entry["schemes"]]
    study = {"suites": ["arithmetic"], "grid": [{"models": names, "schemes": pairs}]}
    suite = TINY_STUDY["suites"]["arithmetic"] | {"benchmarks": BENCHMARKS}
    copy.write_config({"studies": {"large": study}, "suites": {"arithmetic": suite}, "corpora": {}, "retrain": True})
    return copy


def bare(folder: Path, models: int, schemes: int, *, logged: bool) -> Path:
    """A Snakefile of as many jobs and nothing else, or with a log and a timing for each job."""
    text = BARE.format(models=models, schemes=schemes, benchmarks=BENCHMARKS, tables=TABLES)
    if logged:
        text = re.sub(r'    output: "(.*)"', r'    output: "\1"\n    log: "logs/\1"\n    benchmark: "timings/\1"', text)
    folder.mkdir()
    (folder / "Snakefile").write_text(text)
    return folder


def main() -> None:
    print("user CPU seconds of `snakemake -n`: ours, bare, and bare with a log and a timing for each job")
    print(
        f"{'checkpoints':>11} {'jobs':>7} {'ours':>6} {'bare':>6} {'logged':>6} {'ours/bare':>10} {'ours/logged':>12}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for models, schemes in GRIDS:
            folder = Path(scratch, f"{models}x{schemes}")
            folder.mkdir()
            jobs, seconds = plan(ours(folder / "ours", models, schemes).root, "--configfile", "config/tiny.yaml")
            bare_jobs, least = plan(bare(folder / "bare", models, schemes, logged=False))
            _, logged = plan(bare(folder / "logged", models, schemes, logged=True))
            assert bare_jobs <= jobs <= bare_jobs + 33  # ours has one job more for each module
            print(
                f"{models * schemes:11,} {jobs:7,} {seconds:6.1f} {least:6.1f} {logged:6.1f} "
                f"{seconds / least:10.2f} {seconds / logged:12.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
