"""Is everything still what it was made as? Digests, records, code, inputs; then rows against the rows below them."""

import contextlib
import importlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import track

from scripts.audit._records import Results, in_order, is_source, lineage
from scripts.generate.store import SAMPLES, SCHEMA, checkpoint_digest, read_segment, segments
from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.imports import code_files
from scripts.run.record import again, made_by, record_path, self_digest
from scripts.table import read_rows

ALTERED, MISSING = "altered", "missing"
OTHER_CODE, CHANGED = "made by other code than is here", "made from inputs that have changed since"
NO_RECORD = "record missing"
VERIFIED = ".verified.json"  # in the results folder: digest, size and time of each file as last read
T = TypeVar("T")


@dataclass(frozen=True)
class Cause:
    """What is wrong (one of the five kinds above), with which artifact or record, and in which respect."""

    kind: str
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.why}"


def verify(results: Results, quick: bool = False, judge: bool = False, names: list[str] | None = None) -> list[Cause]:
    """What is wrong, in the order in which data flows; empty if nothing is.

    Rows are recomputed only where all that they are made of is whole. Digests are kept in `results/.verified.json` with
    the size and time of each file.

    Args:
        results: of the repository in the working folder.
        quick: take a file whose size and time are as when it was last read for what it was then.
        judge: judge every output again, too.
        names: artifacts to verify with all that they go back to; None: all.
    """
    wanted = {n for name in names for n in lineage(results, name)} if names else set(results.artifacts)
    causes = _made_as_recorded(results, quick, wanted, everything=not names)
    if causes:
        return [next(c for c in causes if c.name == name) for name in in_order({c.name for c in causes})]
    return list(_rows(results, judge, in_order(wanted)))


def _made_as_recorded(results: Results, quick: bool, wanted: set[str], *, everything: bool) -> list[Cause]:
    """Causes in records, files, inputs and code; where several have one name, the first explains the others."""
    causes, expected = [], {}
    for name, record in results.records.items():
        expected |= _expected(results, record) if wanted & record["outputs"].keys() else {}
        if self_digest(record) != record["sha256"]:
            causes.append(Cause(ALTERED, name, "its content does not have the digest that it states"))
        elif name not in {str(record_path(Path(output))) for output in record["outputs"]}:
            causes.append(Cause(ALTERED, name, f"is the record of {', '.join(record['outputs'])}"))
    causes += [Cause(ALTERED, name, "is no record of this version of the project") for name in results.unreadable]
    causes += _unaccounted(results, expected) if everything else []
    sources = {source for name in wanted for source in results.artifacts[name]["inputs"]} - results.artifacts.keys()
    found = _digests(results, [*expected, *sources], quick)
    for name, digest in expected.items():
        if found[name] is None:
            causes.append(Cause(MISSING, name, "its record or manifest names it"))
        elif found[name] != digest:
            causes.append(Cause(ALTERED, name, f"has the SHA-256 {found[name][:16]}…, was made with {digest[:16]}…"))
    ill = {cause.name for cause in causes}
    for name in in_order(wanted):
        if name.endswith(".parquet") and name not in ill:
            causes += _metadata(results, name)
        causes += _code(results, name)
        causes += _inputs(results, name, found)
    return causes


def _expected(results: Results, record: dict) -> dict[str, str]:
    """Digest of each file that a record vouches for.

    Files of a folder are vouched for by its manifest, as long as that is what the record says.
    """
    expected = {}
    for output, digest in record["outputs"].items():
        manifest = Path(output).with_name("manifest.json")
        if Path(output).suffix:
            expected[output] = digest
        elif results.path(str(manifest)).exists() and sha256(results.path(str(manifest))) == digest:
            files = json.loads(results.path(str(manifest)).read_text(encoding="utf-8"))["files"]
            expected |= {f"{output}/{file}": entry["sha256"] for file, entry in files.items()}
        else:
            expected[str(manifest)] = digest
    return expected


def _unaccounted(results: Results, expected: dict[str, str]) -> list[Cause]:
    """Files that are there, and that no record or manifest vouches for."""
    folders = [f"{name}/" for name in results.artifacts if not Path(name).suffix]
    whole = tuple(folder for folder in folders if any(file.startswith(folder) for file in expected))
    causes = []
    for name in {name for files in results.files.values() for name in files} - expected.keys():
        if name.startswith(whole):
            causes.append(Cause(ALTERED, name, "has come to the folder since its manifest was written"))
        else:
            causes += _without_record(results, name)
    return causes


