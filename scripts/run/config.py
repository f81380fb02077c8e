"""Reading and checking the configuration: all that can be wrong is found before any work is spent.

Every error names the file, the key and the cure.
"""

import csv
import difflib
import functools
import math
import re
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from scripts.run.errors import UserError
from scripts.run.geometry import check_geometry
from scripts.run.imports import code_files
from scripts.run.resources import generate_gpus, quantize_gpus

SCHEMAS = Path("config/schemas")
MODELS = Path("config/models")  # a file each
DATASETS = Path("config/datasets.tsv")
QUANTIZERS = Path("config/quantizers.yaml")
BASELINE = "none/full"
MODEL_NAME = r"[a-z0-9][a-z0-9.-]*"
LARGEST = 100_000  # values of a file, written out
# What the name of a scheme says: w4g128, w8a8kv8, kv3, each with or without more behind a hyphen.
NUMBERS = re.compile(
    r"(?=w|kv)(?:w(?P<bits>\d+))?(?:a(?P<activation_bits>\d+))?(?:kv(?P<kv_bits>\d+))?(?:g(?P<group_size>\d+))?(?=-|$)"
)


@dataclass(frozen=True)
class Config:
    """The checked configuration; a scheme's settings have the defaults of its quantizer merged in."""

    studies: dict[str, dict]
    suites: dict[str, dict]
    corpora: dict[str, dict]
    models: dict[str, dict]
    schemes: dict[str, dict]  # "quantizer/scheme" → settings
    datasets: dict[str, dict]  # with `local`, a path, or "" for the hub
    retrain: bool
    unsafe_code: bool
    anonymous_records: bool
    gpu_memory_gb: int

    def cells(self, study: str) -> list[tuple[str, str]]:
        """(model, "quantizer/scheme") pairs of a study, in the order of its grid."""
        blocks = self.studies[study]["grid"]
        return [(model, scheme) for block in blocks for model in block["models"] for scheme in block["schemes"]]

    def quantizing(self, model: str, scheme: str) -> tuple[dict, str, dict, dict | None]:
        """A model, a scheme's quantizer and settings, and the corpus that it is calibrated on, if it is."""
        settings = self.schemes[scheme]
        corpus = self.corpora[settings["corpus"]] if "corpus" in settings else None
        return self.models[model], scheme.split("/", maxsplit=1)[0], settings, corpus

    def suite_of(self, benchmark: str) -> str:
        return next(name for name, suite in self.suites.items() if benchmark in suite["benchmarks"])

    def benchmarks(self, study: str) -> dict[str, str]:
        """Benchmark → suite of a study."""
        return {b: suite for suite in self.studies[study]["suites"] for b in self.suites[suite]["benchmarks"]}


def load(config: dict, sources: list[str]) -> Config:
    """Check a config, merged from the files `sources`, together with the files of models, datasets and quantizers.

    Raises:
        UserError: anything is wrong.
    """
    source = " + ".join(sources)
    for path in sources:
        read_yaml(Path(path))  # whoever merged them did not look for keys that stand twice
    _validate(config, "config", source)
    models, datasets, quantizers = read_models(), _read_datasets(), read_yaml(QUANTIZERS)
    schemes = {}
    for quantizer, entry in quantizers.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("schemes"), dict):
            continue  # the schema says so in words
        for scheme, settings in entry["schemes"].items():
            if isinstance(settings, dict):
                entry["schemes"][scheme] = entry.get("defaults", {}) | settings
                schemes[f"{quantizer}/{scheme}"] = entry["schemes"][scheme]
    _validate(quantizers, "quantizers", str(QUANTIZERS))
    suites = {name: {"paper_seeds": False} | suite for name, suite in config["suites"].items()}
    studies = {name: {"verdict": "correct_final"} | study for name, study in config["studies"].items()}
    corpora = {name: {"cut": "windows"} | corpus for name, corpus in config["corpora"].items()}
    _take_local(config.get("local", {}), {"models": models, "datasets": datasets}, source)
    flags = [config.get(name, False) for name in ("retrain", "unsafe_code", "anonymous_records")]
    gpu_memory_gb = config.get("gpu_memory_gb", 80)
    checked = Config(studies, suites, corpora, models, schemes, datasets, *flags, gpu_memory_gb)
    _check_schemes(checked)
    _check_suites(checked, source)
    _check_corpora(checked, source)
    _check_studies(checked, source)
    return checked


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


