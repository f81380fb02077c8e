"""Every bench runs at its smallest size, and every target of the Makefile leads to code that is there."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cluster
from tests.conftest import ROOT, Copy

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)[1].replace("\\\n", "").split()
# Without looking whether the environment is as old as the lock: a test installs nothing.
MAKE = ("make", "--no-print-directory", "--old-file=.venv/installed")


def usages() -> dict[str, str]:
    """Bench → what stands behind its name in the usage that its docstring shows."""
    found = {}
    for path in sorted((ROOT / "tests/bench").glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        usage = re.search(rf"python -m tests\.bench\.{path.stem}\b(.*)", text)
        assert usage, f"{path} does not say how it is run"
        found[path.stem] = usage[1].strip(" .`")
    return found


USAGES = usages()
BENCHES = [name for name, arguments in USAGES.items() if not arguments]


def run_smallest(bench: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{bench}"],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=900,
        env=os.environ | {"BENCH_SIZE": "smallest", "PATH": Copy.path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"\d", done.stdout), done.stdout


LONG = ("generate", "quantize")  # five minutes each


@pytest.mark.parametrize(
    "bench",
    [pytest.param(n, marks=pytest.mark.campaign if n in LONG else ()) for n in BENCHES if n != "slurm"],
)
def test_a_bench_runs_at_its_smallest_size(bench: str):
    if bench == "page" and not shutil.which("chromium") and "CI" not in os.environ:
        pytest.skip("no chromium")
    run_smallest(bench)


def test_the_bench_of_slurm_runs_at_its_smallest_size(built: Copy):
    """In the process of tests/test_slurm.py, which shares `built`: a machine has room for one Slurm."""
    if (reason := cluster.missing()) and "CI" not in os.environ:
        pytest.skip(reason)
    run_smallest("slurm")


def test_a_bench_that_takes_arguments_is_run_by_another():
    texts = {name: (ROOT / f"tests/bench/{name}.py").read_text(encoding="utf-8") for name in BENCHES}
    for part in USAGES.keys() - set(BENCHES):
        assert any(f"tests.bench.{part}" in text for text in texts.values()), part


def make(*arguments: str, root: Path = ROOT) -> str:
    done = subprocess.run(
        [*MAKE, *arguments], cwd=root, check=False, capture_output=True, text=True, env=os.environ | {"PATH": Copy.path}
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def modules(recipe: str) -> set[str]:
    """Modules that a recipe runs; a loop of the shell names several."""
    found = set()
    for line in recipe.splitlines():
        loops = dict(re.findall(r"for (\w+) in ([^;]+);", line))
        for name in re.findall(r"python -m ([\w.$]+)", line):
            variable = name.partition("$")[2]
            found |= {name.replace(f"${variable}", word) for word in loops[variable].split()} if variable else {name}
    return found


@pytest.fixture(scope="module")
def recipes() -> dict[str, str]:
    return {target: make("--dry-run", target) for target in TARGETS}


def test_every_target_is_in_the_help():
    rules = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))
    assert rules == set(TARGETS)
    listed = dict(line.split("\t") for line in make("help").splitlines())
    assert listed.keys() == rules - {"check"}  # what others begin with
    assert all(listed.values())


def test_every_target_leads_to_code_that_is_there(recipes: dict[str, str]):
    names = sorted(set.union(*map(modules, recipes.values())))
    assert {"scripts.run.plan", "tests.bench.store"} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(names)}"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for target, recipe in recipes.items():
        for path in re.findall(r"\b(?:tests|envs|config|scripts)/[\w./-]+\.\w+", recipe):
            assert (ROOT / path).exists(), f"{target}: {path}"


def test_every_bench_has_a_target(recipes: dict[str, str]):
    assert {f"tests.bench.{name}" for name in BENCHES} <= set.union(*map(modules, recipes.values()))


def test_quick_targets_run(copy: Copy):
    """In a copy, for they write."""
    shutil.copy2(ROOT / "Makefile", copy.root)
    make("check", f"PYTHON={sys.executable}", root=copy.root)
    assert "GB are free here" in make("plan", "CONFIG=config/tiny.yaml", f"PYTHON={sys.executable}", root=copy.root)
    (copy.root / "config/README.md").unlink()
    make("docs", f"PYTHON={sys.executable}", root=copy.root)
    assert (copy.root / "config/README.md").read_bytes() == (ROOT / "config/README.md").read_bytes()
    (copy.root / "results").mkdir(exist_ok=True)
    make("clean", root=copy.root)
    assert not (copy.root / "results").exists()
