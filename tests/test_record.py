"""Records: what they say, what they must not, and what they cost."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.run import record, unchanged
from scripts.run.files import sha256
from tests.conftest import TINY_STUDY, Copy
from tests.tamper import QUESTIONS, RTN, SCORES, SUMMARY, read_record


def ask(copy: Copy, **environment: str) -> str:
    """The record of questions that a copy of the repository writes."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.questions.addition", "--output", QUESTIONS],
        cwd=copy.root, check=False, capture_output=True, text=True, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (copy.root / "results/questions/addition.record.json").read_text()


def test_a_record_names_host_and_node_unless_told_otherwise_and_never_a_secret(copy: Copy):
    home, slurm = {"HOME": str(Path(sys.executable).parent)}, {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "node-of-x"}
    secrets = {"HF_TOKEN": "hf_0123456789", "API_KEY": str(copy.root)}
    text = ask(copy, **home, **slurm, **secrets)
    assert json.loads(text)["host"] == socket.gethostname()
    assert json.loads(text)["slurm"] == slurm
    assert home["HOME"] in text
    anonymous = ask(copy, **home, **slurm, **secrets, **{record.ANONYMOUS: "True"})
    assert json.loads(anonymous)["host"] is None
    assert json.loads(anonymous)["slurm"] == {"SLURM_JOB_ID": "7"}
    assert home["HOME"] not in anonymous
    assert json.loads(anonymous)["command"][0].startswith("~/python")
    for secret in secrets.values():
        assert secret not in text + anonymous


def test_the_config_makes_records_anonymous(copy: Copy):
    copy.write_config(TINY_STUDY | {"anonymous_records": True})
    copy.build(QUESTIONS)
    assert json.loads((copy.root / "results/questions/addition.record.json").read_text())["host"] is None


def test_secrets_home_and_user_are_left_out_of_values(monkeypatch: pytest.MonkeyPatch):
    environment = {"HOME": "/home/ada", "USER": "ada", "HF_TOKEN": "hf_0123456789", record.ANONYMOUS: "True"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    value = {"local": "/scratch/ada/models", "x": ["/home/ada/y", "https://u:hf_0123456789@hub", 3, "ada"]}
    expected = {"local": "/scratch/USER/models", "x": ["~/y", "https://u:(HF_TOKEN)@hub", 3, "ada"]}
    assert record._shown(value) == expected
    monkeypatch.delenv(record.ANONYMOUS)
    assert record._shown("/scratch/ada/hf_0123456789") == "/scratch/ada/(HF_TOKEN)"


def test_each_artifact_has_a_record_of_its_own():
    places = {
        "results/report/s/summary.parquet": "summary.record.json",
        "results/report/s/summary.md": "summary.md.record.json",
        "results/report/s/index.html": "index.html.record.json",
        "results/models/m/checkpoint": "record.json",
        "results/models/m/manifest.json": "record.json",
    }
    for output, name in places.items():
        assert record.record_path(Path(output)) == Path(output).with_name(name)


def test_records_name_the_revisions_behind_them(study: Path):
    assert read_record(SCORES)["sources"] == {"models/tiny-qwen-s": "1"}
    assert read_record(SUMMARY)["sources"] == {"models/tiny-qwen-s": "1", "models/tiny-qwen-m": "1"}
    assert read_record(QUESTIONS)["sources"] == {}


def test_a_record_tells_fields_and_start_and_no_host_that_is_to_be_left_out(study: Path, monkeypatch):
    made = read_record(SCORES)
    assert record.told(Path(SCORES), "host") == {"start": made["start"], "host": made["host"]}
    monkeypatch.setenv(record.ANONYMOUS, "True")
    assert record.told(Path(SCORES), "host", "cpu") == {"start": made["start"], "host": None, "cpu": made["cpu"]}
    assert record.told(Path("results/score/none.parquet"), "host") is None


def test_records_cost_less_than_2_percent(built: Copy):
    results = built.root / "results"
    records = [json.loads(path.read_text()) for path in results.rglob("*record.json")]
    timings = [path for path in (results / "timings").rglob("*.tsv") if path.parent.name != "code"]
    seconds = sum(float(next(csv.DictReader(path.open(), delimiter="\t"))["s"]) for path in timings)
    assert len(timings) == len(records)
    assert sum(entry["record_seconds"] for entry in records) < 0.02 * seconds


def test_what_has_not_changed_is_not_read_again(study: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(unchanged, "sha256", lambda path: read.append(path.suffix) or sha256(path))
    assert record.digest(Path(f"{RTN}/checkpoint")) == sha256(Path(f"{RTN}/manifest.json"))
    assert ".safetensors" not in read
