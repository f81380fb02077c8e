"""A working copy of the repository in which a test may edit files and run snakemake, and the tiny study built in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.run.errors import UserError
from scripts.score._sandbox import check

# Several processes share the cores: more threads than one each are far slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How a model is asked of which its file says no more, and how it marks its thought.
ASKED = {"think": "<think> </think>", "system": "", "template": {}, "date": "", "min_p": 0}
ROOT = Path(__file__).parent.parent
COPIED = ("Snakefile", "rules", "scripts", "config", "profiles", "slurm", "envs", "resources")
TINY_STUDY = {
    "studies": {
        "tiny": {
            "suites": ["arithmetic"],
            "grid": [
                {"models": ["tiny-qwen-s"], "schemes": ["none/full", "rtn/w3", "rtn/w2g32", "gptq/w3g32"]},
                {"models": ["tiny-qwen-m"], "schemes": ["none/full", "gptq/w2g32-plain"]},
            ],
        },
        "baselines": {
            "suites": ["arithmetic"],
            "grid": [{"models": ["tiny-qwen-s", "tiny-qwen-m"], "schemes": ["none/full"]}],
        },
    },
    "suites": {
        "arithmetic": {
            "benchmarks": ["addition", "multiplication"],
            "seeds": [42, 43],
            "temperature": 0.6,
            "top_p": 0.95,
            "max_model_len": 256,
        },
        "own_reasoning": {
            "benchmarks": ["calibration"],
            "seeds": [42],
            "temperature": 0.6,
            "top_p": 0.95,
            "max_model_len": 256,
        },
    },
    "corpora": {
        "reasoning": {"suite": "own_reasoning", "sequences": 32, "length": 128, "seed": 42},
        "plain": {"text": "resources/calibrate/plain.txt", "sequences": 32, "length": 128, "seed": 42},
    },
}

# Runs a module, `-m NAME ARGUMENT …`, with a line of progress after every step of its engine.
EAGER = """
import runpy, sys
from scripts.run import progress
progress.INTERVAL_SECONDS = 0
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Copy:
    """A copy of the repository's files, with a study of its own in `config/tiny.yaml`."""

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_symlink() or source.is_file():
                shutil.copy2(source, root / name, follow_symlinks=False)
            else:
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.write_config(TINY_STUDY)

    @classmethod
    def at(cls, root: Path) -> "Copy":
        """One that is there."""
        copy = cls.__new__(cls)
        copy.root = root
        return copy

    def write_config(self, config: dict) -> None:
        path = self.root / "config/tiny.yaml"
        path.unlink(missing_ok=True)  # it may be a hard link
        path.write_text(yaml.safe_dump(config, sort_keys=False))

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--configfile", "config/tiny.yaml", *arguments]
        return subprocess.run(
            command,
            cwd=self.root,
            env=os.environ | {"PATH": self.path} | environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def build(self, *arguments: str) -> None:
        done = self.snakemake("--cores", "2", *arguments)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares a costly fixture in one process: the built study, and else each file."""
    for item in items:
        group = "built" if "built" in item.fixturenames else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "repository")


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Programs can be run in bubblewrap: else tests that need it are left out, but not in CI."""
    try:
        check(unsafe=False)
    except UserError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """The tiny study, built once with real GPTQModel and real vLLM; tests leave its files as they found them."""
    copy = Copy(tmp_path_factory.mktemp("built") / "repository")
    copy.build()
    return copy


@pytest.fixture
def study(built: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built study as hard links, the working folder; whoever alters a file unlinks it first."""
    root = tmp_path / "repository"
    ignored = shutil.ignore_patterns(".snakemake", "__pycache__", "logs", "timings")
    shutil.copytree(built.root, root, symlinks=True, ignore=ignored, copy_function=os.link)
    monkeypatch.chdir(root)
    return root


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each fault of tests/test_faults.py cost, summed over its trials."""
    totals: dict[str, list[int]] = {}
    for report in (r for outcome in ("passed", "failed") for r in terminalreporter.stats.get(outcome, [])):
        for name, values in report.user_properties:
            if name == "fault" and report.when == "call":
                fault, *counts = values
                totals[fault] = [a + b for a, b in zip(totals.get(fault, [0] * 5), [1, *map(int, counts)], strict=True)]
    if totals:
        terminalreporter.section("faults")
        row = "{:<34} {:>6} {:>21} {:>5} {:>9} {:>12}"
        terminalreporter.line(
            row.format("fault", "trials", "finished before rerun", "lost", "repeated", "tables equal")
        )
        for fault, numbers in totals.items():
            terminalreporter.line(row.format(fault, *numbers))
