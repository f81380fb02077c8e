"""Nothing is generated or quantized twice, nothing finished is lost, damage is named and costs only itself."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from array import array
from pathlib import Path

import pandas as pd
import pytest

from scripts.generate import store
from scripts.generate.store import Store, checkpoint_digest, read_segment, segments, write_segment
from scripts.run.imports import code_digest, code_files
from tests.conftest import EAGER, Copy

CHECKPOINT = "c" * 64
ARTIFACT = "results/generate/tiny-qwen-s/none/full/arithmetic.parquet"


def row(text: str) -> dict:
    return {
        "output": text,
        "token_ids": array("i", range(len(text))),
        "output_tokens": len(text),
        "finish_reason": "stop",
    }


def filled(root: Path, *batches: dict[str, str]) -> Path:
    """A store with one segment for each batch of address → text."""
    for batch in batches:
        filling = Store(CHECKPOINT, set(), {}, root)
        for sample, text in batch.items():
            filling.add(sample, row(text))
        filling.flush()
    return root / CHECKPOINT


def test_samples_come_back_as_they_were(tmp_path: Path):
    text = "12*3=36\n</think>\n\\boxed{36} \U0001f600 \0"
    filled(tmp_path, {"a": text, "b": "2"}, {"c": "3"})
    found = Store(CHECKPOINT, {"a", "c", "d"}, {}, tmp_path).samples
    assert found == {"a": row(text), "c": row("3")}


def test_the_store_knows_how_fast_its_samples_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: clock[0])
    filling = Store(CHECKPOINT, set(), {}, tmp_path)
    assert filling.tokens_per_second is None
    clock[0] = 100
    filling.start_clock()
    for sample, tokens, now in (("a", 10, 102), ("b", 30, 104)):
        filling.add(sample, row("1") | {"output_tokens": tokens})
        clock[0] = now
        filling.flush()
    assert filling.tokens_per_second == 40 / 4
    assert Store(CHECKPOINT, {"a", "b"}, {}, tmp_path).tokens_per_second == 40 / 4
    assert Store(CHECKPOINT, {"b", "c"}, {}, tmp_path).tokens_per_second == 30 / 2


def test_finished_samples_wait_at_most_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert store.FLUSH_SECONDS < 60
    clock = [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: clock[0])
    waiting = Store(CHECKPOINT, set(), {}, tmp_path)
    waiting.add("a", row("1"))
    clock[0] = store.FLUSH_SECONDS - 1
    waiting.add("b", row("2"))
    waiting.tick()
    assert not segments(tmp_path)
    clock[0] = store.FLUSH_SECONDS
    waiting.tick()
    assert Store(CHECKPOINT, {"a", "b"}, {}, tmp_path).samples.keys() == {"a", "b"}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_segment_is_named_and_costs_its_own_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, damage
):
    monkeypatch.setattr(store, "DAMAGED", tmp_path / "damaged")
    folder = filled(tmp_path, {"a": "1"}, {"b": "2"})
    victim = next(path for path in segments(folder) if read_segment(path)["sample"].to_pylist() == ["a"])
    damage(victim)
    assert Store(CHECKPOINT, {"a", "b"}, {}, tmp_path).samples.keys() == {"b"}
    assert f"{victim} is damaged" in capsys.readouterr().out
    assert not victim.exists()
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_an_unfinished_segment_is_no_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process that dies while it writes leaves a name that nobody reads."""
    folder = filled(tmp_path, {"a": "1"})
    monkeypatch.setattr(store.os, "fsync", lambda _: os._exit(9))
    process = multiprocessing.get_context("fork").Process(target=write_segment, args=(folder, [], {}))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(list(folder.iterdir())) == 2
    assert Store(CHECKPOINT, {"a"}, {}, tmp_path).samples.keys() == {"a"}


def write_many(root: Path, name: str) -> None:
    for number in range(20):
        filled(root, {f"{name}{number}": "x", "both": "y"})


