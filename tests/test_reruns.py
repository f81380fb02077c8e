"""What a change plans to rebuild: exactly what depends on it, nothing else."""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY_STUDY, Copy

S_CELLS = {f"tiny-qwen-s/{scheme}" for scheme in ("none/full", "rtn/w3", "rtn/w2g32", "gptq/w3g32")}
M_CELLS = {f"tiny-qwen-m/{scheme}" for scheme in ("none/full", "gptq/w2g32-plain")}
CELLS = S_CELLS | M_CELLS
BENCHMARKS = ("addition", "multiplication")
OF_SAMPLES = ("accuracy", "summary", "drops", "lengths", "difficulty", "errors", "budget", "baselines")
OTHERS = ("ablations", "scaling", "loops", "efficiency", "findings", "paper", "headline", "explorer", "figures", "page")


def tables(study: str) -> set[str]:
    return {f"samples {study}"} | {f"tables {study}/{table}" for table in OF_SAMPLES} | {f"{x} {study}" for x in OTHERS}


TABLES = tables("tiny")
REPORTS = TABLES | tables("baselines")


def reports(*jobs: str) -> set[str]:
    """Jobs of both studies, whose names stand for {}."""
    return {job.format(study) for job in jobs for study in ("tiny", "baselines")}


def quantize(cells: set[str]) -> set[str]:
    return {f"quantize {cell}" for cell in cells}


def generate(cells: set[str], suite: str = "arithmetic") -> set[str]:
    return {f"generate {cell}/{suite}" for cell in cells}


def score(cells: set[str], benchmarks: tuple[str, ...] = BENCHMARKS, suite: str = "arithmetic") -> set[str]:
    return {f"score {cell}/{suite}/{benchmark}" for cell, benchmark in itertools.product(cells, benchmarks)}


def answers(cells: set[str]) -> set[str]:
    return generate(cells) | score(cells)


OWN_REASONING = {"generate tiny-qwen-s/none/full/own_reasoning", "calibrate tiny-qwen-s/reasoning"}
GPTQ = {"tiny-qwen-s/gptq/w3g32", "tiny-qwen-m/gptq/w2g32-plain"}
RTN = {"tiny-qwen-s/rtn/w3", "tiny-qwen-s/rtn/w2g32"}


def plan(copy: Copy, **environment: str) -> set[str]:
    """Planned jobs as "rule wildcards", the wildcards joined by slashes; without those that only list code."""
    done = copy.snakemake("--dry-run", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = set()
    for block in re.split(r"\n(?=(?:local)?rule \w+:\n)", done.stdout)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)[1]
        wildcards = re.search(r"\n    wildcards: (.*)", block)
        if rule not in ("all", "code"):
            jobs.add(f"{rule} {'/'.join(re.findall(r'=([^,]+)', wildcards[1]))}")
    assert jobs or "Nothing to be done" in done.stdout + done.stderr
    return jobs


@contextmanager
def edited(copy: Copy, path: str, old: str, new: str) -> Iterator[None]:
    file = copy.root / path
    text = file.read_text()
    assert old in text, f"{path} has no {old!r} to edit"
    file.write_text(text.replace(old, new, 1))
    try:
        yield
    finally:
        file.write_text(text)


@contextmanager
def appended(copy: Copy, path: str, line: str = "\n# an edit\n") -> Iterator[None]:
    file = copy.root / path
    text = file.read_text()
    file.write_text(text + line)
    try:
        yield
    finally:
        file.write_text(text)


@contextmanager
def reconfigured(copy: Copy, change: Callable[[dict], object]) -> Iterator[None]:
    config = yaml.safe_load(yaml.safe_dump(TINY_STUDY))
    change(config)
    copy.write_config(config)
    try:
        yield
    finally:
        copy.write_config(TINY_STUDY)


def test_nothing_changed(built: Copy):
    assert plan(built) == set()


def test_every_file_touched(built: Copy):
    for path in built.root.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert plan(built) == set()


