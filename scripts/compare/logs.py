"""Evaluation logs of several tools as one table: a verdict for each question and seed.

Logs may be anybody's: nothing in them is run, and what they hold is checked before it is used.
"""

import csv
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.run.errors import UserError

SAMPLE = ["benchmark", "id", "seed"]
COLUMNS = [*SAMPLE, "right", "question", "output"]
DETAILS = "details_*.parquet"  # lighteval's
LARGEST = 256_000_000  # bytes of one file in an .eval archive
ZSTD = 93  # of the ZIP format (APPNOTE 6.3.8); Python's zipfile does not know it before 3.14
KINDS = (
    "our scores (a file in results/score/, or a suite's folder), samples of lm-evaluation-harness (samples_*.jsonl, or "
    "the folder with them), an inspect_ai log (.eval or .json), details of lighteval (details_*.parquet, or their "
    "folder), or a .csv, .jsonl or .parquet with `id` and `correct`, and if you like `benchmark`, `seed`, `question` "
    "and `output`"
)
# inspect_ai's words for verdicts (`inspect_ai.scorer.CORRECT` and others).
VERDICTS: dict[Any, float] = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}


@dataclass(frozen=True)
class Log:
    """What one evaluation found.

    Attributes:
        name: its path.
        rows: `COLUMNS`; `right` from 0 to 1, `question` and `output` empty where the log has none.
    """

    name: str
    rows: pd.DataFrame


def read_log(path: Path, metric: str | None = None) -> Log:
    """Read a log of any of `KINDS`.

    Args:
        metric: the one to take of a log that has several.

    Raises:
        UserError: it is of none of these kinds, has several metrics, a verdict that is none, or a question twice.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file; correct the path")
    try:
        rows = list(_reader(path)(path, metric))
    except (KeyError, TypeError, AttributeError, ValueError, pa.ArrowException, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}): it must be {KINDS}") from None
    if not rows:
        raise UserError(f"{path} has no samples: it must be {KINDS}")
    frame = pd.DataFrame(rows, columns=COLUMNS).fillna({"question": "", "output": ""})
    frame = frame.astype(dict.fromkeys(("benchmark", "id", "question", "output"), str))
    if (twice := frame.duplicated(SAMPLE)).any():
        row = frame[twice].iloc[0]
        raise UserError(
            f"{path}: {row['benchmark']}: question {row['id']} with seed {row['seed']} stands twice: keep one"
        )
    frame["right"] = [_verdict(value, path) for value in frame["right"]]
    return Log(str(path), frame)


def _reader(path: Path) -> Callable[[Path, str | None], Iterator[tuple]]:
    if path.is_dir():
        if any(path.rglob(DETAILS)):
            return _lighteval
        return _scores if any(path.glob("*.parquet")) else _harness
    if path.suffix == ".parquet":
        names = set(pq.read_schema(path).names)
        if names >= {"doc", "metric", "model_response"}:
            return _lighteval
        return _scores if "correct_final" in names else _plain
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as stream:
            return _harness if "doc_id" in json.loads(next(stream, "{}")) else _plain
    return {".eval": _inspect, ".json": _inspect, ".csv": _plain}.get(path.suffix, _unknown)


def _unknown(path: Path, _: str | None) -> Iterator[tuple]:
    raise UserError(f"{path}: no log that is known here: it must be {KINDS}")


def _verdict(value: Any, path: Path) -> float:
    if isinstance(value, str):
        value = VERDICTS.get(value, {"true": 1, "false": 0}.get(value.strip().lower(), value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise UserError(f"{path}: {value!r} is no verdict: it must be true or false, or a number from 0 to 1")
    return number


def _chosen(names: list[str], metric: str | None, path: Path) -> str:
    """The one metric, or the one that was asked for."""
    if metric in names or (metric is None and len(names) == 1):
        return metric or names[0]
    said = f"has no metric {metric!r}" if metric else "has several metrics"
    raise UserError(f"{path} {said}: name one of {', '.join(sorted(names)) or 'none'} with --metric")


def _scores(path: Path, metric: str | None) -> Iterator[tuple]:
    """Ours: one cell's; outputs are those of the same cell in results/generate, if they are there."""
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        rows = pd.read_parquet(file)
        verdict = _chosen(["correct", "correct_final"], metric or "correct_final", file)
        drawn = Path(re.sub(r"(^|/)score/", r"\1generate/", str(file.parent))).with_suffix(".parquet")
        texts = {}
        if drawn.is_file() and drawn != file:
            columns = ["benchmark", "id", "seed", "prompt", "output"]
            texts = {tuple(row[:3]): row[3:] for row in pd.read_parquet(drawn)[columns].itertuples(index=False)}
        for row in rows.to_dict("records"):
            key = (row["benchmark"], row["id"], row["seed"])
            yield (*key, row[verdict], *texts.get(key, ("", "")))


