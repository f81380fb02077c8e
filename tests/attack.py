"""The tests that attack, counted by what they attack: python -m tests.attack (make attack).

As root all run twice, the second time as an ordinary user; who is no root runs them as himself and is told so. In the
end right programs run beside two that do nothing but start threads.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from scripts.score import _bubblewrap
from scripts.score._code import Trial
from tests.conftest import ROOT
from tests.test_sandbox import storms

AREAS = {
    "sandbox": ("test_sandbox", "test_reach", "test_full"),
    "audit": ("test_hostile", "test_tamper"),
    "hub, models and data sets": (
        "test_fetch",
        "test_from_hub",
        "test_weights",
        "test_prompts",
        "test_rows",
        "test_livecodebench",
    ),
    "page": ("test_page", "test_html"),
    "configuration": ("test_config",),
    "leases and locks": ("test_lease", "test_devices"),
    "packages": ("test_setup",),
}
USER = "65534"
PROGRAMS = 500


class Count:
    """A plugin of pytest: how many tests there were of each file, by outcome."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found[Path(report.location[0]).stem, report.outcome] += 1


def attack() -> bool:
    """Run the tests as who we are, print what held, and say whether all did."""
    count = Count()
    files = [f"tests/{name}.py" for names in AREAS.values() for name in names]
    pytest.main(["--quiet", "-p", "no:cacheprovider", *files], plugins=[count])
    table = Table(title=f"attacks as {'root' if os.geteuid() == 0 else 'an ordinary user'}")
    for column in ("on", "tried", "held", "failed", "left out"):
        table.add_column(column, justify="left" if column == "on" else "right")
    totals: Counter[str] = Counter()
    for area, names in AREAS.items():
        of_area = Counter({o: sum(count.found[name, o] for name in names) for o in ("passed", "failed", "skipped")})
        totals += of_area
        table.add_row(area, *cells(of_area))
    table.add_section()
    table.add_row("all", *cells(totals))
    right = storms(PROGRAMS).count(Trial(True, "ok"))
    console = Console(width=100)
    console.print(table)
    console.print(f"right programs beside storms of threads: {right} of {PROGRAMS} judged right\n")
    return totals["passed"] > 0 and not totals["failed"] and right == PROGRAMS


def cells(found: Counter[str]) -> list[str]:
    tried = found["passed"] + found["failed"]
    return [f"{number:,}" for number in (tried, found["passed"], found["failed"], found["skipped"])]


def as_ordinary_user(folder: Path) -> int:
    """Run this program as `USER`, in a copy of the repository; its exit code.

    The interpreter may lie in root's home, where nobody else may enter: in a view of the files without the rest of it.
    """
    copy = folder / "repository"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "results", "__pycache__"))
    subprocess.run(["chown", "--recursive", f"{USER}:{USER}", str(folder)], check=True)
    needed = {Path(sys.base_prefix), Path(sys.prefix)}
    below = [path for path in needed if Path.home() in path.parents]
    home = ["--tmpfs", str(Path.home())] if below else []
    return subprocess.run(
        [
            *("bwrap", "--dev-bind", "/", "/", *home, *_bubblewrap._folders(*below)),
            *("--cap-add", "ALL", "--chdir", str(copy)),
            *(word for path in below for word in ("--ro-bind", str(path), str(path))),
            *("setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"),
            *(sys.executable, "-m", "tests.attack"),
        ],
        check=False,
        env=os.environ
        | {"TRIED_AS_ROOT": "1", "HOME": str(folder), "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    ).returncode


def main() -> None:
    held = attack()
    if os.geteuid():
        if "TRIED_AS_ROOT" not in os.environ:
            Console(width=100).print("not tried as root: run by root, this tries both")
    else:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            held = as_ordinary_user(Path(folder)) == 0 and held
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
