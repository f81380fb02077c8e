"""Does a job run what was planned? A node may see another environment, or the files may have changed since."""

import hashlib
import importlib.metadata
import os
import socket
from pathlib import Path

from scripts.run.errors import UserError
from scripts.run.files import sha256

VARIABLE = "PLANNED_PACKAGES"  # set by snakemake while it plans, and inherited by every job


def packages_digest() -> str:
    """Digest of the names and versions of all installed packages."""
    installed = {f"{package.name}=={package.version}" for package in importlib.metadata.distributions()}
    return hashlib.sha256("\n".join(sorted(installed)).encode()).hexdigest()


def check_planned(module: str) -> None:
    """Compare packages and code with those of the snakemake that planned the job; by hand, anything may be run.

    Raises:
        UserError: they differ; the message holds both digests.
    """
    if VARIABLE not in os.environ:
        return
    found, where = packages_digest(), f"on {socket.gethostname()}"
    if found != os.environ[VARIABLE]:
        raise UserError(
            f"the packages {where} have the digest {found}, those that the job was planned with "
            f"{os.environ[VARIABLE]}: give this machine the same .venv, or run snakemake again"
        )
    code = Path(f"results/code/{module}.txt")
    for line in code.read_text(encoding="utf-8").splitlines():
        digest, _, path = line.partition("  ")
        if path and (found := sha256(Path(path))) != digest:
            raise UserError(
                f"{path} {where} has the digest {found}, that which the job was planned with {digest} (see {code}): "
                "wait until all machines see the same files, and run snakemake again"
            )