def test_two_jobs_write_at_once_without_locks(tmp_path: Path):
    jobs = [multiprocessing.get_context("fork").Process(target=write_many, args=(tmp_path, name)) for name in "ab"]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    expected = {f"{name}{number}" for name in "ab" for number in range(20)} | {"both"}
    assert Store(CHECKPOINT, expected, {}, tmp_path).samples.keys() == expected


def test_volatile_fields_and_packed_twins_do_not_move_the_checkpoint_digest(built: Copy, tmp_path: Path):
    source = built.root / "results/quantize/tiny-qwen-s/gptq/w3g32"
    digest = checkpoint_digest(source / "checkpoint")
    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    config = json.loads((source / "checkpoint/config.json").read_text())
    (changed / "checkpoint/config.json").write_text(json.dumps(config | {"transformers_version": "99"}))
    manifest = json.loads((source / "manifest.json").read_text())
    manifest["files"] = {name: e for name, e in manifest["files"].items() if not name.startswith("packed/")}
    (changed / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint_digest(changed / "checkpoint") == digest
    (changed / "checkpoint/config.json").write_text(json.dumps(config | {"rope_theta": 1}))
    assert checkpoint_digest(changed / "checkpoint") != digest


def test_comments_and_formatting_do_not_move_the_code_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").mkdir()

    def digest(source: str) -> str:
        (tmp_path / "scripts/x.py").write_text(source)
        code_files.cache_clear()
        return code_digest("scripts.x")

    assert digest("x = 1  # one\n") == digest("\n# another\nx = (\n    1\n)\n")
    assert digest("x = 1") != digest("x = 2")
    code_files.cache_clear()


# On the tiny study, with real vLLM.


@pytest.fixture
def moved(built: Copy, tmp_path: Path) -> Copy:
    """The built study, moved elsewhere, to be damaged."""
    shutil.copytree(built.root, tmp_path / "moved", symlinks=True)
    return Copy.at(tmp_path / "moved")


def rows_of(copy: Copy, path: str = ARTIFACT) -> pd.DataFrame:
    return pd.read_parquet(copy.root / path)


def facts(copy: Copy) -> dict:
    return json.loads((copy.root / ARTIFACT).with_suffix(".record.json").read_text())["facts"]


def generate_alone(copy: Copy, *, eager: bool = False) -> subprocess.Popen:
    """The generate job of the artifact, as its record says it was started; `eager` with a line after each step."""
    record = json.loads((copy.root / ARTIFACT).with_suffix(".record.json").read_text())
    command = [sys.executable, *(["-c", EAGER] if eager else []), *record["command"][1:]]
    return subprocess.Popen(
        command, cwd=copy.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PATH": copy.path},
    )  # fmt: skip


def test_a_full_store_needs_no_engine(moved: Copy):
    before, speed = rows_of(moved), facts(moved)["tokens_per_second"]
    (moved.root / ARTIFACT).unlink()
    moved.build(ARTIFACT)
    log = (moved.root / "results/logs/generate/tiny-qwen-s/none/full/arithmetic.log").read_text()
    assert "vllm" not in log.lower()
    assert facts(moved)["generated"] == 0
    assert facts(moved)["tokens_per_second"] == pytest.approx(speed)
    pd.testing.assert_frame_equal(rows_of(moved), before)


def test_a_partial_store_gives_the_same_rows(moved: Copy):
    """Half of the samples gone: the other half alone is asked of the engine, in another order, with equal results."""
    before = rows_of(moved)
    (moved.root / ARTIFACT).unlink()
    kept = set(before["sample"][::2])
    for segment in segments(moved.root / "results/store/samples"):
        rows = [row for row in read_segment(segment).to_pylist() if row["sample"] in kept]
        segment.unlink()
        if rows:
            write_segment(segment.parent, rows, {})
    moved.build(ARTIFACT)
    assert facts(moved)["generated"] == len(before) - len(kept)
    pd.testing.assert_frame_equal(rows_of(moved), before)


def test_sigterm_stores_what_is_finished_and_the_next_run_goes_on(moved: Copy):
    before = rows_of(moved)
    shutil.rmtree(moved.root / "results/store/samples")
    process = generate_alone(moved, eager=True)
    for line in process.stdout:
        if re.search(r": [1-9]\d* of 800 samples, ", line):
            break
    process.send_signal(signal.SIGTERM)
    output = process.stdout.read()
    assert process.wait() == 143
    assert "told to stop" in output
    stored = sum(len(read_segment(path)) for path in segments(moved.root / "results/store/samples"))
    assert 0 < stored < 800
    moved.build("--forcerun", ARTIFACT, "--until", ARTIFACT)
    assert facts(moved)["generated"] == 800 - stored
    pd.testing.assert_frame_equal(rows_of(moved), before)


def test_a_comment_costs_links_and_no_engine(moved: Copy):
    """Comments in a quantizer and in the engine's code: the jobs are planned, none of them works."""
    cell = "tiny-qwen-s/gptq/w3g32"
    artifact = f"results/generate/{cell}/arithmetic.parquet"
    before = rows_of(moved, artifact)
    for path in ("scripts/quantize/gptq.py", "scripts/generate/engine.py"):
        with (moved.root / path).open("a") as stream:
            stream.write("\n# a comment\n")
    moved.build(artifact)
    record = json.loads((moved.root / f"results/quantize/{cell}/record.json").read_text())
    assert "stored" in record["facts"]
    logs = moved.root / "results/logs"
    for log in (f"quantize/{cell}.log", f"generate/{cell}/arithmetic.log"):
        assert not re.search("vllm|gptqmodel", (logs / log).read_text().lower()), log
    pd.testing.assert_frame_equal(rows_of(moved, artifact), before)


def rerun(copy: Copy, record: str) -> subprocess.CompletedProcess[str]:
    """The job as its record says it was started."""
    arguments = json.loads((copy.root / record).read_text())["command"][1:]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy.root, check=False, capture_output=True, text=True, env=os.environ | {"PATH": copy.path},
    )  # fmt: skip