def _harness(path: Path, metric: str | None) -> Iterator[tuple]:
    """Samples as lm-evaluation-harness writes them with `--log_samples`, a file for each task."""
    found: dict[str, Path] = {}
    for file in sorted(path.rglob("samples_*.jsonl")) if path.is_dir() else [path]:
        task = re.sub(r"^samples_|_\d{4}-\d\d-\d\dT[\d.:-]+$", "", file.stem)
        if task in found:
            raise UserError(f"{path} has {task} twice, {found[task].name} and {file.name}: name one of the files")
        found[task] = file
    for task, file in found.items():
        with file.open(encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream if line.strip()]
        # A metric is known by its name and the filter of the answer that it judges.
        several = len({row["filter"] for row in rows}) > 1
        names = {f"{name},{row['filter']}" if several else name for row in rows for name in row["metrics"]}
        chosen = _chosen(sorted(names), metric, file)
        for row in rows:
            name, _, kind = chosen.partition(",")
            if several and row["filter"] != kind:
                continue
            asked = row["arguments"]
            first = asked["gen_args_0"]["arg_0"] if isinstance(asked, dict) else asked[0][0]
            said = row["resps"][0]
            output = said[0] if isinstance(said, list) and said and isinstance(said[0], str) else json.dumps(said)
            yield task, f"{row['doc_id']}-{row['doc_hash'][:8]}", 0, row[name], str(first), output


def _lighteval(path: Path, metric: str | None) -> Iterator[tuple]:
    """Details as lighteval writes them with `--save-details`, a file for each task.

    Where several samples of a question were asked for, its metrics are of them together.
    """
    found: dict[str, Path] = {}
    for file in sorted(path.rglob(DETAILS)) if path.is_dir() else [path]:
        rows = pq.read_table(file, columns=["doc", "metric", "model_response"]).to_pylist()
        names = {name for row in rows for name, value in row["metric"].items() if value is not None}
        chosen = _chosen(sorted(names), metric, file)
        for row in rows:
            doc, said = row["doc"], row["model_response"]["text"]
            if found.setdefault(doc["task_name"], file) != file:
                other = found[doc["task_name"]].name
                raise UserError(f"{path} has {doc['task_name']} twice, {other} and {file.name}: name one of the files")
            output = "\n\n".join(map(str, said)) if said else ""
            yield doc["task_name"], doc["id"], 0, row["metric"][chosen], str(doc["query"]), output


def _inspect(path: Path, metric: str | None) -> Iterator[tuple]:
    """A log of inspect_ai: an archive of JSON files, or one JSON file; epochs are seeds."""
    if path.suffix == ".json":
        document = json.loads(path.read_text(encoding="utf-8"))
        header, samples = document, document["samples"]
    else:
        with zipfile.ZipFile(path) as archive:
            header = _member(archive, archive.getinfo("header.json"), path)
            names = [info for info in archive.infolist() if info.filename.startswith("samples/")]
            samples = [_member(archive, info, path) for info in names]
    scorers = sorted({name for sample in samples for name in sample.get("scores") or {}})
    chosen = _chosen(scorers, metric, path)
    for sample in samples:
        if chosen not in (sample.get("scores") or {}):
            raise UserError(f"{path}: sample {sample['id']} of epoch {sample['epoch']} was not scored: run it again")
        asked = sample["input"]
        question = asked if isinstance(asked, str) else "\n\n".join(str(message["content"]) for message in asked)
        output = str(sample["output"].get("completion", ""))
        yield header["eval"]["task"], sample["id"], sample["epoch"], sample["scores"][chosen]["value"], question, output


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Any:
    """A JSON file of an archive, which inspect_ai compresses with Zstandard."""
    if info.file_size > LARGEST:
        raise UserError(f"{path}: {info.filename} has {info.file_size:,} bytes, more than {LARGEST:,}: it is no log")
    if info.compress_type != ZSTD:
        return json.loads(archive.read(info))
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        name, extra = struct.unpack("<HH", stream.read(30)[26:])  # lengths of what stands before the content
        stream.seek(info.header_offset + 30 + name + extra)
        packed = stream.read(info.compress_size)
    return json.loads(pa.Codec("zstd").decompress(packed, info.file_size).to_pybytes())


def _plain(path: Path, metric: str | None) -> Iterator[tuple]:
    """A table with `id` and `correct`, or the metric that was asked for."""
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    else:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = [json.loads(line) for line in stream if line.strip()] if path.suffix == ".jsonl" else None
            rows = list(csv.DictReader(stream)) if lines is None else lines
    verdict = metric or "correct"
    for row in rows:
        if missing := [name for name in ("id", verdict) if name not in row]:
            raise UserError(f"{path} has no column {missing[0]!r}, but {', '.join(map(str, row))}: it must be {KINDS}")
        seed = int(row.get("seed") or 0)
        yield row.get("benchmark") or "all", row["id"], seed, row[verdict], row.get("question"), row.get("output")