def _validate(document: Any, schema: str, source: str) -> None:
    _check_plain(document, source)
    path = SCHEMAS / f"{schema}.schema.yaml"
    error = best_match(_validator(path).iter_errors(document))
    if error is None:
        return
    where = ".".join(str(part) for part in error.absolute_path) or "the top level"
    message = f"{source}: {where}: {error.message}"
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        message = f"{source}: {where}: unknown key {unknown!r}{_suggest(unknown, known)}"
    raise UserError(f"{message} (see {path})")


@functools.cache
def _validator(path: Path) -> Draft202012Validator:
    return Draft202012Validator(yaml.safe_load(path.read_text(encoding="utf-8")))


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"


def _known(name: str, known: Any, where: str, what: str) -> None:
    if name not in known:
        raise UserError(f"{where}: unknown {what} {name!r}{_suggest(name, list(known))}")


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
        _validate(document, "model", str(path))
        try:
            date.fromisoformat(document.get("date") or "2026-01-31")
        except ValueError:
            raise UserError(f"{path}: date: {document['date']} is no day") from None
        facts = document.pop("facts")
        _check_origin(document, facts["revision"], path)
        source = document.pop("trained_by", "hub")
        local = document.pop("folder", "")
        code_files(f"scripts.models.{source}")
        models[path.stem] = {"repository": "", "source": source, "local": local} | defaults | facts | document
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


def _read_datasets() -> dict[str, dict]:
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
        _validate(facts, "datasets", where)
        if name in table:
            raise UserError(f"{where} stands twice; remove one row")
        if facts["used_by"]:
            _known(facts["used_by"], _files("questions"), f"{where}: used_by", "benchmark")
        table[name] = facts | {"local": ""}
    return table


def _take_local(local: dict, tables: dict[str, dict], source: str) -> None:
    """Note which models and datasets are taken from this machine instead of the hub."""
    for kind, paths in local.items():
        hub = [name for name, facts in tables[kind].items() if facts.get("source", "hub") == "hub"]
        for name, copy in paths.items():
            _known(name, hub, f"{source}: local.{kind}", f"{kind.removesuffix('s')} of the hub")
            part = dict(copy) if isinstance(copy, dict) else {"path": copy}
            path = part.pop("path")
            if not Path(path).exists():
                raise UserError(f"{source}: local.{kind}.{name}: nothing at {path}; correct the path")
            tables[kind][name] |= part | {"local": path}


def _check_schemes(config: Config) -> None:
    """Every quantizer has its file, every name of a scheme says the same as its numbers."""
    for name, settings in config.schemes.items():
        quantizer, scheme = name.split("/")
        code_files(f"scripts.quantize.{quantizer}")
        match = NUMBERS.match(scheme)
        if match is None:
            continue
        stated = {key: int(value) for key, value in match.groupdict().items() if value}
        for key in match.groupdict():
            none = -1 if key == "group_size" else None
            if stated.get(key, none) != settings.get(key, none):
                raise UserError(
                    f"{QUANTIZERS}: {quantizer}.schemes.{scheme}: the name says {key} {stated.get(key, 'none')}, "
                    f"the settings {settings.get(key, 'none')}; correct one"
                )


