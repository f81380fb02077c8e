"""The paper's grid: every cell of its tables, planned in seconds, with what it would cost."""

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scripts.run.config import load
from tests.conftest import ROOT, Copy

PAPER = "config/paper.yaml"
# What the paper could not or did not measure.
ADDED = {
    ("r1-qwen-7b", "quarot/w8a8kv8-r4"),
    ("r1-qwen-7b", "quarot/w4a4kv4-r4"),
    ("qwen3-8b", "mxfp4/w4a4kv4-r8"),
}
JOBS = {
    "datasets": 9,
    "models_of_hub": 8,
    "calibrate": 38,
    "quantize": 133,
    "questions": 6,
    "generate": 189,
    "score": 761,
}


def test_every_row_of_the_papers_tables_is_a_cell(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with Path("resources/paper/tables.csv").open() as stream:
        rows = {(row["model"], f"{row['quantizer']}/{row['scheme']}") for row in csv.DictReader(stream)}
    config = load(yaml.safe_load(Path(PAPER).read_text()), [PAPER])
    assert len(rows) == 117
    assert set(config.cells("paper")) == rows | ADDED


def test_the_plan_counts_jobs_hours_and_disk(copy: Copy):
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "scripts.run.plan", PAPER],
        cwd=copy.root, env=os.environ | {"PATH": copy.path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert time.monotonic() - started < 30
    found = {job: int(count) for job, count in re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE)}
    assert {job: found[job] for job in JOBS} == JOBS
    assert re.search(r"quantize.* 133 .*generate.* 189 .*all.*GB are free here", done.stdout, re.DOTALL)
    assert (done.returncode == 1) is ("error: the study needs about" in done.stderr)
