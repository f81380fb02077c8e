"""The checkpoint store: a checkpoint is quantized once and linked wherever it is asked for again.

    results/store/checkpoints/{address}/checkpoint/, manifest.json
    results/store/checkpoints/{address}/parts/            what a killed job had finished, until the checkpoint is whole

The address is the digest of what determines the checkpoint: the contents of model and calibration data, settings,
package versions, and the code without its comments and formatting. An edit that changes none of these costs a link.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from scripts.architectures import check_architecture
from scripts.quantize._link import link_checkpoint
from scripts.quantize._names import check_linears
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.imports import code_digest, package_versions
from scripts.run.lease import lease
from scripts.table import read_rows

CHECKPOINTS = Path("results/store/checkpoints")
Tensors = dict[str, torch.Tensor]
_parts: ContextVar[Path | None] = ContextVar("parts", default=None)  # of the checkpoint that is being made


def stored(main: Callable[..., None]) -> Callable[..., None]:
    """Link the checkpoint that `main` would make if the store holds it, else let `main` make it and keep it."""
    module = main.__globals__["__spec__"].name

    @functools.wraps(main)
    def link_or_make(
        *, model: Path, checkpoint: Path, manifest: Path, settings: dict, calibration: list[Path] = (), **others: Any
    ) -> None:
        check_known(module.rpartition(".")[2], settings, model)
        check_linears(model)
        entry = CHECKPOINTS / address(module, model, settings, calibration)
        with lease(entry.name, f"quantize {manifest.parent}"):
            if is_whole(entry):
                link_checkpoint(entry / "checkpoint", checkpoint)
                shutil.copyfile(entry / "manifest.json", manifest)
                record.add_facts(address=entry.name, stored=True)
                print(f"quantize {manifest.parent}: linked from the store", flush=True)
                return
            record.add_facts(address=entry.name)
            if calibration:
                others["calibration"] = calibration
            with keeping(entry / "parts"):
                main(model=model, checkpoint=checkpoint, manifest=manifest, settings=settings, **others)
            # The manifest comes last: an entry that has one is whole.
            link_checkpoint(checkpoint, entry / "checkpoint")
            write_atomically(entry / "manifest.json", lambda path: shutil.copyfile(manifest, path))
            shutil.rmtree(entry / "parts", ignore_errors=True)

    return link_or_make


def check_known(quantizer: str, settings: dict, model: Path) -> None:
    """Refuse a model whose architecture the quantizer does not know; its folder says, whatever its file states."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    try:
        check_architecture(quantizer, settings, config.get("model_type", "none"))
    except UserError as error:
        raise UserError(f"{model}: {quantizer} {error}") from None


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """While the body runs, parts of a checkpoint are kept in the folder."""
    token = _parts.set(folder.absolute())  # a library may need another working folder
    try:
        yield
    finally:
        _parts.reset(token)


def kept(name: str, make: Callable[[], Tensors]) -> Tensors:
    """A part of a checkpoint, such as one layer: made and kept, or what a job that was killed had made of it.

    Nothing is kept where no folder is.
    """
    if _parts.get() is None:
        return make()
    if (path := part(name)) is not None:
        print(f"store: {name} was finished by an earlier job", flush=True)
        return load_file(path)
    tensors = make()
    keep(name, tensors)
    return tensors


def part(name: str) -> Path | None:
    """The safetensors file of a part, if there is one; a damaged one is named and removed.

    The name of the file holds its digest.
    """
    for path in _parts.get().glob(f"{name}.*"):
        if path.suffix == f".{sha256(path)}":
            return path
        print(f"store: {path} is damaged; made anew", flush=True)
        path.unlink()
    return None


def keep(name: str, tensors: Tensors) -> None:
    """Write a part, on the CPU, whole or not at all."""
    folder = _parts.get()
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"written-{name}"
    write_atomically(written, lambda path: save_file({key: x.cpu().contiguous() for key, x in tensors.items()}, path))
    written.rename(folder / f"{name}.{sha256(written)}")


def forget_parts() -> None:
    """Remove what was kept of the checkpoint that is being made: it is not to be trusted."""
    if _parts.get() is not None:
        shutil.rmtree(_parts.get(), ignore_errors=True)


def is_whole(entry: Path) -> bool:
    """Does the store hold this checkpoint? All of it is read; a damaged one is named and removed."""
    if not (entry / "manifest.json").exists():
        return False
    folder = entry / "checkpoint"
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if not path.is_dir()}
    try:
        stated = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))["files"]
        damaged = [
            name
            for name in sorted(stated.keys() | files.keys())
            if name not in files
            or files[name].is_symlink()
            or sha256(files[name]) != stated.get(name, {}).get("sha256")
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        damaged = ["manifest.json"]
    if damaged:
        print(f"store: {entry} is damaged ({damaged[0]} is missing or altered); made anew", flush=True)
        shutil.rmtree(entry)
        return False
    return True


def address(
    module: str, model: Path, settings: dict, calibration: list[Path], packages: dict[str, str] | None = None
) -> str:
    """Digest of all that determines a checkpoint; an audit knows the packages of another day."""
    content = {
        "code": code_digest(module),
        "packages": packages or package_versions(module),
        "settings": settings,
        "model": sha256(model.with_name("manifest.json")),
        "calibration": [read_rows(path) for path in calibration],  # not the file: its metadata name who made it
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
