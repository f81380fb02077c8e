"""Is everything still what it was made as? Digests, records, code, inputs; then rows against the rows below them."""

import contextlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from scripts.audit._causes import ALTERED, CHANGED, MISSING, NO_RECORD, OTHER_CODE, Cause, progress
from scripts.audit._making import place, wrong
from scripts.audit._records import HARMLESS, STAGES, Results, in_order, is_source, lineage
from scripts.audit._rows import wrong_rows
from scripts.run.errors import UserError
from scripts.run.files import sha256, write_atomically
from scripts.run.imports import code_files
from scripts.run.record import chained, made_by, record_path, self_digest

VERIFIED = ".verified.json"  # in the results folder: digest, size and time of each file as last read


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
    return list(wrong_rows(results, judge, in_order(wanted)))


def _made_as_recorded(results: Results, quick: bool, wanted: set[str], *, everything: bool) -> list[Cause]:
    """Causes in records, files, inputs and code; where several have one name, the first explains the others."""
    causes, expected = [], {}
    for name, record in results.records.items():
        expected |= _expected(results, record) if wanted & record["outputs"].keys() else {}
        if self_digest(record) != record["sha256"]:
            causes.append(Cause(ALTERED, name, "its content does not have the digest that it states"))
        elif why := wrong(record):
            causes.append(Cause(ALTERED, name, why))
        elif name != place(record):
            causes.append(Cause(ALTERED, name, f"is the record of {', '.join(record['outputs'])}"))
    causes += [Cause(ALTERED, name, "is no record of this version of the project") for name in results.unreadable]
    causes += [*_unaccounted(results, expected), *_gone(results)] if everything else []
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
        causes += _told(results, name)
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
        if HARMLESS.fullmatch(Path(name).name):
            continue
        if name.startswith(whole):
            causes.append(Cause(ALTERED, name, "has come to the folder since its manifest was written"))
        elif not Path(name).name.startswith("."):
            causes += _without_record(results, name)
    return causes


def _gone(results: Results) -> Iterator[Cause]:
    """What was made, as the times tell that snakemake keeps of each job, and is not there any more, record and all."""
    of_reports = {"index": "index.html", "headline": "summary.md", "figures": "figures/pareto.svg"}
    folders = dict.fromkeys(("models", "published", "quantize"), "checkpoint") | {"datasets": "files"}
    for stage in STAGES:
        for path in sorted((results.folder / "timings" / stage).rglob("*.tsv")):
            job = path.relative_to(results.folder / "timings").with_suffix("")
            name = f"results/{job}/{folders[stage]}" if stage in folders else f"results/{job}.parquet"
            if stage == "report" and job.name == "explorer":
                name = f"results/{job}/files"
            elif stage == "report" and job.name in of_reports:
                name = f"results/{job.parent / of_reports[job.name]}"
            if name not in results.artifacts and not results.path(name).exists():
                yield Cause(MISSING, name, f"it was made ({path}); if it was deleted on purpose, delete that, too")


def _without_record(results: Results, name: str) -> list[Cause]:
    """What to say of an artifact that no record names: nothing where the record beside it is itself a cause."""
    path = Path(name)
    if any(results.path(str(record_path(place))).exists() for place in (path, *path.parents[:-2])):
        return []
    return [Cause(NO_RECORD, name, "no record names it")]


def _digests(results: Results, names: list[str], quick: bool) -> dict[str, str | None]:
    """SHA-256 of each file, None if it is not there; a file with several names is read once."""
    memory = results.folder / VERIFIED
    known = _remembered(memory)
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
        for group, digest in zip(groups, progress(digests, "digests", len(groups)), strict=True):
            found |= dict.fromkeys(group, digest)
    known |= {name: [found[name], *seen[name]] for name in seen}
    with contextlib.suppress(OSError):  # an archive may be read, not written
        write_atomically(memory, lambda path: path.write_text(json.dumps(known), encoding="utf-8"))
    return found


def _remembered(memory: Path) -> dict[str, Any]:
    """What was last read; nothing where that cannot be told."""
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


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
    causes, chain = [], results.artifacts[name]["chain"]
    for source, digest in results.artifacts[name]["inputs"].items():
        now = results.artifacts[source]["outputs"][source] if source in results.artifacts else found[source]
        if source not in results.artifacts and not is_source(results, source) and results.path(source).exists():
            causes += _without_record(results, source)
        elif now is None:
            causes.append(Cause(MISSING, source, f"{name} was made from it"))
        elif now != digest:
            causes.append(Cause(CHANGED, name, f"{source} had the SHA-256 {digest[:16]}…, now {now[:16]}…"))
        elif source in results.artifacts and chain.get(source) != chained(results.artifacts[source]):
            why = f"what it says of its making is not what it said when {name} was made from it"
            causes.append(Cause(ALTERED, place(results.artifacts[source]), why))
    return causes


def notes(results: Results) -> Iterator[str]:
    """Files that plan and run the stages, and locks, that are not what artifacts were made with: they make no row."""
    with_another: dict[str, int] = {}
    for record in results.records.values():
        lock = {record["lock"].get("path"): record["lock"].get("sha256")}
        for name, digest in (record["frame"] | lock).items():
            file = Path(str(name))
            if not file.is_file() or sha256(file) != digest:
                with_another[str(name)] = with_another.get(str(name), 0) + 1
    for name, count in sorted(with_another.items()):
        yield f"{name} is not what {count:,} of {len(results.records):,} records say it was"


def _told(results: Results, name: str) -> Iterator[Cause]:
    """Records that no longer say of a making what they told the table that shows its times and machine.

    Of an artifact that was made anew since they say another start: what they told was true of the making before.
    """
    for source, told in results.artifacts[name].get("told", {}).items():
        now = results.artifacts.get(source)
        if told and now and now.get("start") == told["start"]:
            for field in (field for field, value in told.items() if value not in (None, now.get(field))):
                yield Cause(
                    ALTERED, str(record_path(Path(source))), f"what it says of {field} is not what it told {name}"
                )