def _without_record(results: Results, name: str) -> list[Cause]:
    """What to say of an artifact that no record names: nothing where the record beside it is itself a cause."""
    path = Path(name)
    if any(results.path(str(record_path(place))).exists() for place in (path, *path.parents[:-2])):
        return []
    return [Cause(NO_RECORD, name, "no record names it")]


def _digests(results: Results, names: list[str], quick: bool) -> dict[str, str | None]:
    """SHA-256 of each file, None if it is not there; a file with several names is read once."""
    memory = results.folder / VERIFIED
    known = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}
    found: dict[str, str | None] = {}
    same: dict[tuple[int, int], list[str]] = {}
    seen: dict[str, list[int]] = {}
    for name in names:
        path = results.path(name)
        if not path.is_file():
            found[name] = None
            continue
        status = path.stat()
        seen[name] = [status.st_size, status.st_mtime_ns]
        if quick and known.get(name, [])[1:] == seen[name]:
            found[name] = known[name][0]
        else:
            same.setdefault((status.st_dev, status.st_ino), []).append(name)
    groups = list(same.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(lambda group: sha256(results.path(group[0])), groups)
        for group, digest in zip(groups, _progress(digests, "digests", len(groups)), strict=True):
            found |= dict.fromkeys(group, digest)
    known |= {name: [found[name], *seen[name]] for name in seen}
    write_atomically(memory, lambda path: path.write_text(json.dumps(known), encoding="utf-8"))
    return found


def _progress(work: Iterable[T], what: str, total: int) -> Iterable[T]:
    return track(work, what, total, console=Console(stderr=True), transient=True)


def _metadata(results: Results, name: str) -> Iterator[Cause]:
    """A record of other code, parameters or inputs than the table's own metadata state."""
    try:
        stated = json.loads((pq.read_schema(results.path(name)).metadata or {})[b"made_by"])
    except (OSError, ValueError, KeyError):
        stated = None
    if stated != made_by(results.artifacts[name]):
        why = f"its code, parameters or inputs are not those that {name} itself states"
        yield Cause(ALTERED, str(record_path(Path(name))), why)


def _code(results: Results, name: str) -> Iterator[Cause]:
    """Code of a record that is not the repository's."""
    record = results.artifacts[name]
    for path, digest in record["code"].items():
        file = results.path(path)
        found = sha256(file) if file.is_file() else "none"
        if found != digest:
            yield Cause(OTHER_CODE, name, f"{path} had the SHA-256 {digest[:16]}…, now {found[:16]}…")
    try:
        for path in set(code_files(record["module"])) - record["code"].keys():
            yield Cause(OTHER_CODE, name, f"{path} has come to what {record['module']} imports")
    except UserError as error:
        yield Cause(OTHER_CODE, name, str(error))


def _inputs(results: Results, name: str, found: dict[str, str | None]) -> list[Cause]:
    """Inputs of an artifact that were made anew, or have gone, since."""
    causes = []
    for source, digest in results.artifacts[name]["inputs"].items():
        now = results.artifacts[source]["outputs"][source] if source in results.artifacts else found[source]
        if source not in results.artifacts and not is_source(results, source) and results.path(source).exists():
            causes += _without_record(results, source)
        elif now is None:
            causes.append(Cause(MISSING, source, f"{name} was made from it"))
        elif now != digest:
            causes.append(Cause(CHANGED, name, f"{source} had the SHA-256 {digest[:16]}…, now {now[:16]}…"))
    return causes


def _rows(results: Results, judge: bool, names: list[str]) -> Iterator[Cause]:
    """Rows that do not follow from what they were made of."""
    remade: set[str] = set()
    for name in _progress(names, "rows", len(names)):
        record = results.artifacts[name]
        if record["rule"] == "generate":
            yield from _stored(results, name, record)
        elif record["rule"] == "score":
            yield from _copied(results, name, record)
        if record["sha256"] not in remade and record["rule"] in ("report", *(["score"] if judge else [])):
            remade.add(record["sha256"])
            yield from _recomputed(results, record)


def _stored(results: Results, name: str, record: dict) -> Iterator[Cause]:
    """Samples that the store lacks or holds with another content; damaged segments."""
    checkpoint = next(results.path(source) for source in record["inputs"] if source.endswith("/checkpoint"))
    folder = SAMPLES / checkpoint_digest(checkpoint)
    rows = {row["sample"]: row for row in pq.read_table(results.path(name), columns=SCHEMA.names).to_pylist()}
    kept: dict[str, dict] = {}
    for segment in segments(results.path(str(folder))):
        if (table := read_segment(segment)) is None:
            yield Cause(ALTERED, str(segment), "its content does not have the SHA-256 that is its name")
        else:
            kept |= {row["sample"]: row for row in table.to_pylist() if row["sample"] in rows}
    if lacking := rows.keys() - kept.keys():
        yield Cause(MISSING, str(folder), f"{len(lacking):,} samples of {name}, {min(lacking)[:16]}… among them")
    for sample in kept:
        if kept[sample] != rows[sample]:
            yield Cause(ALTERED, name, f"sample {sample[:16]}… is not what the store holds")
            return


def _copied(results: Results, name: str, record: dict) -> Iterator[Cause]:
    """Scores of other samples than were generated."""
    from scripts.score._table import KEPT  # with which comes all of math-verify

    samples = next(source for source in record["inputs"] if source.startswith("results/generate/"))
    benchmark = record["wildcards"]["benchmark"]
    generated = pq.read_table(results.path(samples), columns=KEPT, filters=[("benchmark", "==", benchmark)])
    if not pq.read_table(results.path(name), columns=KEPT).equals(generated):
        yield Cause(ALTERED, name, f"its rows are not those of {samples}")


def _recomputed(results: Results, record: dict) -> Iterator[Cause]:
    """Outputs that do not come out again, byte for byte, when their stage runs with the recorded parameters."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = _run_again(record, Path(folder))
        except Exception as error:  # noqa: BLE001 - whatever stops it, the table does not follow
            yield Cause(ALTERED, min(record["outputs"]), f"cannot be made again: {error!r}")
            return
        for output, path in made.items():
            # What is in a folder its manifest says, which is an output, too.
            if path.is_file() and results.path(output).read_bytes() != path.read_bytes():
                yield Cause(ALTERED, output, _difference(results.path(output), path))


def _run_again(record: dict, folder: Path) -> dict[str, Path]:
    """Run the stage of a record in this process, its outputs below `folder`; where each lies, by name.

    Raises:
        ValueError: what the record says was run does not make tables or scores, or not the outputs that it names.
    """
    if not record["module"].startswith(("scripts.report.", "scripts.score.")):
        raise ValueError(f"{record['module']} makes no tables")
    app = importlib.import_module(record["module"]).main
    arguments = record["command"][record["command"].index(record["module"]) + 1 :]
    parsed = typer.main.get_command(app).make_context(record["module"], arguments).params
    made = {}

    def moved(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [moved(part) for part in value]
        if not isinstance(value, Path) or str(value) not in record["outputs"]:
            return value
        made[str(value)] = folder / value
        made[str(value)].parent.mkdir(parents=True, exist_ok=True)
        return made[str(value)]

    parsed = {key: moved(value) for key, value in parsed.items()}
    if made.keys() != record["outputs"].keys():
        raise ValueError("its command names other outputs")
    with again(record), contextlib.redirect_stdout(sys.stderr):
        inspect.unwrap(app.registered_commands[0].callback)(**parsed)
    return made


def _difference(path: Path, remade: Path) -> str:
    """The first cell in which a table differs from the one made again."""
    if path.suffix == ".parquet":
        rows, again_ = read_rows(path), read_rows(remade)
        for number, (row, other) in enumerate(zip(rows, again_, strict=False)):
            for column in row.keys() & other.keys():
                if row[column] != other[column]:
                    return f"row {number}: {column} is {row[column]}, and follows as {other[column]}"
        if len(rows) != len(again_):
            return f"has {len(rows)} rows, and {len(again_)} follow"
    return "made again from the same inputs it has other bytes"