def test_an_altered_checkpoint_is_named(moved: Copy):
    flip(moved.root / "results/quantize/tiny-qwen-s/none/full/checkpoint/model.safetensors")
    process = rerun(moved, ARTIFACT.replace(".parquet", ".record.json"))
    assert process.returncode == 1
    assert "none/full/checkpoint/model.safetensors is missing or altered" in process.stderr
    assert "delete results/quantize/tiny-qwen-s/none/full and run again" in process.stderr


def test_an_altered_table_is_named(moved: Copy):
    """The samples, when they are scored."""
    flip(moved.root / ARTIFACT)
    process = rerun(moved, "results/score/tiny-qwen-s/none/full/arithmetic/addition.record.json")
    assert process.returncode == 1
    assert f"{ARTIFACT} was altered since it was made" in process.stderr
    assert f"delete {ARTIFACT} and run again" in process.stderr


def command(copy: Copy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.generate.store", *arguments],
        cwd=copy.root, check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_stats_verify_gc_and_import(moved: Copy, tmp_path: Path):
    total = sum(len(read_segment(path)) for path in segments(moved.root / "results/store/samples"))
    assert f"in all: {total:,} samples" in command(moved, "stats").stdout
    assert command(moved, "verify").returncode == 0
    assert command(moved, "gc").stdout.startswith("0 samples unused")

    (moved.root / ARTIFACT).unlink()
    assert command(moved, "gc").stdout.startswith("800 samples unused")
    assert f"in all: {total:,} samples" in command(moved, "stats").stdout  # a dry run
    other = tmp_path / "other"
    shutil.copytree(moved.root / "results", other)
    command(moved, "gc", "--delete")
    assert f"in all: {total - 800:,} samples" in command(moved, "stats").stdout

    truncate(segments(moved.root / "results/store/samples")[0])
    damaged = command(moved, "verify")
    assert damaged.returncode == 1
    assert "is damaged (truncated, altered, or of another form); set aside" in damaged.stdout
    assert "segments adopted" in command(moved, "import", str(other)).stdout
    assert f"in all: {total:,} samples" in command(moved, "stats").stdout
    assert command(moved, "verify").returncode == 0
