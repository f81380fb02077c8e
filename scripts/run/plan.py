"""What a study costs, roughly: python -m scripts.run.plan config/paper.yaml

The jobs that are left, as `snakemake -n` counts them; then GPU hours and disk of all artifacts, whatever of them is
there already, beside the disk that is free. Estimates of time and size are those of scripts/run/resources.py. And what
the study will be able to see, by scripts/run/foresight.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from scripts.run.config import Config, load
from scripts.run.errors import UserError
from scripts.run.foresight import sights
from scripts.run.resources import generate_gpu_minutes, quantize_gpu_minutes, weight_gb

SAMPLES_GB = 0.1 / (5 * 3 * 32768)  # of a benchmark, a seed and a token of the limit, compressed, in store and artifact


def estimate(config: Config) -> dict[str, tuple[int, float, float]]:
    """Artifacts, GPU hours and GB of each stage, over all studies of the config."""
    cells = {
        (model, scheme, suite)
        for study, entry in config.studies.items()
        for model, scheme in config.cells(study)
        for suite in entry["suites"]
    }
    checkpoints = {(model, scheme) for model, scheme, _ in cells}
    corpora = {(m, c) for m, scheme in checkpoints if (c := config.schemes[scheme].get("corpus"))}
    reasoning = {(m, "none/full", config.corpora[c]["suite"]) for m, c in corpora if "suite" in config.corpora[c]}
    models = {model for model, _ in checkpoints}
    named = {config.corpora[c].get("dataset") for _, c in corpora}
    asked = {b for _, _, suite in cells | reasoning for b in config.suites[suite]["benchmarks"]}
    datasets = [x for name, x in config.datasets.items() if name in named or x["used_by"] in asked]
    sizes = [weight_gb(config.models[m]) for m, s in checkpoints if "bits" in config.schemes[s]]
    generated = cells | reasoning
    minutes = sum(generate_gpu_minutes(config.models[m], config.schemes[s], config.suites[x]) for m, s, x in generated)
    suites = [config.suites[suite] for _, _, suite in generated]
    size = SAMPLES_GB * sum(len(x["benchmarks"]) * len(x["seeds"]) * x["max_model_len"] for x in suites)
    return {
        "models": (len(models), 0, sum(weight_gb(config.models[m]) for m in models)),
        "datasets": (len(datasets), 0, sum(x["bytes"] for x in datasets) / 1e9),
        "quantize": (
            len(checkpoints),
            sum(quantize_gpu_minutes(*config.quantizing(m, s)) for m, s in checkpoints) / 60,
            sum(sizes),
        ),
        "generate": (len(generated), minutes / 60, size),
    }


def seen(config: Config) -> Table:
    """The smallest drops that a study would tell from zero, from model to model."""
    title = "Smallest drop in points that four of five such studies would tell from zero"
    table = Table("study", "suite", "benchmark", title=title, title_justify="left")
    for name in ("questions × seeds", "drop"):
        table.add_column(name, justify="right")
    table.add_column("worked out from")
    for row in sights(config):
        low, high = f"{min(row.drops):.1f}", f"{max(row.drops):.1f}"
        drop = low if low == high else f"{low} to {high}"
        table.add_row(row.study, row.suite, row.benchmark, f"{row.questions:,} × {row.seeds}", drop, row.by)
    return table


def main(configfile: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    try:
        config = load(yaml.safe_load(configfile.read_text(encoding="utf-8")), [str(configfile)])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    command = [sys.executable, "-m", "snakemake", "--configfile", str(configfile), "--dry-run", "--quiet", "rules"]
    utf8 = os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", env=utf8)
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise typer.Exit(1)
    jobs = re.search(r"^job +count\n(.+?)^total.+?$", done.stdout + done.stderr, re.DOTALL | re.MULTILINE)
    print(jobs[0] if jobs else "no jobs are left", end="\n\n")
    stages, table = estimate(config), Table("stage")
    for name in ("artifacts", "GPU hours", "GB"):
        table.add_column(name, justify="right")
    for stage, (count, hours, size) in stages.items():
        table.add_row(stage, f"{count:,}", f"{hours:,.0f}" if hours else "", f"{size:,.1f}")
    hours, size = (sum(row[column] for row in stages.values()) for column in (1, 2))
    table.add_row("all", "", f"{hours:,.0f}", f"{size:,.1f}")
    console = Console()
    console.print(table)
    console.print(seen(config))
    free = shutil.disk_usage(".").free / 1e9
    print(f"{free:,.1f} GB are free here")
    if size > free:
        print(f"error: the study needs about {size:,.1f} GB: make room, or put results/ elsewhere", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
