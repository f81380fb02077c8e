"""One row of a table again: the least that rebuilds it, in a fresh folder, and a comparison with what was recorded."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from scripts.audit._making import wrong
from scripts.audit._records import BASELINE, Results, lineage, record_of, select
from scripts.run.config import OF_SUITE
from scripts.run.errors import UserError
from scripts.run.files import sha256
from scripts.run.machine import versions
from scripts.table import SAMPLE_COLUMNS, read_rows

REPOSITORY = ("Snakefile", "rules", "scripts", "config", "profiles", "envs", "resources")
CONFIG = "config/reproduce.yaml"
SUITE = ("seeds", "max_model_len", "paper_seeds")  # the rest is the model's, or one of
SAMPLING = {"": ("temperature", "top_p"), "recommended": ("sampling",)}
CORPUS = ("sequences", "length", "seed", "cut")
CELL = {"model", "quantizer", "scheme", "suite", "benchmark"}
KEYS = {"study", *(column.name for column in SAMPLE_COLUMNS)}


def prepare(results: Results, table: Path, where: str, folder: Path) -> tuple[str, dict]:
    """Fill a fresh folder with the code and the configuration that one row needs; name of its table, and the row.

    The code is the working folder's if it is what the row was made by, else that of the commit that it was made at.

    Raises:
        UserError: not one row of a table, the folder exists, or the code is neither here nor in git.
    """
    name, record = record_of(results, table)
    rows = select(table, where)
    if record["rule"] != "report" or len(rows) != 1 or CELL - rows[0].keys():
        raise UserError(f"{table}: {len(rows)} rows with {where}; choose one row, of a cell and benchmark, of a table")
    if folder.exists():
        raise UserError(f"{folder} exists; name another place, or remove it")
    records = [results.artifacts[artifact] for artifact in lineage(results, name, rows)]
    for one in records:
        if why := wrong(one):
            raise UserError(f"{min(one['outputs'])}: its record {why}: see `verify`")
    _place_code(records, folder)
    config = configuration(records, rows[0], record["wildcards"]["study"])
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return name, rows[0]


def _place_code(records: list[dict], folder: Path) -> None:
    code = {(path, digest) for record in records for path, digest in record["code"].items()}

    def changed(root: Path) -> list[str]:
        return sorted(p for p, digest in code if not (root / p).is_file() or sha256(root / p) != digest)

    if not changed(Path()):
        for name in REPOSITORY:
            copy = shutil.copytree if Path(name).is_dir() else shutil.copy2
            folder.mkdir(parents=True, exist_ok=True)
            copy(name, folder / name)
        return
    commits = {record["git"]["commit"] for record in records}
    if len(commits) != 1 or not re.fullmatch("[0-9a-f]{40,64}", commit := commits.pop() or ""):
        raise UserError(f"{changed(Path())[0]} is not what it was, and the row was not made at one commit: see `diff`")
    clone = ["clone", "--quiet", "--no-checkout", ".", str(folder)]
    for command in (clone, ["-C", str(folder), "checkout", "--quiet", commit]):
        done = subprocess.run(["git", *command], check=False, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise UserError(f"commit {commit} cannot be had: {done.stderr.strip()}")
    if missing := changed(folder):
        raise UserError(f"{missing[0]} was not committed as it was used; at commit {commit} it differs")


def configuration(records: list[dict], row: dict, study: str) -> dict[str, Any]:
    """A study of the row's cell and the baseline, as the records of all behind the row say.

    Of the suites only the row's benchmark and seed are kept, if it has these.
    """
    by_rule: dict[str, list[dict]] = {}
    for record in records:
        by_rule.setdefault(record["rule"], []).append(record)
    config: dict[str, Any] = {"studies": {}, "suites": {}, "corpora": {}}
    asked = set()
    for record in by_rule["generate"]:
        suite = record["wildcards"]["suite"]
        questions = [Path(name).stem for name in record["inputs"] if name.startswith("results/questions/")]
        recorded = record["parameters"]["settings"]
        stated = (*SUITE, *SAMPLING[recorded["sampling"]], *(key for key in OF_SUITE if key in recorded))
        settings = {key: recorded[key] for key in stated}
        if "discourage" in settings:
            settings["discourage"] = settings["discourage"]["name"]
        if any(scored["wildcards"]["suite"] == suite for scored in by_rule["score"]):
            asked.add(suite)
            questions = [row["benchmark"]] if row["benchmark"] in questions else questions
            settings["seeds"] = [row["seed"]] if "seed" in row else settings["seeds"]
        if isinstance(counts := settings.pop("questions", None), dict):
            counts = {name: count for name, count in counts.items() if name in questions}
        settings |= {"questions": counts} if counts else {}
        config["suites"][suite] = {"benchmarks": questions} | settings
    for record in by_rule.get("calibrate", []):
        source = Path(next(name for name in record["inputs"] if not name.endswith("/checkpoint")))
        origins = {"generate": {"suite": source.stem}, "datasets": {"dataset": source.parent.name}}
        stage = source.parts[1] if source.parts[0] == "results" else "text"
        settings = {key: record["parameters"]["settings"][key] for key in CORPUS}
        config["corpora"][record["wildcards"]["corpus"]] = origins.get(stage, {"text": str(source)}) | settings
    baseline = "/".join(BASELINE.values())
    schemes = list(dict.fromkeys([baseline, f"{row['quantizer']}/{row['scheme']}"]))
    config["studies"][study] = {"suites": sorted(asked), "grid": [{"models": [row["model"]], "schemes": schemes}]}
    for stage in ("models", "datasets"):
        for record in by_rule.get(stage, []):
            (name,), settings = record["wildcards"].values(), record["parameters"]["settings"]
            if copy := settings.get("local"):
                part = {"path": copy, "rows": settings["rows"]} if stage == "datasets" else copy
                config.setdefault("local", {}).setdefault(stage, {})[name] = part
    if any(record["parameters"].get("settings", {}).get("unsafe_code") for record in by_rule["score"]):
        config["unsafe_code"] = True
    return config


def changed_packages(results: Results, table: str) -> list[str]:
    """Packages whose version here is not that of the record of a table."""
    here, then = versions(), results.artifacts[table]["packages"]
    changed = (name for name in sorted(here | then) if here.get(name) != then.get(name))
    return [f"{name} {then.get(name, 'absent')} → {here.get(name, 'absent')}" for name in changed]


def run(folder: Path, table: str, *options: str) -> None:
    """Run snakemake for one table in a folder.

    Raises:
        UserError: it failed; what it said is on standard error.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--configfile", CONFIG, *options, "--", table]
    if subprocess.run(command, check=False, cwd=folder, env=environment).returncode:
        raise UserError(f"{folder}: the row could not be rebuilt; see above and {folder}/results/logs")


def compare(folder: Path, table: str, row: dict) -> dict[str, tuple[Any, Any]]:
    """Recorded and rebuilt value of each column of a row that is no key.

    Raises:
        UserError: the rebuilt table has no such row.
    """
    keys = row.keys() & KEYS
    rebuilt = [other for other in read_rows(folder / table) if all(other[key] == row[key] for key in keys)]
    if not rebuilt:
        raise UserError(f"{folder / table}: the row is not in it; see `diff`")
    return {column: (row[column], rebuilt[0][column]) for column in row if column not in KEYS}
