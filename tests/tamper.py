"""How to alter artifacts, records, code and the store of a built study below the working folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scripts.generate.store import SAMPLES as STORE
from scripts.generate.store import checkpoint_digest
from scripts.run.files import sha256
from scripts.run.record import chained, made_by, record_path, self_digest

MODEL = "results/models/tiny-qwen-s"
RTN = "results/quantize/tiny-qwen-s/rtn/w3"
GPTQ = "results/quantize/tiny-qwen-s/gptq/w3g32"
QUESTIONS = "results/questions/addition.parquet"
CORPUS = "results/calibrate/tiny-qwen-s/reasoning.parquet"
PLAIN = "results/calibrate/tiny-qwen-m/plain.parquet"
SAMPLES = "results/generate/tiny-qwen-s/rtn/w3/arithmetic.parquet"
SCORES = "results/score/tiny-qwen-s/rtn/w3/arithmetic/addition.parquet"
OTHER_SCORES = "results/score/tiny-qwen-s/gptq/w3g32/arithmetic/addition.parquet"
VERDICTS = "results/report/tiny/samples.parquet"
ACCURACY = "results/report/tiny/accuracy.parquet"
SUMMARY = "results/report/tiny/summary.parquet"
SHARD = f"{RTN}/checkpoint/model.safetensors"
OTHER_SHARD = f"{GPTQ}/checkpoint/model.safetensors"
COPY = "results/score/tiny-qwen-s/rtn/w3/arithmetic/copy.parquet"
STORED = str(STORE)
TEXT = "resources/calibrate/plain.txt"
RETAINED = "resources/models/tiny-qwen-s/model.safetensors"


def write(name: str, content: bytes, *, keep_time: bool = False) -> None:
    path = Path(name)
    status = path.stat() if path.exists() else None
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    if keep_time and status:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(name: str, *, keep_time: bool = False) -> None:
    """One bit in the middle."""
    content = bytearray(Path(name).read_bytes())
    content[len(content) // 2] ^= 1
    write(name, bytes(content), keep_time=keep_time)


def append(name: str, text: str) -> None:
    write(name, Path(name).read_bytes() + text.encode())


def swap(one: str, other: str) -> None:
    contents = Path(one).read_bytes(), Path(other).read_bytes()
    write(one, contents[1])
    write(other, contents[0])


def copy(source: str, target: str) -> None:
    write(target, Path(source).read_bytes())


def rename(old: str, new: str) -> None:
    Path(old).rename(new)


def delete(*names: str) -> None:
    for name in names:
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


def record_of(name: str) -> str:
    return name if name.endswith("record.json") else str(record_path(Path(name)))


def edit_json(name: str, change: Callable[[dict], object]) -> None:
    content = json.loads(Path(name).read_text())
    change(content)
    write(name, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def forge(name: str, **fields: Any) -> None:
    """Change the record of an artifact, its own digest included."""

    def change(record: dict) -> None:
        record.update(fields)
        record["sha256"] = self_digest(record)

    edit_json(record_of(name), change)


def read_record(name: str) -> dict:
    return json.loads(Path(record_of(name)).read_text())


def vouch(name: str) -> None:
    """Let the record of an artifact state the digest of what lies there now."""
    path = Path(name)
    digest = sha256(path.with_name("manifest.json") if path.is_dir() else path)
    forge(name, outputs={**dict.fromkeys(read_record(name)["outputs"], digest)})


def edit_rows(name: str, change: Callable[[list[dict]], object], metadata: dict | None = None) -> None:
    """Write a table anew with other rows; its metadata stay unless others are given."""
    table = pq.read_table(name)
    rows = table.to_pylist()
    change(rows)
    remade = pa.Table.from_pylist(rows, table.schema.with_metadata(metadata or table.schema.metadata))
    Path(name).unlink()
    pq.write_table(remade, name, compression="zstd")


def adopt(name: str) -> None:
    """Let an artifact claim that it was made from what its inputs are now, in its record and its metadata."""
    record = read_record(name)
    chain = {source: chained(read_record(source)) for source in record["chain"]}
    forge(name, inputs={source: sha256(Path(source)) for source in record["inputs"]}, chain=chain)
    made = json.dumps(made_by(read_record(name)), sort_keys=True).encode()
    edit_rows(name, lambda rows: None, pq.read_schema(name).metadata | {b"made_by": made})
    vouch(name)


def flip_verdict(rows: list[dict]) -> None:
    rows[7]["correct"] = not rows[7]["correct"]


def raise_mean(rows: list[dict]) -> None:
    rows[1]["mean"] += 0.5


def flipped_and_forged(*adopted: str) -> None:
    edit_rows(SCORES, flip_verdict)
    vouch(SCORES)
    for name in adopted:
        adopt(name)


def forged_shard() -> None:
    """Another shard, with the manifest and the record that go with it."""
    flip(SHARD)
    forged_manifest()
    vouch(f"{RTN}/checkpoint")


def forged_manifest() -> None:
    shard = Path(SHARD)
    entry = {"sha256": sha256(shard), "bytes": shard.stat().st_size}
    edit_json(f"{RTN}/manifest.json", lambda manifest: manifest["files"].update({shard.name: entry}))


def forged_summary(change: Callable[[list[dict]], object]) -> None:
    edit_rows(SUMMARY, change)
    vouch(SUMMARY)


def segment(checkpoint: str = RTN) -> str:
    return str(next((STORE / checkpoint_digest(Path(checkpoint, "checkpoint"))).glob("*.parquet")))
