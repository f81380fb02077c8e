"""Why two artifacts, two results folders or two rows differ: what matters most first."""

import difflib
import hashlib
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from scripts.audit._records import STAGES, Results, in_order, lineage, read_results, record_of, select
from scripts.run.errors import UserError, printable

GROUPS = ("row", "code", "parameters", "inputs", "packages", "hardware", "outcome")  # what matters most comes first
HARDWARE = ("cpu", "gpus", "cuda", "os", "host", "slurm")
OUTCOME = ("outputs", "facts", "wall_seconds", "cpu_seconds", "peak_memory_bytes")
CELL = ("model", "quantizer", "scheme")
SHOWN_LINES = 40  # of the changes of one file
SHOWN_ARTIFACTS = 3
ABSENT = "absent"


@dataclass
class Difference:
    """One thing that differs, the artifacts in whose records it does, and the commits at which these were made."""

    group: str
    what: str
    one: str
    other: str
    artifacts: list[str] = field(default_factory=list)
    commits: set[str] = field(default_factory=set)


def of_artifacts(one: Path, other: Path) -> list[Difference]:
    """What differs between the making of two artifacts, named by a file of theirs or their record.

    Raises:
        UserError: no such artifact.
    """
    (first, name, _), (second, other_name, _) = _find(one), _find(other)
    return _compare(first, second, [(name, other_name)])


def of_folders(one: Path, other: Path) -> list[Difference]:
    """What differs between artifacts of the same name in two results folders, but not what follows from it.

    Raises:
        UserError: a folder has no records.
    """
    first, second = read_results(one), read_results(other)
    names = in_order(first.artifacts.keys() | second.artifacts.keys())
    pairs = [(name, name) for name in names if _digest(first, name) != _digest(second, name)]
    return [difference for difference in _compare(first, second, pairs) if difference.group != "outcome"]


def of_rows(one: Path, where: str, other: Path, other_where: str) -> list[Difference]:
    """What differs between two rows, and between what they go back to.

    Raises:
        UserError: no such table, or not exactly one row.
    """
    rows, sides = [], []
    for path, condition in ((one, where), (other, other_where)):
        results, name, _ = _find(path)
        chosen = select(path, condition)
        if len(chosen) != 1:
            raise UserError(f"{path}: {len(chosen)} rows with {condition}; choose one")
        rows.append({column: str(value) for column, value in chosen[0].items()})
        sides.append((results, _roles(results, lineage(results, name, chosen), chosen[0])))
    (first, roles), (second, other_roles) = sides
    pairs = [(roles.get(role), other_roles.get(role)) for role in dict.fromkeys([*roles, *other_roles])]
    pairs = [(a, b) for a, b in pairs if a is None or b is None or _digest(first, a) != _digest(second, b)]
    found = [difference for difference in _compare(first, second, pairs) if difference.group != "outcome"]
    return [Difference("row", *change) for change in _changes(*rows)] + found


def _find(path: Path) -> tuple[Results, str, dict]:
    """The results folder that an artifact lies in, its name and its record."""
    for folder in path.resolve().parents:
        if path.resolve().relative_to(folder).parts[0] in STAGES:
            try:
                results = read_results(folder)
                return results, *record_of(results, path)
            except UserError:
                continue  # a model, say, with the name of a stage
    raise UserError(f"{path}: no artifact with a record; name a file or checkpoint below a results folder")


def _digest(results: Results, name: str) -> str:
    return results.artifacts[name]["outputs"][name] if name in results.artifacts else ABSENT


def _roles(results: Results, names: dict, row: dict) -> dict[tuple, str]:
    """Artifacts by what they are to a row: stage, keys other than the cell's, of the row's own cell or not."""
    roles = {}
    for name in names:
        record = results.artifacts[name]
        keys = tuple(value for key, value in record["wildcards"].items() if key not in CELL)
        own = all(record["wildcards"].get(key, row.get(key)) == row.get(key) for key in CELL)
        roles[record["rule"], keys, own] = name
    return roles


