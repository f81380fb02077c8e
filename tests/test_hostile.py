"""A results folder from somebody else: an audit runs and writes nothing by it, and says what is wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scripts.audit._making import arguments, wrong
from scripts.audit._records import read_results
from scripts.audit.verify import ALTERED, MISSING, Cause, _gone, notes, verify
from scripts.generate.store import Store, checkpoint_digest, read_segment, write_segment
from scripts.quantize._store import is_whole
from scripts.run.errors import UserError
from scripts.run.files import sha256
from scripts.run.record import self_digest
from tests.conftest import Copy
from tests.tamper import (
    CORPUS,
    GPTQ,
    MODEL,
    RTN,
    SAMPLES,
    SCORES,
    SUMMARY,
    append,
    copy,
    delete,
    edit_rows,
    flip,
    forge,
    raise_mean,
    read_record,
    record_of,
    rename,
    segment,
    vouch,
    write,
)

PAGE = "results/report/tiny/index.html"
TEMPLATE = "scripts/report/_page/page.html"
HEADLINE, TEX = "results/report/tiny/summary.md", "results/report/tiny/summary.tex"
CHECKPOINT = f"{GPTQ}/checkpoint"


def causes(*names: str, **options: bool) -> list[Cause]:
    return verify(read_results(Path("results")), names=list(names), **options)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_what_made_each_artifact_follows_from_its_path(study: Path, tmp_path: Path):
    """The jobs that really ran: their modules, inputs and outputs, and the arguments that they were given."""
    for name, record in read_results(Path("results")).records.items():
        assert wrong(record) is None, name
        if record["rule"] in ("report", "score"):
            _, named, made = arguments(record, tmp_path)
            given = {str(x) for value in named.values() for x in (value if isinstance(value, list) else [value])}
            inputs = {word for word in record["command"] if word in record["inputs"]}
            assert inputs <= given, name
            assert {str(tmp_path / output) for output in record["outputs"]} == {str(path) for path in made.values()}


def test_a_template_of_the_results_is_not_rendered(study: Path):
    mark, evil = Path("mark"), "results/evil/page.html"
    Path("results/evil").mkdir()
    write(evil, b"{{ cycler.__init__.__globals__.os.system('touch mark') }}")
    inputs = {name: digest for name, digest in read_record(PAGE)["inputs"].items() if name != TEMPLATE}
    command = [evil if word == TEMPLATE else word for word in read_record(PAGE)["command"]]
    write(PAGE, b"0\n")
    forge(PAGE, inputs=inputs | {evil: sha256(Path(evil))}, command=command, outputs={PAGE: sha256(Path(PAGE))})
    first = causes()[0]
    assert (first.kind, first.name) == (ALTERED, record_of(PAGE))
    assert TEMPLATE in first.why
    assert not mark.exists()


@pytest.mark.parametrize("artifact", [PAGE, SUMMARY, SCORES])
def test_the_command_of_a_record_is_never_run(study: Path, artifact: str):
    forge(artifact, command=["touch", "mark", "-c", "import os; os.system('touch mark')"])
    assert causes(artifact, judge=True) == []
    assert not Path("mark").exists()


def test_nothing_is_written_where_a_record_says(study: Path, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    command = [str(victim) if word == TEX else word for word in read_record(HEADLINE)["command"]]
    outputs = {HEADLINE: sha256(Path(HEADLINE))}
    delete(TEX)
    forge(HEADLINE, outputs=outputs, command=command)
    assert causes(HEADLINE)[0].name == record_of(HEADLINE)
    assert victim.read_text() == "mine"


def test_a_rule_that_is_not_the_paths_is_named(study: Path):
    edit_rows(SUMMARY, raise_mean)
    vouch(SUMMARY)
    forge(SUMMARY, rule="tables")
    for arguments_ in ([], ["--judge"]):
        done = run("scripts.audit", "verify", "--all", *arguments_)
        assert done.returncode == 1
        assert f"altered: {record_of(SUMMARY)}: says rule 'tables'" in done.stdout


def without(key: str, dropped: str) -> dict[str, str]:
    return {name: value for name, value in read_record(CHECKPOINT)[key].items() if name != dropped}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (lambda r: {"parameters": {"settings": r["parameters"]["settings"] | {"bits": 4}}}, "its making"),
        (lambda _: {"inputs": without("inputs", CORPUS), "chain": without("chain", CORPUS)}, "corpus reasoning"),
        (lambda r: {"inputs": {f"{MODEL}/checkpoint": r["inputs"][f"{MODEL}/checkpoint"]}}, "corpus reasoning"),
        (lambda r: {"module": "scripts.quantize.rtn", "code": r["code"]}, "scripts.quantize.rtn made it"),
        (lambda _: {"inputs": {}, "chain": {}}, "does not name its input"),
        (lambda r: {"wildcards": r["wildcards"] | {"scheme": "w4g32"}}, "says wildcards"),
        (lambda r: {"rule": "score"} | {"code": r["code"]}, "says rule 'score'"),
        (lambda r: {"inputs": r["inputs"] | {"/etc/passwd": "0" * 64}}, "names the input /etc/passwd"),
        (lambda r: {"parameters": {"settings": []} | {"x": r["rule"]}}, "settings that are none"),
    ],
)  # fmt: skip
def test_a_checkpoints_record_can_say_nothing_else(study: Path, fields: Callable[[dict], dict], why: str):
    forge(CHECKPOINT, **fields(read_record(CHECKPOINT)))
    found = causes()
    assert record_of(CHECKPOINT) in {cause.name for cause in found}
    assert why in next(cause.why for cause in found if cause.name == record_of(CHECKPOINT))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"schema": 3, "schema": 3}',
        b"null",
        b"\xff\xfe",
        b'{"schema": 3, "outputs": [], "inputs": {}}',
    ],
    ids=["nested", "twice", "null", "no-text", "lists"],
)
def test_a_record_of_any_form_is_named(study: Path, text: bytes):
    write(record_of(SCORES), text)
    assert causes()[0] == Cause(ALTERED, record_of(SCORES), "is no record of this version of the project")
    for arguments_ in (["verify"], ["trace", SUMMARY], ["diff", SUMMARY, SUMMARY]):
        run("scripts.audit", *arguments_)


@pytest.mark.parametrize("field", ["outputs", "inputs", "code", "parameters", "chain", "frame", "wildcards"])
def test_a_field_of_another_form_is_named(study: Path, field: str):
    forge(SCORES, **{field: ["x"]})
    assert causes()[0].name == record_of(SCORES)


def test_a_key_that_stands_twice_is_named(study: Path):
    text = Path(record_of(SCORES)).read_text()
    write(record_of(SCORES), text.replace('"rule"', '"git": {"commit": "x"},\n "rule"', 1).encode())
    assert causes()[0].name == record_of(SCORES)


def test_a_second_record_of_one_artifact_is_named(study: Path):
    copy(record_of(HEADLINE), f"{TEX}.record.json")
    assert causes()[0].name == f"{TEX}.record.json"


def test_nothing_runs_without_a_sandbox_unless_the_auditor_says_so(study: Path):
    forge(SCORES, parameters={"settings": {"unsafe_code": True}})
    row = "model == 'tiny-qwen-s' and scheme == 'w3' and benchmark == 'addition'"
    for arguments_ in (["verify", "--judge"], ["reproduce", SUMMARY, "again", "--where", row]):
        done = run("scripts.audit", *arguments_)
        assert done.returncode == 1
        assert f"{SCORES} was judged without a sandbox" in done.stderr
        assert "--unsafe-code" in done.stderr


def hide(name: str) -> None:
    Path(RTN, "checkpoint", name).write_bytes(b"x")


@pytest.mark.parametrize(
    "alter",
    [
        lambda: hide(".hidden.safetensors"),
        lambda: Path(RTN, "checkpoint/dangling.safetensors").symlink_to("/nowhere"),
        lambda: (Path("elsewhere").mkdir(), Path("elsewhere/x.safetensors").write_bytes(b"x"),
                 Path(RTN, "checkpoint/more").symlink_to(Path("elsewhere").resolve())),
    ],
    ids=["hidden", "dangling", "linked"],
)  # fmt: skip
def test_what_has_come_to_a_checkpoint_is_named(study: Path, alter: Callable[[], object]):
    alter()
    assert causes()[0].name.startswith(f"{RTN}/checkpoint/")


def test_what_other_programs_leave_is_not(study: Path):
    for name in (".snakemake_timestamp", ".DS_Store", ".nfs00001"):
        hide(name)
    assert causes() == []


@pytest.mark.parametrize("artifact", [PAGE, HEADLINE, SUMMARY, "results/report/tiny/figures/pareto.svg"])
def test_a_leaf_that_went_with_its_record_is_missed(built: Copy, study: Path, artifact: str):
    shutil.copytree(built.root / "results/timings", "results/timings")
    assert list(_gone(read_results(Path("results")))) == []
    delete(*read_record(artifact)["outputs"], record_of(artifact))
    missing = {cause.name for cause in causes() if cause.kind == MISSING}
    assert artifact in missing


def test_what_plans_and_runs_is_noted(study: Path):
    assert list(notes(read_results(Path("results")))) == []
    append("scripts/run/record.py", "# x\n")
    append("rules/score.smk", "# x\n")
    done = run("scripts.audit", "verify", SUMMARY)
    assert done.returncode == 0, done.stdout
    assert "note: scripts/run/record.py is not what" in done.stdout
    assert "note: rules/score.smk is not what" in done.stdout


def twin(output: str) -> Path:
    """Another sample under the address of one that is there, in a segment of its own."""
    first = Path(segment())
    rows = read_segment(first).to_pylist()
    return write_segment(first.parent, [rows[0] | {"output": output}], {"host": "x"})


def test_two_samples_of_one_address_are_named_and_none_is_chosen(study: Path, tmp_path: Path):
    honest = tmp_path / "honest"
    shutil.copytree("results/store", honest / "store")
    forged = twin("\\boxed{1}")
    why = "is not what another segment holds under that address"
    wanted = set(pq.read_table(SAMPLES, columns=["sample"])["sample"].to_pylist())
    with pytest.raises(UserError, match=why):
        Store(checkpoint_digest(Path(RTN, "checkpoint")), wanted, {})
    assert [cause.kind for cause in causes(SAMPLES) if why in cause.why] == [ALTERED]
    done = run("scripts.generate.store", "verify")
    assert (done.returncode, why in done.stdout) == (1, True)
    shutil.copytree("results/store", tmp_path / "hostile/store")
    shutil.rmtree("results/store")
    shutil.copytree(honest / "store", "results/store")
    done = run("scripts.generate.store", "import", str(tmp_path / "hostile"))
    assert (done.returncode, why in done.stdout) == (1, True)
    assert not forged.exists()
    assert causes(SAMPLES) == []


@pytest.mark.parametrize(
    ("table", "run"),
    [
        (pa.table({"x": [1]}), b'{"tokens_per_second": 1}'),
        (None, None),
        (None, b"[]"),
        (None, b'{"tokens_per_second": "x"}'),
        (None, b"{"),
    ],
)
def test_a_segment_of_another_form_is_damaged(study: Path, table: pa.Table | None, run: bytes | None):
    first = Path(segment())
    table = read_segment(first) if table is None else table
    evil = first.with_name("evil")
    pq.write_table(table.replace_schema_metadata({b"run": run} if run else {}), evil)
    evil = evil.rename(first.with_name(f"{sha256(evil)}.parquet"))
    assert read_segment(evil) is None
    assert [cause.name for cause in causes(SAMPLES)] == [str(evil)]
    assert self_digest(json.loads(Path(record_of(SAMPLES)).read_text()))
    Store(checkpoint_digest(Path(RTN, "checkpoint")), set(), {})
    assert not evil.exists()  # set aside, and said


def test_a_record_of_a_checkpoint_leads_to_its_address(study: Path):
    """Whatever a record says of a checkpoint's making, alone or with the address that goes with it."""
    assert causes(CHECKPOINT) == []
    record, name = read_record(CHECKPOINT), record_of(CHECKPOINT)
    settings = record["parameters"]["settings"]
    for change in (
        {"parameters": record["parameters"] | {"settings": settings | {"bits": 4}}},
        {"packages": record["packages"] | {"torch": "1.0"}},
        {"facts": record["facts"] | {"address": "0" * 64}},
        {"facts": {}},
    ):
        forge(CHECKPOINT, **record | change)
        (cause,) = causes(CHECKPOINT)
        assert (cause.kind, cause.name) == (ALTERED, name)
        assert "leads to" in cause.why
        expected = cause.why.rpartition(" ")[2]
        if "facts" not in change:
            forge(CHECKPOINT, facts=record["facts"] | {"address": expected})
            (cause,) = causes(CHECKPOINT)
            assert (cause.kind, cause.name) == (ALTERED, name)
            assert cause.why.endswith(f"the checkpoint is that of {record['facts']['address']}")
    forge(CHECKPOINT, **record)
    assert causes(CHECKPOINT) == []
    entry = f"results/store/checkpoints/{record['facts']['address']}"
    append(f"{entry}/manifest.json", " ")
    assert [(cause.kind, cause.name) for cause in causes(CHECKPOINT)] == [(ALTERED, CHECKPOINT)]
    delete(entry)
    assert causes(CHECKPOINT) == []


