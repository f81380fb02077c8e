"""What works on this machine: the programs of `make check-gpu`, `check-compiled` and `check-sizes`, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.conftest import ROOT
from tests.test_agreement import ALL

ROW = {"differs": 0.01, "noise": 0.0, "effect": 0.2}


def smallest(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"BENCH_SIZE": "smallest", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    command = [sys.executable, "-m", f"tests.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, encoding="utf-8", env=environment)


def test_what_inductor_compiles_computes_what_the_quantizer_meant():
    """MXFP4, and QuaRot with weights, inputs and cache, beside full precision: real engines, compiled."""
    done = smallest("node", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row.split()[1] for row in rows] == ["none/full", *node.SMALLEST], done.stdout
    assert all(row.split()[-2] == "works" for row in rows)
    assert "Inductor" not in done.stdout


def test_a_layer_of_a_real_width_is_quantized_and_served():
    done = smallest("sizes")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "one layer of the widths of r1-qwen-1.5b" in done.stdout
    assert "quarot/kv4" in done.stdout
    refused = smallest("sizes", "gpt-2").stderr
    assert "error: no model gpt-2 in the paper's grid; known: " in refused and "r1-qwen-1.5b" in refused


def test_a_node_without_a_gpu_is_told_so():
    done = smallest("node")
    assert done.returncode == 1
    assert "torch sees no GPU here" in done.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "works"),
        ({"differs": 0.11}, "differs"),  # more than half of the way to full precision
        ({"differs": 0.11, "noise": 0.1}, "works"),  # no more than bfloat16 makes it
        ({"differs": 0.2, "noise": 0.1}, "differs"),
        ({"effect": 0.0}, "works"),  # full precision itself
        ({"effect": 0.0, "differs": 0.02}, "differs"),
        ({"effect": 0.0, "differs": 0.02, "engine": True}, "works"),  # vLLM's own rounding
        ({"effect": 0.0, "differs": 0.0, "engine": True}, "differs"),  # it rounded nothing
        ({"effect": 0.0, "differs": 2.0, "engine": True}, "differs"),
        ({"refused": "no kernel"}, "refused: no kernel"),
        ({"failed": "CUDA error"}, "failed: CUDA error"),
    ],
)
def test_the_verdict(change: dict[str, Any], expected: str):
    assert node.verdict(ROW | change) == expected


def test_a_process_that_dies_costs_what_it_was_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It had done `a`, and was at `b`: another one goes on with `c`."""
    program = tmp_path / "python"
    line = f"""echo '{node.MARK}{{"name": "'$7'", "seconds": 1}}'"""  # the first of the names
    program.write_text(f"#!/bin/bash\n{line}\n[ $# = 7 ] || kill -9 $$\n", encoding="utf-8")
    program.chmod(0o700)
    monkeypatch.setattr(node.sys, "executable", str(program))
    found = node.run(tmp_path / "model", ["make"], ["a", "b", "c"])
    assert found == {"a": {"seconds": 1}, "b": {"failed": "its process ended with status -9"}, "c": {"seconds": 1}}


def test_every_kind_of_the_papers_schemes_is_checked():
    """By a scheme of two row groups, which fits the tiny model."""
    facts = node.read_models()[node.TINY]
    checked = {node.kind(scheme) for scheme in node.one_of_each(node.SCHEMES, facts)}
    paper = {node.kind(scheme) for scheme in node.of_the_paper()} - {node.kind("none/full")}
    assert len(paper) == 9
    assert paper <= checked
    assert {node.kind(scheme) for scheme in ALL} - {node.kind("none/full")} == checked
    engine = node.one_of_each([*node.SCHEMES, *node.ENGINE], facts)
    assert {name for name in engine if name.startswith("vllm/")} == node.ENGINE.keys()
