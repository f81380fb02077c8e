"""Write config/README.md and scripts/report/README.md from the schemas: python -m scripts.run.describe"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import yaml

from scripts.run.read import SCHEMAS

FILES = {
    "config": "config.yaml",
    "model": "models/NAME.yaml",
    "datasets": "datasets.tsv",
    "quantizers": "quantizers.yaml",
    "discourage": "discourage/NAME.yaml",
}
HEAD = """# Configuration

Every key of the files in this folder. Made from `schemas/` by `make docs`; edit those, not this.

A study's config is one file: `config.yaml` by default, another with `snakemake --configfile FILE`. Unknown keys and
names, and all else that can be wrong, are refused before any work is spent.
"""

TABLES = """# Tables

What each Parquet file below `results/report/{study}/` holds; pandas, pyarrow, DuckDB and polars read them as they are.
Made from the schemas of the scripts beside this file by `make docs`; edit those, not this. Each file carries the
meanings of its columns in its metadata, and under `verdict` whether it rests on `correct` or on `correct_final`
(a study's key in its config).
"""


def resolved(schema: dict, root: dict) -> dict:
    """The schema with its reference, if it has one, filled in; its own keys win."""
    if "$ref" not in schema:
        return schema
    target = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return resolved(target, root) | schema


def kind(schema: dict) -> str:
    """What a value may be, in a few words."""
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(f"`{option['const']}`" if "const" in option else kind(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return "list of " + schema["items"].get("type", "mapping") + "s"
    limits = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    default = [f"default `{str(schema['default']).lower()}`"] if "default" in schema else []
    return ", ".join([schema.get("type", ""), *limits, *default])


def rows(schema: dict, root: dict, path: str = "") -> Iterator[str]:
    """A line for each key below a schema, depth first."""
    schema = resolved(schema, root)
    if schema.get("type") == "array":
        yield from rows(schema["items"], root, f"{path}[]")
    children: dict[str, Any] = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        children["*"] = schema["additionalProperties"]
    for name, value in children.items():
        child = resolved(value, root)
        key = f"{path}.{name}".lstrip(".")
        if "description" in child:
            yield f"| `{key}` | {kind(child)} | {child['description']} |"
        yield from rows(child, root, key)


def document() -> str:
    parts = [HEAD]
    for name, file in FILES.items():
        schema = yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8"))
        parts.append(f"## {file}\n\n{schema['description']}\n")
        parts.append("\n".join(["| key | value | meaning |", "|---|---|---|", *rows(schema, schema)]) + "\n")
    return "\n".join(parts)


def table_modules() -> dict[str, ModuleType]:
    """The module of each table, by the table's name."""
    names = sorted(path.stem for path in Path("scripts/report").glob("[a-z]*.py"))
    modules = {name: importlib.import_module(f"scripts.report.{name}") for name in names}
    return {name: module for name, module in modules.items() if isinstance(getattr(module, "SCHEMA", None), pa.Schema)}


def tables() -> str:
    parts = [TABLES]
    for name, module in table_modules().items():
        parts.append(f"## {name}\n\n{module.__doc__.strip()}\n")
        lines = [f"| `{c.name}` | {c.type} | {c.metadata[b'meaning'].decode()} |" for c in module.SCHEMA]
        parts.append("\n".join(["| column | type | meaning |", "|---|---|---|", *lines]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path("config/README.md").write_text(document(), encoding="utf-8")
    Path("scripts/report/README.md").write_text(tables(), encoding="utf-8")