def test_an_entry_of_the_store_is_read_before_it_is_linked(study: Path, capsys: pytest.CaptureFixture[str]):
    """Its size and time may be kept; it is thrown away, and the checkpoint made anew."""
    source = Path("results/store/checkpoints", read_record(CHECKPOINT)["facts"]["address"])
    folder, manifest = Path("checkpoint"), json.loads((source / "manifest.json").read_text())
    shard = "checkpoint/model.safetensors"
    for number, damage in enumerate(
        (
            lambda entry: flip(f"{entry}/{shard}", keep_time=True),
            lambda entry: write(f"{entry}/manifest.json", b"[]"),
            lambda entry: write(f"{entry}/manifest.json", b"{"),
            lambda entry: write(f"{entry}/manifest.json", json.dumps(manifest | {"files": {}}).encode()),
            lambda entry: write(f"{entry}/{folder}/.evil.safetensors", b"x"),
            lambda entry: (rename(f"{entry}/{shard}", "shard"), Path(entry, shard).symlink_to(Path("shard").resolve())),
        )
    ):
        entry = Path(f"entry-{number}")
        shutil.copytree(source, entry)
        assert is_whole(entry)
        damage(str(entry))
        assert not is_whole(entry)
        assert f"{entry} is damaged" in capsys.readouterr().out
        assert not entry.exists()