CODE = {
    "scripts/models/arithmetic.py": {"models tiny-qwen-s", "models tiny-qwen-m", "calibrate tiny-qwen-m/plain"}
    | OWN_REASONING
    | quantize(CELLS)
    | answers(CELLS)
    | REPORTS,
    "scripts/questions/addition.py": {"questions addition"} | answers(CELLS) | REPORTS,
    "scripts/questions/calibration.py": {"questions calibration"}
    | OWN_REASONING
    | quantize({"tiny-qwen-s/gptq/w3g32"})
    | answers({"tiny-qwen-s/gptq/w3g32"})
    | TABLES,
    "scripts/calibrate.py": {"calibrate tiny-qwen-s/reasoning", "calibrate tiny-qwen-m/plain"}
    | quantize(GPTQ)
    | answers(GPTQ)
    | TABLES,
    "scripts/quantize/rtn.py": quantize(RTN) | answers(RTN) | TABLES,
    "scripts/quantize/gptq.py": quantize(GPTQ) | answers(GPTQ) | TABLES,
    "scripts/quantize/_rewrite.py": quantize(RTN | GPTQ) | answers(RTN | GPTQ) | TABLES,
    # Whether GPTQ's weights lie on their grid is looked at in the groups that rounding has.
    "scripts/fakequant/rounding.py": OWN_REASONING | quantize(RTN | GPTQ) | answers(CELLS) | REPORTS,
    "scripts/fakequant/plugin.py": OWN_REASONING | quantize({"tiny-qwen-s/gptq/w3g32"}) | answers(CELLS) | REPORTS,
    "scripts/generate/engine.py": OWN_REASONING | quantize({"tiny-qwen-s/gptq/w3g32"}) | answers(CELLS) | REPORTS,
    "scripts/score/addition.py": score(CELLS, ("addition",)) | REPORTS,
    "scripts/score/_math.py": score(CELLS) | REPORTS,
    "scripts/report/samples.py": REPORTS,
    "scripts/report/accuracy.py": reports(
        "tables {}/accuracy", "tables {}/summary", "efficiency {}", "paper {}", "headline {}", "figures {}", "page {}"
    ),
    "scripts/report/baselines.py": reports("tables {}/baselines", "page {}"),
    "scripts/report/drops.py": reports("tables {}/drops", "headline {}", "figures {}", "page {}"),
    "scripts/report/findings.py": reports("findings {}", "page {}"),
    "scripts/report/_charts.py": reports("figures {}", "page {}"),
    "scripts/report/_html.py": reports("explorer {}"),
    "scripts/report/_page/page.html": reports("page {}"),
    "scripts/report/_page/explorer.js": reports("page {}"),
    "scripts/run/record.py": set(),
}


@pytest.mark.parametrize("path", CODE)
def test_code_edited(built: Copy, path: str):
    with appended(built, path):
        assert plan(built) == CODE[path]


def test_edit_reverted(built: Copy):
    with appended(built, "scripts/quantize/rtn.py"):
        assert plan(built)
    assert plan(built) == set()


def test_import_added(built: Copy):
    """A file that nobody listed becomes an input by being imported."""
    extra = built.root / "scripts/quantize/_extra.py"
    extra.write_text("NUMBER = 1\n")
    try:
        with edited(
            built, "scripts/quantize/rtn.py", "import torch\n", "import torch\nimport scripts.quantize._extra\n"
        ):
            assert plan(built) == quantize(RTN) | answers(RTN) | TABLES
    finally:
        extra.unlink()


def test_parameter_of_a_scheme_changed(built: Copy):
    cell = {"tiny-qwen-m/gptq/w2g32-plain"}
    with edited(built, "config/quantizers.yaml", "corpus: plain}", "corpus: plain, damp_percent: 0.02}"):
        assert plan(built) == quantize(cell) | answers(cell) | TABLES


def test_scheme_added(built: Copy):
    def add(config: dict) -> None:
        config["studies"]["tiny"]["grid"][0]["schemes"].append("rtn/w8")

    cell = {"tiny-qwen-s/rtn/w8"}
    with reconfigured(built, add):
        assert plan(built) == quantize(cell) | answers(cell) | TABLES


