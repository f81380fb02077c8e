"""Files, arguments and output are UTF-8, whatever the locale of the machine."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.run.record import record_path
from tests.conftest import ROOT, Copy

# The charsets are those of real machines; without Python's own help the locale C is one too.
CHARSETS = {"en_US": "ISO-8859-1", "zh_CN": "GB18030", "C": "ANSI_X3.4-1968"}


@pytest.fixture(params=CHARSETS)
def locale(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Environment of a locale, compiled here, in which Python reads and writes another charset than UTF-8."""
    name, folder = request.param, tmp_path / "locales"
    folder.mkdir()
    if name != "C":
        done = subprocess.run(
            ["localedef", "-i", name, "-f", CHARSETS[name], str(folder / name)], check=False, capture_output=True
        )
        if not (folder / name).exists():
            pytest.skip(f"no sources of the locale {name} on this machine: {done.stderr[-200:]}")
    environment = {"LOCPATH": str(folder), "LC_ALL": name, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ask = "import locale; print(locale.getpreferredencoding())"
    answer = subprocess.run(
        [sys.executable, "-c", ask], check=True, capture_output=True, text=True, env=os.environ | environment
    )
    assert answer.stdout.strip() == CHARSETS[name]
    return environment


def test_the_study_is_planned_run_and_traced(copy: Copy, locale: dict[str, str]):
    """With a configuration, a text, a table and a record that hold more than ASCII."""
    config, plain = copy.root / "config/tiny.yaml", copy.root / "resources/calibrate/plain.txt"
    config.write_text("# 模型 – größer als “7B”\n" + config.read_text(), encoding="utf-8")
    plain.write_text("größer, 大きい ≥ “7” €\n" + plain.read_text(encoding="utf-8"), encoding="utf-8")
    models = copy.root / "config/models/tiny-qwen-s.yaml"
    models.write_text(models.read_text(encoding="utf-8").replace("trained here", "hier geübt ≥ 1×"), encoding="utf-8")
    planned = copy.snakemake("--dry-run", **locale)
    assert planned.returncode == 0, planned.stderr[-3000:]
    target = "results/calibrate/tiny-qwen-s/plain.parquet"
    done = copy.snakemake("--cores", "1", "--", target, **locale)
    assert done.returncode == 0, done.stderr[-3000:]
    assert record_path(copy.root / target).exists()
    traced = subprocess.run(
        [sys.executable, "-m", "scripts.audit", "trace", target],
        cwd=copy.root, check=False, capture_output=True, env=os.environ | {"PATH": copy.path} | locale,
    )  # fmt: skip
    assert traced.returncode == 0, traced.stderr[-3000:]
    assert " × " in traced.stdout.decode("utf-8")


def test_refusals_are_readable(copy: Copy, locale: dict[str, str]):
    config = copy.root / "config/tiny.yaml"
    config.write_text(config.read_text().replace("rtn/w3", "rtn/größer", 1), encoding="utf-8")
    done = copy.snakemake("--dry-run", **locale)
    assert done.returncode == 1
    assert "unknown quantizer/scheme 'rtn/größer'" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def reads_or_writes_text(call: ast.Call) -> bool:
    """Calls of `open`, `Path.open`, `read_text` and `write_text` that are not for bytes."""
    method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if method else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return True
    if name != "open" or (method and ast.unparse(call.func.value) == "os"):
        return False
    mode = [word.value for word in call.keywords if word.arg == "mode"] or call.args[0 if method else 1 :]
    return not mode or "b" not in ast.literal_eval(mode[0])


def test_every_file_is_opened_with_its_encoding():
    """Also by the stages that no test runs in another locale."""
    files = [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "rules").glob("*.smk")]
    calls = 0
    for path in files:
        if path.suffix == ".smk":
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "open(" in line]
            assert all("encoding=" in line for line in lines), path
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and reads_or_writes_text(node):
                calls += 1
                assert any(word.arg == "encoding" for word in node.keywords), f"{path}:{node.lineno}"
    assert calls > 50
