"""The tamper campaign: whatever is altered in a copy of the built study, `verify` names it first, and says why."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.audit._records import read_results
from scripts.audit.verify import ALTERED, CHANGED, MISSING, NO_RECORD, OTHER_CODE, Cause, verify
from scripts.run.files import sha256
from scripts.run.imports import code_files
from tests.conftest import ROOT
from tests.tamper import (
    ACCURACY,
    COPY,
    CORPUS,
    GPTQ,
    MODEL,
    OTHER_SCORES,
    OTHER_SHARD,
    PLAIN,
    QUESTIONS,
    RETAINED,
    RTN,
    SAMPLES,
    SCORES,
    SHARD,
    STORE,
    STORED,
    SUMMARY,
    TEXT,
    VERDICTS,
    adopt,
    append,
    copy,
    delete,
    edit_json,
    edit_rows,
    flip,
    flip_verdict,
    flipped_and_forged,
    forge,
    forged_manifest,
    forged_shard,
    forged_summary,
    raise_mean,
    read_record,
    record_of,
    rename,
    segment,
    swap,
    vouch,
    write,
)


def causes(*names: str, **options: bool) -> list[Cause]:
    return verify(read_results(Path("results")), names=list(names), **options)


SHARD_OF_MODEL = "checkpoint/model.safetensors"
# What is altered → the alteration, the kind of cause, the start of the name that stands in it
CAMPAIGN: dict[str, tuple[Callable[[], object], str, str]] = {
    # files of models and checkpoints
    "a bit in a quantized shard": (lambda: flip(SHARD), ALTERED, SHARD),
    "a bit in the model's shard": (
        lambda: flip(f"{MODEL}/{SHARD_OF_MODEL}"),
        ALTERED,
        f"{MODEL}/{SHARD_OF_MODEL}",
    ),
    "a bit in a checkpoint of GPTQ": (
        lambda: flip(f"{GPTQ}/checkpoint/model.safetensors"),
        ALTERED,
        f"{GPTQ}/checkpoint/model",
    ),
    "a bit in the model's shard, on a disk that its folder is a link to": (
        lambda: (rename(MODEL, "disk"), Path(MODEL).symlink_to(Path("disk").resolve()), flip(f"disk/{SHARD_OF_MODEL}")),
        ALTERED,
        f"{MODEL}/{SHARD_OF_MODEL}",
    ),
    "a shard cut off": (lambda: write(SHARD, b"{}"), ALTERED, SHARD),
    "the shards of two checkpoints swapped": (lambda: swap(SHARD, OTHER_SHARD), ALTERED, OTHER_SHARD),
    "a bit in a shard, its time kept": (lambda: flip(SHARD, keep_time=True), ALTERED, SHARD),
    "the config of a checkpoint edited": (
        lambda: edit_json(f"{RTN}/checkpoint/config.json", lambda c: c.update(rope_theta=1)),
        ALTERED,
        f"{RTN}/checkpoint/config.json",
    ),
    "the chat template edited": (
        lambda: append(f"{MODEL}/checkpoint/chat_template.jinja", " "),
        ALTERED,
        f"{MODEL}/checkpoint/chat_template",
    ),
    "a file added to a checkpoint": (
        lambda: write(f"{RTN}/checkpoint/model-2.safetensors", b"x"),
        ALTERED,
        f"{RTN}/checkpoint/model-2",
    ),
    "a file of a checkpoint deleted": (
        lambda: delete(f"{RTN}/checkpoint/tokenizer.json"),
        MISSING,
        f"{RTN}/checkpoint/tokenizer.json",
    ),
    "a checkpoint deleted": (lambda: delete(f"{RTN}/checkpoint"), MISSING, f"{RTN}/checkpoint"),
    "a model deleted, record and all": (lambda: delete(MODEL), MISSING, MODEL),
    "a model's folder renamed": (lambda: rename(MODEL, f"{MODEL}-2"), MISSING, MODEL),
    "a checkpoint's folder renamed": (lambda: rename(RTN, f"{RTN}-2"), MISSING, RTN),
    "the folders of two checkpoints swapped": (
        lambda: (rename(RTN, "x"), rename(GPTQ, RTN), rename("x", GPTQ)),
        ALTERED,
        f"{GPTQ}/manifest.json",
    ),
    "a manifest edited": (lambda: append(f"{RTN}/manifest.json", "\n"), ALTERED, f"{RTN}/manifest.json"),
    "a manifest that tells lies of a shard": (
        lambda: edit_json(f"{RTN}/manifest.json", lambda m: m["files"]["model.safetensors"].update(sha256="0" * 64)),
        ALTERED,
        f"{RTN}/manifest.json",
    ),
    "a manifest deleted": (lambda: delete(f"{RTN}/manifest.json"), MISSING, f"{RTN}/manifest.json"),
    "a shard, and the manifest to go with it": (
        lambda: (flip(SHARD), forged_manifest()),
        ALTERED,
        f"{RTN}/manifest.json",
    ),
    "a shard, manifest and record to go with it": (forged_shard, CHANGED, SAMPLES),
    # tables
    "a verdict flipped": (lambda: edit_rows(SCORES, flip_verdict), ALTERED, SCORES),
    "a verdict flipped, record to go with it": (flipped_and_forged, CHANGED, VERDICTS),
    "a verdict flipped, all records and metadata to go with it": (
        lambda: flipped_and_forged(VERDICTS, ACCURACY, SUMMARY),
        ALTERED,
        VERDICTS,
    ),
    "a cell of a table edited": (
        lambda: edit_rows(ACCURACY, lambda rows: rows[0].update(accuracy=99.9)),
        ALTERED,
        ACCURACY,
    ),
    "a mean edited, record to go with it": (lambda: forged_summary(raise_mean), ALTERED, SUMMARY),
    "a row of a table deleted, record to go with it": (lambda: forged_summary(list.pop), ALTERED, SUMMARY),
    "two rows of a table swapped, record to go with it": (lambda: forged_summary(list.reverse), ALTERED, SUMMARY),
    "two question files swapped": (
        lambda: swap(QUESTIONS, "results/questions/multiplication.parquet"),
        ALTERED,
        QUESTIONS,
    ),
    "the right answer of a question edited": (
        lambda: edit_rows(QUESTIONS, lambda rows: rows[3].update(gold="7")),
        ALTERED,
        QUESTIONS,
    ),
    "a calibration token edited": (
        lambda: edit_rows(CORPUS, lambda rows: rows[0]["input_ids"].reverse()),
        ALTERED,
        CORPUS,
    ),
    "an output edited": (
        lambda: edit_rows(SAMPLES, lambda rows: rows[0].update(output="\\boxed{1}")),
        ALTERED,
        SAMPLES,
    ),
    "a stale file restored with the time of the new": (lambda: flip(SCORES, keep_time=True), ALTERED, SCORES),
    "the metadata of a table dropped": (lambda: edit_rows(SCORES, lambda rows: None, {"x": "y"}), ALTERED, SCORES),
    "the scores of another cell": (lambda: copy(OTHER_SCORES, SCORES), ALTERED, SCORES),
    "a table cut off": (lambda: write(SUMMARY, Path(SUMMARY).read_bytes()[:-100]), ALTERED, SUMMARY),
    "an empty table": (lambda: write(SCORES, b""), ALTERED, SCORES),
    "scores deleted": (lambda: delete(SCORES), MISSING, SCORES),
    "scores deleted, record and all": (lambda: delete(SCORES, record_of(SCORES)), MISSING, SCORES),
    "a table deleted": (lambda: delete(SUMMARY), MISSING, SUMMARY),
    "a table of unknown origin": (lambda: copy(SUMMARY, COPY), NO_RECORD, COPY),
    # records
    "a record deleted": (lambda: delete(record_of(SUMMARY)), NO_RECORD, SUMMARY),
    "a checkpoint's record deleted": (lambda: delete(f"{RTN}/record.json"), NO_RECORD, f"{RTN}/checkpoint"),
    "a record's host edited": (
        lambda: edit_json(record_of(SCORES), lambda r: r.update(host="x")),
        ALTERED,
        record_of(SCORES),
    ),
    "a record's time edited": (
        lambda: edit_json(record_of(SAMPLES), lambda r: r.update(wall_seconds=1)),
        ALTERED,
        record_of(SAMPLES),
    ),
    "a speed forged": (
        lambda: forge(SAMPLES, facts=read_record(SAMPLES)["facts"] | {"tokens_per_second": 1e6}),
        ALTERED,
        record_of(SAMPLES),
    ),
    "a machine forged": (
        lambda: forge(f"{RTN}/checkpoint", host="x"),
        ALTERED,
        record_of(f"{RTN}/checkpoint"),
    ),
    "a field of a record dropped": (
        lambda: edit_json(record_of(SAMPLES), lambda r: r.pop("git")),
        ALTERED,
        record_of(SAMPLES),
    ),
    "a record's parameters forged": (lambda: forge(SAMPLES, parameters={}), ALTERED, record_of(SAMPLES)),
    "a record's inputs forged": (
        lambda: forge(f"{RTN}/checkpoint", inputs={f"{MODEL}/checkpoint": "0" * 64}),
        CHANGED,
        f"{RTN}/checkpoint",
    ),
    "a record's code forged": (lambda: forge(SUMMARY, code={"scripts/table.py": "0" * 64}), OTHER_CODE, SUMMARY),
    "a record's output forged": (lambda: forge(SUMMARY, outputs={SUMMARY: "0" * 64}), ALTERED, SUMMARY),
    "a record copied from another artifact": (
        lambda: copy(record_of(OTHER_SCORES), record_of(SCORES)),
        ALTERED,
        record_of(SCORES),
    ),
    "an artifact copied with its record": (
        lambda: (copy(SCORES, COPY), copy(record_of(SCORES), record_of(COPY))),
        ALTERED,
        record_of(COPY),
    ),
    "a record cut off": (lambda: write(record_of(SCORES), b'{"schema": 3, '), ALTERED, record_of(SCORES)),
    "a record of another form": (
        lambda: edit_json(record_of(SCORES), lambda r: r.update(schema=1)),
        ALTERED,
        record_of(SCORES),
    ),
    # code and sources
    "a scorer edited": (
        lambda: append("scripts/score/addition.py", "X = 1\n"),
        OTHER_CODE,
        "results/score/tiny-qwen-m/gptq/w2g32-plain/arithmetic/addition",
    ),
    "a comment in a quantizer": (
        lambda: append("scripts/quantize/gptq.py", "# x\n"),
        OTHER_CODE,
        "results/quantize/tiny-qwen-m/gptq",
    ),
    "what all tables share edited": (
        lambda: append("scripts/table.py", "\n"),
        OTHER_CODE,
        "results/questions/addition.parquet",
    ),
    "a script deleted": (
        lambda: delete("scripts/report/summary.py"),
        OTHER_CODE,
        "results/report/baselines/paper.parquet",  # the first of those that it makes
    ),
    "a calibration text edited": (lambda: append(TEXT, "x"), CHANGED, PLAIN),
    "a calibration text deleted": (lambda: delete(TEXT), MISSING, TEXT),
    "retained weights altered": (lambda: flip(RETAINED), CHANGED, f"{MODEL}/checkpoint"),
    # the store
    "a segment deleted": (lambda: delete(segment()), MISSING, STORED),
    "a bit in a segment": (lambda: flip(segment()), ALTERED, STORED),
    "a segment cut off": (lambda: write(segment(), Path(segment()).read_bytes()[:99]), ALTERED, STORED),
    "a segment of another checkpoint": (lambda: copy(segment(GPTQ), segment()), ALTERED, STORED),
    "a checkpoint's samples renamed": (lambda: rename(str(Path(segment()).parent), str(STORE / "x")), MISSING, STORED),
}


OF_ROWS = {
    "a verdict flipped, all records and metadata to go with it",
    "a mean edited, record to go with it",
    "a row of a table deleted, record to go with it",
    "two rows of a table swapped, record to go with it",
    "a record's output forged",
    "a segment deleted",
    "a bit in a segment",
    "a segment cut off",
    "a segment of another checkpoint",
    "a checkpoint's samples renamed",
}


@pytest.mark.parametrize("alteration", CAMPAIGN)
def test_what_was_altered_is_named_first(study: Path, alteration: str, monkeypatch: pytest.MonkeyPatch):
    alter, kind, name = CAMPAIGN[alteration]
    if kind == OTHER_CODE:
        monkeypatch.setattr("scripts.audit.verify.code_files", code_files.__wrapped__)  # what is cached is of before
    alter()
    # Rows of all tables and figures take long to make again: where they matter, of one table.
    found = causes(SUMMARY) if alteration in OF_ROWS else causes()
    assert found, "nothing was found"
    assert found[0].kind == kind, found[:3]
    assert found[0].name.startswith(name), found[:3]
    assert len({cause.name for cause in found}) == len(found)


def test_the_campaign_is_of_at_least_40():
    assert len(CAMPAIGN) >= 40


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.audit", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_an_untouched_tree_is_passed_in_silence(study: Path):
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if "__pycache__" not in path.parts}
    done = audit("verify")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    after = {path: path.stat().st_mtime_ns for path in study.rglob("*") if "__pycache__" not in path.parts}
    assert after.keys() - before.keys() <= {study / "results/.verified.json"}
    assert all(after[path] == before[path] for path in before if path.is_file())


def test_the_first_cause_is_said_in_words_with_status_1(study: Path):
    append("scripts/score/addition.py", "X = 1\n")
    done = audit("verify")
    assert done.returncode == 1
    first, more = done.stdout.splitlines()
    assert first.startswith(
        "made by other code than is here: results/score/tiny-qwen-m/gptq/w2g32-plain/arithmetic/addition.parquet: "
    )
    assert "scripts/score/addition.py had the SHA-256" in first
    assert more == "and 5 more (--all)"
    assert len(audit("verify", "--all").stdout.splitlines()) == 6


def test_quick_reads_only_what_has_another_size_or_time(study: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr("scripts.audit.verify.sha256", lambda path: read.append(str(path)) or sha256(path))
    assert causes(SUMMARY) == []
    assert {SCORES, QUESTIONS, SHARD} < set(read)
    read.clear()
    assert causes(SUMMARY, quick=True) == []
    assert not [name for name in read if name.endswith((".safetensors", ".parquet"))]
    flip(SCORES)
    os.utime(QUESTIONS)
    assert [cause.name for cause in causes(SUMMARY, quick=True)] == [SCORES]
    assert {name for name in read if name.endswith((".safetensors", ".parquet"))} == {SCORES, QUESTIONS}


def test_only_quick_trusts_size_and_time(study: Path):
    assert causes(SAMPLES) == []
    flip(SHARD, keep_time=True)
    assert causes(SAMPLES, quick=True) == []
    assert [cause.name for cause in causes(SAMPLES)] == [SHARD]


def test_a_forged_output_is_not_what_the_store_holds(study: Path):
    edit_rows(SAMPLES, lambda rows: rows[0].update(output="\\boxed{1}"))
    vouch(SAMPLES)
    assert "is not what the store holds" in str(causes(SAMPLES)[0])


def test_forged_lengths_are_not_those_of_the_samples(study: Path):
    edit_rows(SCORES, lambda rows: rows[0].update(output_tokens=1))
    vouch(SCORES)
    assert f"its rows are not those of {SAMPLES}" in str(causes(SCORES)[0])


def test_judging_again_finds_a_forged_verdict(study: Path):
    edit_rows(SCORES, flip_verdict)
    vouch(SCORES)
    assert causes(SCORES) == []
    (cause,) = causes(SCORES, judge=True)
    assert cause.name == SCORES
    assert cause.why.startswith("row 7: correct is ")


def test_a_record_names_the_inputs_that_the_rule_has(study: Path):
    others = {record_of(SCORES): sha256(Path(record_of(SCORES)))}
    forge(SUMMARY, inputs=read_record(SUMMARY)["inputs"] | others)
    adopt(SUMMARY)
    (cause,) = causes(SUMMARY)
    assert (cause.kind, cause.name) == (ALTERED, record_of(SUMMARY))
    assert record_of(SCORES) in cause.why


def test_a_forged_command_is_not_run(study: Path):
    """What is made again follows from the path of the artifact."""
    command = read_record(SUMMARY)["command"]
    forge(SUMMARY, command=["results/report/tiny/other.parquet" if word == SUMMARY else word for word in command])
    assert causes(SUMMARY) == []
    assert not Path("results/report/tiny/other.parquet").exists()


def test_only_what_an_artifact_goes_back_to_is_verified(study: Path):
    flip(OTHER_SCORES)
    assert causes(SCORES) == []
    assert [cause.name for cause in causes(ACCURACY)] == [OTHER_SCORES]


def test_an_ill_record_behind_an_artifact_is_not_passed_over(study: Path):
    write(record_of(SCORES), b"{}")
    assert [cause.name for cause in causes(SUMMARY)] == [record_of(SCORES)]
    copy(record_of("results/score/tiny-qwen-m/none/full/arithmetic/addition.parquet"), record_of(SCORES))
    assert [cause.name for cause in causes("results/report/baselines/summary.parquet")] == [record_of(SCORES)]


def test_a_folder_without_records_is_refused(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "scripts.audit", "verify"],
        cwd=tmp_path, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "error: results: no records in it: name a results folder, or run `snakemake --cores all` first\n",
    )