def _compare(first: Results, second: Results, pairs: list[tuple[str | None, str | None]]) -> list[Difference]:
    """What differs between the records of pairs of artifacts, most important first.

    An input that is itself one of several pairs is left out: what it differs in is told.
    """
    told = {name for pair in pairs for name in pair} if len(pairs) > 1 else set()
    found: dict[tuple, Difference] = {}
    for one, other in pairs:
        records = first.artifacts.get(one), second.artifacts.get(other)
        if None in records:
            found[one, other] = Difference(
                "inputs", one or other, *("there" if record else ABSENT for record in records)
            )
            continue
        for group, change in _of_records(*records):
            if not (group == "inputs" and change[0] in told):
                difference = found.setdefault((group, change), Difference(group, *change))
                difference.artifacts.append(other)
                difference.commits |= {record["git"]["commit"] or "" for record in records}
    return sorted(found.values(), key=lambda difference: GROUPS.index(difference.group))


def _of_records(one: dict, other: dict) -> list[tuple[str, tuple[str, str, str]]]:
    """Group and change for each difference of two records."""
    parts = {
        "code": lambda r: r["code"],
        "parameters": lambda r: _leaves(r["wildcards"] | r["parameters"]),
        "inputs": lambda r: r["inputs"],
        "packages": lambda r: r["packages"] | {"python": r["python"], r["lock"]["path"]: r["lock"]["sha256"]},
        "hardware": lambda r: _leaves({key: r[key] for key in HARDWARE}),
        "outcome": lambda r: _leaves({key: r[key] for key in OUTCOME}),
    }
    return [(group, change) for group, of in parts.items() for change in _changes(of(one), of(other))]


def _leaves(value: dict, path: str = "") -> dict[str, str]:
    """A nested mapping as one from dotted keys to text."""
    found = {}
    for key, child in value.items():
        name = f"{path}.{key}".lstrip(".")
        found |= _leaves(child, name) if isinstance(child, dict) and child else {name: str(child)}
    return found


def _changes(one: dict[str, str], other: dict[str, str]) -> list[tuple[str, str, str]]:
    """(key, one, other) where two mappings differ."""
    both = [(key, one.get(key, ABSENT), other.get(key, ABSENT)) for key in dict.fromkeys([*one, *other])]
    return [change for change in both if change[1] != change[2]]


def show(differences: list[Difference], console: Console) -> None:
    """Print differences by group, with the changed lines of code where git or the working folder has both files."""
    group = ""
    for difference in differences:
        if difference.group != group:
            group = difference.group
            console.print(Text(group, "bold"))
        values = [re.sub(r"^([0-9a-f]{16})[0-9a-f]{48}$", r"\1", text) for text in (difference.one, difference.other)]
        names = difference.artifacts[:SHOWN_ARTIFACTS]
        if len(difference.artifacts) > SHOWN_ARTIFACTS:
            names.append(f"and {len(difference.artifacts) - SHOWN_ARTIFACTS:,} more")
        line = f"  {difference.what}: {' → '.join(values)}" + (f"  ({', '.join(names)})" if names else "")
        console.print(Text(printable(line)), soft_wrap=True)
        lines = changed_lines(difference) if group == "code" else []
        for line in lines[:SHOWN_LINES]:
            console.print(
                Text(f"    {printable(line)}", {"+": "green", "-": "red"}.get(line[:1], "dim")), soft_wrap=True
            )
        if len(lines) > SHOWN_LINES:
            console.print(f"    … {len(lines) - SHOWN_LINES:,} lines more")


def changed_lines(difference: Difference) -> list[str]:
    """The changed lines of a code file, one line of context around them; empty where a version is nowhere to be had."""
    versions = [_content(difference.what, digest, difference.commits) for digest in (difference.one, difference.other)]
    if None in versions:
        return []
    return list(difflib.unified_diff(*(text.splitlines() for text in versions), n=1, lineterm=""))[2:]


def _content(path: str, digest: str, commits: set[str]) -> str | None:
    """A code file with that digest, from the commits at which it was used or the working folder."""
    contents = [Path(path).read_bytes()] if Path(path).is_file() else []
    for commit in commits:
        if re.fullmatch("[0-9a-f]{40,64}", commit):
            done = subprocess.run(["git", "show", f"{commit}:{path}"], check=False, capture_output=True)
            contents += [done.stdout] if done.returncode == 0 else []
    return next((c.decode(errors="replace") for c in contents if hashlib.sha256(c).hexdigest() == digest), None)
