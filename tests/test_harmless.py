"""What changes no number is passed by `verify` in silence: rebuilds, other machines, moves, times, leftovers."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from scripts.audit._records import STAGES, read_results
from scripts.audit.verify import ALTERED, VERIFIED, Cause, verify
from scripts.generate.store import read_segment, segments, write_segment
from scripts.run import imports, record
from tests.conftest import ROOT, TINY_STUDY, Copy
from tests.tamper import (
    CORPUS,
    GPTQ,
    MODEL,
    QUESTIONS,
    SAMPLES,
    SCORES,
    STORE,
    SUMMARY,
    append,
    delete,
    edit_json,
    forge,
    read_record,
    record_of,
    write,
)

EFFICIENCY = "results/report/tiny/efficiency.parquet"
PAGE = "results/report/tiny/index.html"
REPRODUCIBLE = ("rule", "module", "wildcards", "parameters", "inputs", "outputs", "code", "sources")
ELSEWHERE = """import os, socket
socket.gethostname = lambda: "elsewhere"
os.cpu_count = lambda: 64
"""


def reproducible(made: dict) -> dict:
    """What a rebuild leaves as it was: all that records chain by."""
    return {key: made[key] for key in REPRODUCIBLE}


def rebuild(name: str, **environment: str) -> None:
    """Delete an artifact, and run the job again that made it: same bytes, another record."""
    before = read_record(name)
    delete(*(output for output in before["outputs"]), record_of(name))
    if Path(name).is_dir():
        delete(str(Path(name).with_name("manifest.json")))
    command, environment = [sys.executable, *before["command"][1:]], os.environ | environment
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    after = read_record(name)
    assert reproducible(after) == reproducible(before)
    assert after["start"] > before["start"]


def rebuilt(name: str, **environment: str) -> Callable[[], None]:
    return lambda: rebuild(name, **environment)


def rebuild_elsewhere(name: str) -> None:
    """On a machine with another name and number of cores, with other threads."""
    write("sitecustomize.py", ELSEWHERE.encode())
    rebuild(name, PYTHONPATH=".", OMP_NUM_THREADS="2")
    assert (read_record(name)["host"], read_record(name)["cpu"]["cores"]) == ("elsewhere", 64)


def rebuild_with_git() -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    rebuild(SCORES)


def comment_on_the_quantizer() -> None:
    """The checkpoint comes from the store, with a record that names other code; nothing that follows is planned."""
    append("scripts/quantize/rtn.py", "# a comment\n")
    for checkpoint in Path("results/quantize").glob("*/rtn/*/checkpoint"):
        made = read_record(str(checkpoint))
        delete(str(checkpoint), str(checkpoint.with_name("manifest.json")))
        subprocess.run([sys.executable, *made["command"][1:]], check=True, capture_output=True)
        assert read_record(str(checkpoint))["code"] != made["code"]


def set_times(seconds: int | None) -> None:
    times = None if seconds is None else (seconds, seconds)
    for path in Path().rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()  # others link to it
            path.write_bytes(content)
            os.utime(path, times)


def copy_elsewhere() -> None:
    shutil.copytree(".", "../elsewhere", symlinks=True)
    os.chdir("../elsewhere")


def move_and_link(name: str) -> None:
    shutil.move(name, "../disk")
    Path(name).symlink_to(Path("../disk").resolve())


def split_segments() -> None:
    """The store holds the same samples in other segments, some of them twice, as after an import."""
    for segment in segments(STORE):
        rows = read_segment(segment).to_pylist()
        write_segment(segment.parent, rows[::2], {})


def collect_garbage() -> None:
    for path in (SAMPLES, QUESTIONS):
        assert Path(path).exists()
    subprocess.run([sys.executable, "-m", "scripts.generate.store", "gc", "--delete"], check=True, capture_output=True)


def leave_behind() -> None:
    """What killed jobs and file systems leave, hidden."""
    for name in (f"{Path(SAMPLES).parent}/.arithmetic.parquet.123", "results/report/tiny/.nfs0001", "results/note.txt"):
        write(name, b"x")
    write(f"{next(STORE.iterdir())}/.host.1.abc", b"x")


def edit_config() -> None:
    config = {**TINY_STUDY, "studies": {"tiny": TINY_STUDY["studies"]["tiny"]}, "anonymous_records": True}
    write("config/tiny.yaml", yaml.safe_dump(config).encode())


# Rebuilds of one artifact, with the same bytes
REBUILDS: dict[str, Callable[[], object]] = {
    "samples from the store": rebuilt(SAMPLES),
    "samples on another machine": lambda: rebuild_elsewhere(SAMPLES),
    "samples with anonymous records": rebuilt(SAMPLES, **{record.ANONYMOUS: "True"}),
    "samples in a job of Slurm": rebuilt(SAMPLES, SLURM_JOB_ID="7", SLURMD_NODENAME="node-7"),
    "scores": rebuilt(SCORES),
    "scores, in a repository of git": rebuild_with_git,
    "a checkpoint from the store": rebuilt(f"{GPTQ}/checkpoint"),
    "a checkpoint from the store on another machine": lambda: rebuild_elsewhere(f"{GPTQ}/checkpoint"),
    "a checkpoint from the store, its code with a comment": comment_on_the_quantizer,
    "a model": rebuilt(f"{MODEL}/checkpoint"),
    "questions": rebuilt(QUESTIONS),
    "calibration data": rebuilt(CORPUS),
    "a table": rebuilt(SUMMARY),
    "the page": rebuilt(PAGE),
}
OTHERS: dict[str, Callable[[], object]] = {
    # files and their times
    "every file touched": lambda: set_times(None),
    "every time set back": lambda: set_times(1_000_000_000),
    "the repository copied elsewhere": copy_elsewhere,
    "a model on another disk": lambda: move_and_link(MODEL),
    "all results on another disk": lambda: move_and_link("results"),
    # what nothing is made from
    "lists of code removed": lambda: delete("results/code"),
    "notes of what was read removed": lambda: delete(*map(str, Path("results").rglob(".seen.json"))),
    "notes of what was verified damaged": lambda: write(f"results/{VERIFIED}", b"[1, "),
    "records formatted anew": lambda: edit_json(record_of(SCORES), lambda made: made.update()),
    "leftovers of killed jobs": leave_behind,
    "a study and its names left out of the config": edit_config,
    "code that runs around the stages edited": lambda: append("scripts/run/progress.py", "# x\n"),
    # the store
    "samples twice in the store": split_segments,
    "unused samples removed from the store": collect_garbage,
    "checkpoints removed from the store": lambda: delete("results/store/checkpoints"),
}


def verified(*names: str) -> list[Cause]:
    imports.code_files.cache_clear()
    return verify(read_results(Path("results")), names=list(names))


@pytest.fixture(autouse=True)
def forget_code() -> Iterator[None]:
    yield
    imports.code_files.cache_clear()


@pytest.mark.parametrize("artifact", REBUILDS)
def test_a_rebuild_is_passed_in_silence(study: Path, artifact: str):
    REBUILDS[artifact]()
    assert verified(EFFICIENCY, PAGE) == []


@pytest.mark.parametrize("change", OTHERS)
def test_what_changes_no_content_is_passed_in_silence(study: Path, change: str):
    """The table goes back to artifacts of all stages."""
    OTHERS[change]()
    assert verified(EFFICIENCY) == []


def test_a_table_that_another_version_of_arrow_would_write_otherwise(study: Path, monkeypatch: pytest.MonkeyPatch):
    write_as_here = pq.write_table
    monkeypatch.setattr(pq, "write_table", lambda table, path, **_: write_as_here(table, path, compression="snappy"))
    assert verified(SUMMARY) == []


def test_results_that_may_only_be_read(study: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("scripts.audit.verify.write_atomically", refuse)
    assert verified(SCORES) == []


BASELINES = [f"results/report/baselines/{name}" for name in ("index.html", "figures/pareto.svg")]


@pytest.mark.parametrize(
    ("options", "targets", "rules"),
    [
        (["--cores", "1", "--forcerun"], [SAMPLES], {"generate"}),
        # What is made for one study is another's, too, of which nothing is made.
        (["--cores", "2", "--forceall", "--"], BASELINES, {*STAGES} - {"published", "datasets", "calibrate"}),
    ],
)
def test_what_leaves_snakemake_nothing_to_do_leaves_verify_nothing_to_say(
    built: Copy, tmp_path: Path, options: list[str], targets: list[str], rules: set[str]
):
    copy = Copy.at(tmp_path / "copy")
    shutil.copytree(built.root, copy.root, symlinks=True)
    before = read_results(copy.root / "results").records
    done = copy.snakemake(*options, *targets, *(["--until", *targets] if "--forcerun" in options else []))
    assert done.returncode == 0, done.stderr
    after = read_results(copy.root / "results").records
    remade = {name for name in before if after[name]["start"] != before[name]["start"]}
    assert {before[name]["rule"] for name in remade} == rules
    # What shows times may differ, and what is made from that; nothing else may.
    for name in remade:
        if not name.endswith(("efficiency.record.json", "pareto.svg.record.json", "index.html.record.json")):
            assert reproducible(after[name]) == reproducible(before[name]), name
    planned = copy.snakemake("--dry-run")
    assert "Nothing to be done" in planned.stdout + planned.stderr, planned.stdout
    command = [sys.executable, "-m", "scripts.audit", "verify"]
    done = subprocess.run(command, cwd=copy.root, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# What is timed is checked as what it is.


def test_what_a_record_told_is_compared_with_it(study: Path):
    """A speed forged in the record that told it: the table says something else of the same making."""
    facts = read_record(SAMPLES)["facts"]
    forge(SAMPLES, facts=facts | {"tokens_per_second": 2 * facts["tokens_per_second"]})
    (cause,) = verified(EFFICIENCY)
    assert (cause.kind, cause.name) == (ALTERED, record_of(SAMPLES))
    assert cause.why == f"what it says of facts is not what it told {EFFICIENCY}"


def test_what_a_table_was_told_cannot_be_changed_in_it_alone(study: Path):
    told = read_record(EFFICIENCY)["told"]
    forge(EFFICIENCY, told=told | {SAMPLES: told[SAMPLES] | {"wall_seconds": 1.0}})
    found = [(cause.kind, cause.name) for cause in verified(EFFICIENCY)]
    assert found == [(ALTERED, record_of(SAMPLES))]
    forge(EFFICIENCY, told=told | {SAMPLES: told[SAMPLES] | {"wall_seconds": 1.0, "start": "2026"}})
    found = [(cause.kind, cause.name) for cause in verified(EFFICIENCY)]
    assert found == [(ALTERED, EFFICIENCY)]


def test_stages_read_times_in_one_way_only():
    """Whoever read a record past `told` would show what verify cannot make again."""
    for path in (ROOT / "scripts").rglob("*.py"):
        if path.parent.name not in ("run", "audit"):
            text = path.read_text(encoding="utf-8")
            assert "record.json" not in text, path
            assert "json.loads(record_path" not in text, path