def _check_suites(config: Config, source: str) -> None:
    owner: dict[str, str] = {}
    for name, suite in config.suites.items():
        for benchmark in suite["benchmarks"]:
            where = f"{source}: suites.{name}.benchmarks"
            _known(benchmark, _files("questions"), where, "benchmark")
            if benchmark in owner:
                raise UserError(
                    f"{where}: {benchmark!r} also stands in suite {owner[benchmark]!r}; a benchmark's score file "
                    "has no place for two suites: keep it in one"
                )
            owner[benchmark] = name
            code_files(f"scripts.questions.{benchmark}")


def _files(stage: str) -> list[str]:
    return sorted(path.stem for path in Path("scripts", stage).glob("[a-z]*.py"))


def _check_corpora(config: Config, source: str) -> None:
    for name, corpus in config.corpora.items():
        if "suite" in corpus:
            _known(corpus["suite"], config.suites, f"{source}: corpora.{name}.suite", "suite")
        elif "dataset" in corpus:
            _known(corpus["dataset"], config.datasets, f"{source}: corpora.{name}.dataset", "dataset")
        elif not Path(corpus["text"]).is_file():
            raise UserError(f"{source}: corpora.{name}.text: no file {corpus['text']}; correct the path")


def _check_studies(config: Config, source: str) -> None:
    for study, entry in config.studies.items():
        where = f"{source}: studies.{study}"
        for suite in entry["suites"]:
            _known(suite, config.suites, f"{where}.suites", "suite")
            for benchmark in config.suites[suite]["benchmarks"]:
                _known(benchmark, _files("score"), f"{where}.suites: suite {suite!r}", "scored benchmark")
                code_files(f"scripts.score.{benchmark}")
        if len({tuple(config.suites[suite]["seeds"]) for suite in entry["suites"]}) > 1:
            raise UserError(f"{where}.suites: the suites have different seeds; give them the same, or make two studies")
        for block in entry["grid"]:
            for model in block["models"]:
                _known(model, config.models, f"{where}.grid", "model")
                folder = config.models[model]["local"]
                if folder and not Path(folder).is_dir():
                    raise UserError(f"{MODELS}/{model}.yaml: folder: nothing at {folder}; correct the path")
            for scheme in block["schemes"]:
                _known(scheme, config.schemes, f"{where}.grid", "quantizer/scheme")
        count = Counter(config.cells(study))
        for (model, scheme), times in count.items():
            if times > 1:
                raise UserError(f"{where}.grid: {model} with {scheme} stands {times} times; keep one")
            if (model, BASELINE) not in count:
                raise UserError(
                    f"{where}.grid: {model} lacks the baseline {BASELINE}, against which drops are taken; add it"
                )
            _check_cell(config, source, study, model, scheme)


def _check_cell(config: Config, source: str, study: str, model: str, scheme: str) -> None:
    """What a cell asks for fits the model."""
    suites = list(config.studies[study]["suites"])
    if corpus := config.schemes[scheme].get("corpus"):
        _known(corpus, config.corpora, f"{source}: corpora (asked for by {scheme} in {QUANTIZERS})", "corpus")
        suites += [config.corpora[corpus]["suite"]] if "suite" in config.corpora[corpus] else []
    facts = config.models[model]
    context = facts["context_length"]
    for suite in suites:
        limit = config.suites[suite]["max_model_len"]
        if limit > context:
            raise UserError(
                f"{source}: suites.{suite}.max_model_len: {limit} exceeds the context length of {model}, "
                f"{context}; lower it"
            )
    try:
        check_geometry(scheme, config.schemes[scheme], facts)
        quantize_gpus(*config.quantizing(model, scheme), config.gpu_memory_gb)
        for suite in suites:
            asked = scheme if suite in config.studies[study]["suites"] else BASELINE  # own reasoning
            limit = config.suites[suite]["max_model_len"]
            generate_gpus(facts, config.schemes[asked], limit, config.gpu_memory_gb)
    except UserError as error:
        raise UserError(
            f"{source}: studies.{study}.grid: {model} with {scheme} {error} ({MODELS}/{model}.yaml, {QUANTIZERS})"
        ) from None
