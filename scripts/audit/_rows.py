"""Do rows follow from what they were made of? Samples from the store, scores from samples, tables made again."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from scripts.audit._causes import ALTERED, MISSING, Cause, progress
from scripts.audit._making import arguments
from scripts.audit._records import Results
from scripts.generate.store import SAMPLES, SCHEMA, checkpoint_digest, differing, read_segment, rows_of, segments
from scripts.run.files import sha256
from scripts.run.imports import package_versions
from scripts.run.record import again, record_path
from scripts.table import read_rows


def wrong_rows(results: Results, judge: bool, names: list[str]) -> Iterator[Cause]:
    """Rows that do not follow from what they were made of."""
    stored = [n for n in names if "scripts/quantize/_store.py" in results.artifacts[n]["code"]]
    if checkpoints := [name for name in stored if name.endswith("/checkpoint")]:
        yield from _addressed(results, checkpoints)
    remade: set[str] = set()
    for name in progress(names, "rows", len(names)):
        record = results.artifacts[name]
        if record["rule"] == "generate":
            yield from _stored(results, name, record)
        elif record["rule"] == "score":
            yield from _copied(results, name, record)
        if record["sha256"] not in remade and record["rule"] in ("report", *(["score"] if judge else [])):
            remade.add(record["sha256"])
            yield from _recomputed(results, record)


def _addressed(results: Results, names: list[str]) -> Iterator[Cause]:
    """Checkpoints that their records' settings, inputs, code and packages do not lead to in the store of checkpoints.

    Of one that the store does not hold any more, under no address, only that its record agrees with itself is known.
    """
    from scripts.quantize._store import CHECKPOINTS, address  # with which comes torch

    entries = results.path(str(CHECKPOINTS)).glob("*/manifest.json")
    kept = {path.parent.name: sha256(path) for path in entries if path.is_file()}
    for name in names:
        record = results.artifacts[name]
        calibration = [results.path(source) for source in record["inputs"] if source.startswith("results/calibrate/")]
        model = next(results.path(source) for source in record["inputs"] if source.startswith("results/models/"))
        here = package_versions(record["module"])
        packages = {package: record["packages"].get(package, version) for package, version in here.items()}
        expected = address(record["module"], model, record["parameters"]["settings"], calibration, packages)
        made, stated = record["outputs"][name], record["facts"].get("address")
        if stated != expected:
            why = f"says the address {stated}, and what it says of the making leads to {expected}"
            yield Cause(ALTERED, str(record_path(Path(name))), why)
        elif kept.get(expected, made) != made:
            yield Cause(ALTERED, name, f"is not what {CHECKPOINTS / expected} holds")
        elif expected not in kept and (others := [entry for entry in kept if kept[entry] == made]):
            why = f"leads to {CHECKPOINTS / expected}, but the checkpoint is that of {others[0]}"
            yield Cause(ALTERED, str(record_path(Path(name))), why)


def _stored(results: Results, name: str, record: dict) -> Iterator[Cause]:
    """Samples that the store lacks or holds with another content; damaged segments."""
    checkpoint = next(results.path(source) for source in record["inputs"] if source.endswith("/checkpoint"))
    folder = SAMPLES / checkpoint_digest(checkpoint)
    rows = {row["sample"]: row for row in rows_of(pq.read_table(results.path(name), columns=SCHEMA.names))}
    kept: dict[str, dict] = {}
    for segment in segments(results.path(str(folder))):
        if (table := read_segment(segment)) is None:
            yield Cause(
                ALTERED, str(segment), "its content does not have the SHA-256 that is its name, or not its form"
            )
        else:
            found = [row for row in rows_of(table) if row["sample"] in rows]
            if twin := differing(kept, found):
                yield Cause(ALTERED, str(segment), twin)
            kept |= {row["sample"]: row for row in found}
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
    """Outputs that do not come out again when their stage runs with the recorded parameters, and is told the same.

    Tables have equal content then, all else equal bytes: another version of Arrow writes other bytes for the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = _run_again(record, Path(folder))
        except Exception as error:  # noqa: BLE001 - whatever stops it, the table does not follow
            yield Cause(ALTERED, min(record["outputs"]), f"cannot be made again: {error!r}")
            return
        for output, path in made.items():
            # What is in a folder its manifest says, which is an output, too.
            if path.is_file() and (why := _difference(results.path(output), path)):
                yield Cause(ALTERED, output, why)


def _run_again(record: dict, folder: Path) -> dict[str, Path]:
    """Run the stage that makes such an artifact in this process, its outputs below `folder`; where each lies."""
    main, named, made = arguments(record, folder)
    for path in made.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    with again(record), contextlib.redirect_stdout(sys.stderr):
        main(**named)
    return made


def _difference(path: Path, remade: Path) -> str | None:
    """The first cell in which a table differs from the one made again, or that something else does; None if nothing."""
    if path.read_bytes() == remade.read_bytes():
        return None
    if path.suffix == ".parquet":
        if pq.read_table(path).equals(pq.read_table(remade), check_metadata=True):
            return None
        rows, again_ = read_rows(path), read_rows(remade)
        for number, (row, other) in enumerate(zip(rows, again_, strict=False)):
            for column in row.keys() & other.keys():
                if row[column] != other[column]:
                    return f"row {number}: {column} is {row[column]}, and follows as {other[column]}"
        if len(rows) != len(again_):
            return f"has {len(rows)} rows, and {len(again_)} follow"
    return "made again from the same inputs it has other bytes"
