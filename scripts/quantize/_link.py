"""A checkpoint as hard links to another: what does not change takes no disk."""

import os
import shutil
from pathlib import Path


def link_checkpoint(source: Path, target: Path) -> None:
    """Fill `target` with hard links to the files of `source` (copies across file systems), replacing what was there.

    Hidden files, which snakemake leaves in folders that it has made, stay where they are.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"), copy_function=link_file)


def link_file(source: str, target: str) -> None:
    """A hard link, or a copy across file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
