"""Where a number, an artifact or a single sample comes from: down to revisions, questions, code, lock and machine."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from scripts.audit._records import Results, in_order, is_source, lineage, record_of, select
from scripts.generate.store import SAMPLES, checkpoint_digest, segments
from scripts.run.errors import printable
from scripts.run.files import sha256
from scripts.table import SAMPLE_COLUMNS

KEYS = [field.name for field in SAMPLE_COLUMNS]
SHOWN_ROWS = 20
TOLD = (
    "messages",
    "gold",
    "prompt",
    "output",
    "extracted",
    "correct",
    "correct_final",
    "status",
    "drawn_by",
    "segment",
)


def trace(results: Results, path: Path, where: str | None = None) -> dict[str, Any]:
    """All that an artifact, or the rows of it for which `where` holds, goes back to.

    Returns:
        `root`, its name; `rows`, those chosen; `artifacts`, name → its record and the names of those `inputs` that the
        rows go back to; `sources`, name → digest of each file of the repository that went in; `gaps`, what has no
        record and is no file either; `sample`, where one single row is or judges one: question, prompt, output and
        verdict.

    Raises:
        UserError: no such artifact, or no such row.
    """
    root, _ = record_of(results, path)
    rows = select(path, where) if where else []
    edges = lineage(results, root, rows)
    leaves = {name for inputs in edges.values() for name in inputs} - edges.keys()
    files = [name for name in in_order(leaves) if is_source(results, name) and results.path(name).is_file()]
    single = len(rows) == 1 and rows[0].keys() >= set(KEYS)
    return {
        "root": root,
        "rows": rows,
        "artifacts": {name: {"record": results.artifacts[name], "inputs": edges[name]} for name in in_order(edges)},
        "sources": {name: sha256(results.path(name)) for name in files},
        "gaps": in_order(leaves - set(files)),
        "sample": _sample(results, rows[0]) if single else None,
    }


def _sample(results: Results, row: dict) -> dict[str, Any]:
    """Question, prompt, output and verdict of one row of samples or scores; None where there is none."""
    keys = {key: row[key] for key in KEYS}

    def look(name: str, keys: dict) -> dict | None:
        if not results.path(name).is_file():
            return None
        wanted = [(key, "==", value) for key, value in keys.items()]
        return next(iter(pq.read_table(results.path(name), filters=wanted).to_pylist()), None)

    cell = "/".join(keys[key] for key in ("model", "quantizer", "scheme"))
    samples = f"results/generate/{cell}/{keys['suite']}.parquet"
    drawn = look(samples, keys)
    return {
        "question": look(f"results/questions/{keys['benchmark']}.parquet", {"id": keys["id"]}),
        "sample": drawn | _run(results, samples, drawn["sample"]) if drawn and samples in results.artifacts else drawn,
        "verdict": look(f"results/score/{cell}/{keys['suite']}/{keys['benchmark']}.parquet", keys),
    }


def _run(results: Results, samples: str, sample: str) -> dict[str, Any]:
    """The run that drew a sample, which may be older than the artifact, as its segment of the store tells."""
    inputs = results.artifacts[samples]["inputs"]
    checkpoint = next(results.path(name) for name in inputs if name.endswith("/checkpoint"))
    for segment in segments(results.path(str(SAMPLES / checkpoint_digest(checkpoint)))):
        if pq.read_table(segment, columns=["sample"], filters=[("sample", "==", sample)]).num_rows:
            return {"drawn_by": json.loads(pq.read_schema(segment).metadata[b"run"]), "segment": str(segment)}
    return {}


def show(found: dict[str, Any], console: Console) -> None:
    """Print what `trace` found; text that a model wrote cannot steer the terminal."""
    if rows := found["rows"]:
        table = Table("", *[f"row {number}" for number in range(1, len(rows) + 1)][:SHOWN_ROWS])
        for column in (c for c in rows[0] if c not in ("prompt", "output")):
            table.add_row(Text(printable(column)), *[Text(printable(row[column])) for row in rows[:SHOWN_ROWS]])
        if len(rows) <= SHOWN_ROWS:
            console.print(table)
        else:
            console.print(f"{len(rows):,} rows")
    for title, part in (found["sample"] or {}).items():
        for column, value in (part or {}).items():
            if column in TOLD:
                console.print(Text(printable(f"{title}.{column}"), "bold"), Text(printable(value)), sep="\n")
    console.print(_tree(found, found["root"], set()))
    records = [artifact["record"] for artifact in found["artifacts"].values()]
    code = {path: digest for record in records for path, digest in record["code"].items()}
    machines = {
        f"{record['host'] or 'a host left out'}: {record['cpu']['cores']} × {record['cpu']['model']}, "
        f"{', '.join(gpu['name'] for gpu in record['gpus']) or 'no GPU'}, {record['os']}, Python {record['python']}"
        for record in records
    }
    parts = {
        "revisions": {
            f"{name} at {revision}"
            for record in records
            if record["rule"] in ("models", "published", "datasets")
            for name, revision in record["sources"].items()
        },
        "code": {f"{path}  {digest[:16]}" for path, digest in code.items()},
        "commits": {_commit(record) for record in records},
        "lock": {f"{record['lock']['path']}  {record['lock']['sha256'][:16]}" for record in records},
        "packages": {" ".join(f"{n} {v}" for n, v in record["packages"].items()) for record in records},
        "machines": machines,
        "gaps": set(found["gaps"]),
    }
    for title, lines in parts.items():
        if lines:
            console.print(Text(title, "bold"))
            for line in sorted(lines):
                console.print(Text(f"  {printable(line)}"), soft_wrap=True)


def _commit(record: dict) -> str:
    commit, changes = record["git"]["commit"], record["git"]["uncommitted"]
    return (commit or "no git") + (f" with uncommitted changes ({changes[:16]})" if changes else "")


def _tree(found: dict[str, Any], name: str, told: set[str]) -> Tree:
    """An artifact and what it was made from; what stands further up is not told again."""
    artifact = found["artifacts"].get(name)
    if artifact is None:
        digest = printable(found["sources"].get(name, "no record")[:16])
        return Tree(Text.assemble((printable(name), "bold"), f"  {digest}"))
    record = artifact["record"]
    label = Text.assemble((printable(name), "bold"), f"  {printable(record['outputs'][name][:16])}")
    if name in told:
        return Tree(Text.assemble(label, "  (see above)"))
    told.add(name)
    job = record["slurm"].get("SLURM_JOB_ID")
    made = (
        f"{record['module']}, {record['start'][:19]}, {record['wall_seconds']:.1f} s on {record['host'] or 'a host'}"
        f"{f', Slurm job {job}' if job else ''}, {len(record['code'])} code files"
    )
    settings = record["parameters"].get("settings", {})
    short = [f"{key} {value}" for key, value in settings.items() if value not in ("", {}) and len(str(value)) < 60]
    facts = [f"{key} {value}" for key, value in record["facts"].items() if len(str(value)) < 60]
    details = [Text(printable(line), "dim") for line in (made, ", ".join(short), ", ".join(facts)) if line]
    tree = Tree(Group(label, *details))
    for source in in_order(artifact["inputs"]):
        tree.children.append(_tree(found, source, told))
    return tree