@pytest.mark.parametrize(
    ("package", "jobs"),
    [
        ("math_verify", score(CELLS) | REPORTS),
        ("gptqmodel", quantize(GPTQ) | answers(GPTQ) | TABLES),
        ("pyarrow", set()),
    ],
)
def test_package_version_changed(built: Copy, tmp_path: Path, package: str, jobs: set[str]):
    """Another version's metadata, met first on the path, is what an upgrade looks like."""
    info = tmp_path / f"{package}-99.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99.0\n")
    assert plan(built, PYTHONPATH=str(tmp_path)) == jobs


def test_seed_added(built: Copy):
    with reconfigured(built, lambda config: config["suites"]["arithmetic"]["seeds"].append(44)):
        assert plan(built) == answers(CELLS) | REPORTS


def test_benchmark_added(built: Copy):
    with reconfigured(built, lambda config: config["suites"]["arithmetic"]["benchmarks"].append("long_multiplication")):
        assert plan(built) == (
            {"questions long_multiplication"}
            | generate(CELLS)
            | score(CELLS, (*BENCHMARKS, "long_multiplication"))
            | REPORTS
        )


def test_suite_added(built: Copy):
    """With a benchmark that another has, fewer questions and another seed: its own cells, and the tables."""

    def add(config: dict) -> None:
        config["suites"]["short"] = config["suites"]["arithmetic"] | {
            "benchmarks": ["addition"], "questions": 20, "seeds": [1], "max_model_len": 96,
        }  # fmt: skip
        config["studies"]["tiny"]["suites"].append("short")

    with reconfigured(built, add):
        assert plan(built) == generate(CELLS, "short") | score(CELLS, ("addition",), "short") | TABLES


def test_questions_raised(built: Copy):
    """Which of a benchmark's questions a suite asks is no key of its samples: those there are are taken."""
    with reconfigured(built, lambda config: config["suites"]["arithmetic"].update(questions=199)):
        assert plan(built) == answers(CELLS) | REPORTS


def test_verdict_of_a_study_changed(built: Copy):
    with reconfigured(built, lambda config: config["studies"]["tiny"].update(verdict="correct")):
        assert plan(built) == TABLES


def test_margins_of_a_study_changed(built: Copy):
    with reconfigured(built, lambda config: config["studies"]["tiny"].update(margins={"lossless": 2, "risky": 5})):
        jobs = {f"tables tiny/{table}" for table in ("drops", "baselines")}
        assert plan(built) == jobs | {"headline tiny", "figures tiny", "page tiny"}


def test_a_published_score_stated(built: Copy):
    stated = "expected:\n  addition: {accuracy: 99, source: a card}\nfacts:"
    with edited(built, "config/models/tiny-qwen-s.yaml", "facts:", stated):
        assert plan(built) == reports("tables {}/baselines", "page {}")


def test_study_removed(built: Copy):
    with reconfigured(built, lambda config: config["studies"].pop("tiny")):
        assert plan(built) == set()


def test_study_added(built: Copy):
    """A study only chooses: its cells are there already."""

    def add(config: dict) -> None:
        config["studies"]["another"] = config["studies"]["baselines"]

    with reconfigured(built, add):
        assert plan(built) == tables("another") | {"study_magnitudes another"}


def test_notes_of_a_model_changed(built: Copy):
    with edited(built, "config/models/tiny-qwen-s.yaml", "trained here", "trained by this project"):
        assert plan(built) == set()


def test_retraining_needs_no_retained_weights(built: Copy):
    """As `make retrain` asks for it: the models are planned, from code alone."""
    done = built.snakemake("--dry-run", "--config", "retrain=True", "--", "results/models/tiny-qwen-s/manifest.json")
    assert done.returncode == 0, done.stderr
    block = done.stdout.split("rule models:")[1]
    assert "resources/" not in block.split("output:")[0]