def test_no_command_steers_the_terminal(study: Path):
    """Whatever a record or a table calls things: names, digests, packages, columns, machines."""
    escape = "\x1b[2J\x1b]0;owned\x07\u202e"
    record = read_record(SUMMARY)
    forge(
        SUMMARY,
        packages=record["packages"] | {f"evil{escape}": escape, "torch": escape},
        facts={f"fact{escape}": escape},
        os=escape,
        host=escape,
        git={"commit": escape, "uncommitted": escape},
        sources={f"models/{escape}": escape},
        inputs=record["inputs"] | {f"results/x{escape}": escape},
        code=record["code"] | {f"scripts/x{escape}.py": escape},
        outputs={SUMMARY: escape},
        slurm={"SLURM_JOB_ID": escape},
        lock={"path": escape, "sha256": escape},
    )
    table = pq.read_table(SUMMARY)
    Path(SUMMARY).unlink()  # a link to the built study's
    pq.write_table(table.append_column(f"column{escape}", pa.array([escape] * len(table))), SUMMARY)
    row = "model == 'tiny-qwen-s' and scheme == 'w3' and benchmark == 'addition'"
    for arguments_ in (
        ["trace", SUMMARY],
        ["trace", SUMMARY, "--where", row],
        ["verify", "--all"],
        ["verify", SUMMARY],
        ["diff", SUMMARY, "results/report/tiny/accuracy.parquet"],
        ["diff", SUMMARY, SUMMARY, "--where", row, "--other-where", row.replace("w3", "w2g32")],
        ["export", "tiny", "crate.zip"],
        ["reproduce", SUMMARY, "again", "--where", row, "--plan"],
    ):
        done = run("scripts.audit", *arguments_)
        said = done.stdout + done.stderr
        assert said, arguments_
        assert not {"\x1b", "\x07", "\u202e"} & set(said), arguments_
