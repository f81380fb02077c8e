"""The checkpoint store: a checkpoint is quantized once and linked wherever it is asked for again.

    results/store/checkpoints/{address}/checkpoint/, manifest.json

The address is the digest of what determines the checkpoint: the contents of model and calibration data, settings,
package versions, and the code without its comments and formatting. An edit that changes none of these costs a link.
"""

import ast
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.quantize._link import link_checkpoint
from scripts.run import record
from scripts.run.files import sha256
from scripts.run.imports import code_files, package_versions
from scripts.run.unchanged import altered_files
from scripts.table import read_rows

CHECKPOINTS = Path("results/store/checkpoints")


def stored(main: Callable[..., None]) -> Callable[..., None]:
    """Link the checkpoint that `main` would make if the store holds it, else let `main` make it and keep it."""
    module = main.__globals__["__spec__"].name

    @functools.wraps(main)
    def link_or_make(
        *, model: Path, checkpoint: Path, manifest: Path, settings: dict, calibration: list[Path] = (), **others: Any
    ) -> None:
        entry = CHECKPOINTS / address(module, model, settings, calibration)
        if (entry / "manifest.json").exists():
            if damaged := altered_files(entry / "checkpoint", entry / "manifest.json"):
                print(f"store: {entry} is damaged ({damaged[0]} is missing or altered); made anew", flush=True)
                shutil.rmtree(entry)
            else:
                link_checkpoint(entry / "checkpoint", checkpoint)
                shutil.copyfile(entry / "manifest.json", manifest)
                record.add_facts(stored=entry.name)
                print(f"quantize {manifest.parent}: linked from the store", flush=True)
                return
        if calibration:
            others["calibration"] = calibration
        main(model=model, checkpoint=checkpoint, manifest=manifest, settings=settings, **others)
        # Made under another name: an entry with a manifest is whole, whoever else makes the same one.
        making = entry.with_name(f".{entry.name}.{os.getpid()}")
        link_checkpoint(checkpoint, making / "checkpoint")
        shutil.copyfile(manifest, making / "manifest.json")
        shutil.rmtree(entry, ignore_errors=True)
        making.replace(entry)

    return link_or_make


def address(module: str, model: Path, settings: dict, calibration: list[Path]) -> str:
    """Digest of all that determines a checkpoint."""
    content = {
        "code": {path: code_digest(Path(path).read_text()) for path in code_files(module)},
        "packages": package_versions(module),
        "settings": settings,
        "model": sha256(model.with_name("manifest.json")),
        "calibration": [read_rows(path) for path in calibration],  # not the file: its metadata name who made it
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def code_digest(source: str) -> str:
    """Digest of a file's syntax tree: comments and formatting left out."""
    return hashlib.sha256(ast.dump(ast.parse(source)).encode()).hexdigest()
