"""Reading the files of config/, each against its schema: what is wrong is named with the file, the key and the cure."""

import csv
import difflib
import functools
import math
import re
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from scripts.run.errors import UserError
from scripts.run.imports import code_files

SCHEMAS = Path("config/schemas")
MODELS = Path("config/models")  # a file each
QUANTIZERS = Path("config/quantizers.yaml")
DATASETS = Path("config/datasets.tsv")
MODEL_NAME = r"[a-z0-9][a-z0-9.-]*"
LARGEST = 100_000  # values of a file, written out
REPOSITORY = r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)"  # OWNER/NAME
PUBLISHED = re.compile(
    rf"{REPOSITORY}@(?P<revision>[0-9a-f]{{40}})(?::(?P<file>[\w.-]+(?:/[\w.-]+)*\.gguf))?",
    re.ASCII,
)


def _check_plain(value: Any, source: str, where: str = "") -> None:
    """Refuse what a schema lets pass: numbers that are none or endless, and characters that steer a terminal or a path.

    Raises:
        UserError: names the place of the value, or the key.
    """
    if isinstance(value, dict):
        for key, child in value.items():
            _check_plain(key, source, where)
            _check_plain(child, source, f"{where}.{key}".strip("."))
    elif isinstance(value, list):
        for child in value:
            _check_plain(child, source, where)
    elif isinstance(value, str) and not value.isprintable():
        raise UserError(
            f"{source}: {where or 'the top level'}: {value!r} holds a character that is not printed: remove it"
        )
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{source}: {where}: {value} is no number that can be used: write one")


def validate(document: Any, schema: str, source: str) -> None:
    _check_plain(document, source)
    path = SCHEMAS / f"{schema}.schema.yaml"
    errors = list(_validator(path).iter_errors(document))
    if not errors:
        return
    # A misspelt key is not only unknown, the right one is missing too.
    error = next((error for error in errors if error.validator == "additionalProperties"), None) or best_match(errors)
    where = ".".join(str(part) for part in error.absolute_path) or "the top level"
    message = f"{source}: {where}: {error.message}"
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        message = f"{source}: {where}: unknown key {unknown!r}{suggest(unknown, known)}"
    raise UserError(f"{message} (see {path})")


@functools.cache
def _validator(path: Path) -> Draft202012Validator:
    return Draft202012Validator(yaml.safe_load(path.read_text(encoding="utf-8")))


def suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def known(name: str, known: Any, where: str, what: str) -> None:
    if name not in known:
        raise UserError(f"{where}: unknown {what} {name!r}{suggest(name, list(known))}")


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand only once, and a day is a text like any other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{self.name}: line {node.start_mark.line + 1}: key {key!r} stands twice; remove one")
        return super().construct_mapping(node, deep)


_StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def read_yaml(path: Path, text: str | None = None) -> dict:
    """A file of keys and values, or what it is to hold."""
    try:
        loader = _StrictLoader(path.read_text(encoding="utf-8") if text is None else text)
        loader.name = str(path)
        document = loader.get_single_data()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; restore it") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a mapping of keys to values; see {SCHEMAS}")
    if _size(document, {}) > LARGEST:
        raise UserError(f"{path}: its aliases (*name) stand for more than {LARGEST:,} values: write out what is meant")
    return document


def _size(value: Any, known: dict[int, float]) -> float:
    """Values in a document as they would be written out; endless where it holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(child, known) for child in children)
    return known[id(value)]


def read_models(texts: dict[Path, str] | None = None) -> dict[str, dict]:
    """Choices and facts of every model by its name, without levels, each with its `source` and what is `local`.

    Args:
        texts: what the files hold; None: read them.

    Raises:
        UserError: names the file and the key.
    """
    schema = _validator(SCHEMAS / "model.schema.yaml").schema["properties"]
    defaults = {key: value["default"] for key, value in schema.items() if "default" in value}
    models = {}
    for path in texts or sorted(MODELS.glob("*.yaml")):
        if not re.fullmatch(MODEL_NAME, path.stem):
            raise UserError(f"{path}: a model's name is lower-case letters, digits, dots and hyphens: rename the file")
        document = read_yaml(path, texts[path] if texts else None)
        validate(document, "model", str(path))
        try:
            date.fromisoformat(document.get("date") or "2026-01-31")
        except ValueError:
            raise UserError(f"{path}: date: {document['date']} is no day") from None
        for benchmark in document.get("expected", {}):
            known(benchmark, files("questions"), f"{path}: expected", "benchmark")
        facts = document.pop("facts")
        _check_origin(document, facts["revision"], path)
        published = {name: published_at(at, name, path) for name, at in document.pop("published", {}).items()}
        source = document.pop("trained_by", "hub")
        local = document.pop("folder", "")
        code_files(f"scripts.models.{source}")
        places = {"repository": "", "source": source, "local": local, "published": published}
        models[path.stem] = places | defaults | facts | document
    return models


def _check_origin(document: dict, revision: str, path: Path) -> None:
    """A model comes from one place, at what is a revision there."""
    places = {"repository": "[0-9a-f]{40}", "folder": "[0-9a-f]{64}", "trained_by": r"\d+"}
    named = [place for place in places if place in document]
    if len(named) != 1:
        raise UserError(f"{path}: it must have one of {', '.join(places)}, not {' and '.join(named) or 'none'}")
    if not re.fullmatch(places[named[0]], revision):
        raise UserError(
            f"{path}: facts.revision: {revision!r} is none of a {named[0]}: `python -m scripts.models.add` finds it"
        )


def published_at(at: str, name: str, path: Path) -> dict[str, str]:
    """Where a checkpoint that others published lies: `repository`, `revision` and `file`, or what is `local`."""
    if match := PUBLISHED.fullmatch(at):
        return {"local": "", **match.groupdict(default="")}
    if not at.startswith(("/", "./", "../", "~/")):
        raise UserError(
            f"{path}: published.{name}: {at!r} is neither OWNER/NAME@COMMIT with all 40 digits of the commit (and "
            ":FILE.gguf, where it is one), nor a folder or a file.gguf of this machine that begins with / or ./"
        )
    return {"local": str(Path(at).expanduser()), "repository": "", "revision": "", "file": ""}


def published_files(local: str) -> list[str]:
    """The files of a published checkpoint on this machine: those of a folder, or a GGUF; none where it is neither."""
    path = Path(local)
    if path.suffix == ".gguf" and path.is_file():
        return [local]
    if (path / "config.json").is_file():
        kinds = (".json", ".jinja", ".safetensors")
        return sorted(str(file) for file in path.iterdir() if file.is_file() and file.suffix in kinds)
    return []


def read_datasets() -> dict[str, dict]:
    """Rows of the table of datasets by name, each with an empty `local`."""
    properties = _validator(SCHEMAS / "datasets.schema.yaml").schema["properties"]
    integers = {key for key, value in properties.items() if value.get("type") == "integer"}
    if not DATASETS.exists():
        raise UserError(f"{DATASETS} is missing; restore it")
    with DATASETS.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t", restkey="(more)")
        rows = list(reader)
    if "dataset" not in (reader.fieldnames or []):
        raise UserError(f"{DATASETS}: the first line has no column 'dataset'; columns are separated by tabs")
    table: dict[str, dict] = {}
    for row in rows:
        name = row["dataset"]
        where = f"{DATASETS}: dataset {name}"
        facts = {k: int(v) if k in integers and re.fullmatch(r"\d+", v or "") else v for k, v in row.items()}
        validate(facts, "datasets", where)
        if name in table:
            raise UserError(f"{where} stands twice; remove one row")
        if facts["used_by"]:
            known(facts["used_by"], files("questions"), f"{where}: used_by", "benchmark")
        table[name] = facts | {"local": ""}
    return table


def files(stage: str) -> list[str]:
    return sorted(path.stem for path in Path("scripts", stage).glob("[a-z]*.py"))
