"""Reading and checking the configuration: all that can be wrong is found before any work is spent.

Every error names the file, the key and the cure.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scripts.engine import offered
from scripts.run.errors import UserError
from scripts.run.geometry import check_geometry
from scripts.run.imports import code_files
from scripts.run.read import MODELS, files, known, read_datasets, read_models, read_yaml, suggest, validate
from scripts.run.resources import generate_gpus, quantize_gpus

QUANTIZERS = Path("config/quantizers.yaml")
DISCOURAGE = Path("config/discourage")
BASELINE = "none/full"
# Keys that a suite may have and need not.
OF_SUITE = ("questions", "discourage", "thinking_tokens", "think_again", "stop_loops")
ALL_PUBLISHED = "published/*"
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

    def asking(self, suite: str, model: str) -> dict:
        """Settings of a suite as one model is asked it, its sampling among them."""
        stated, facts = self.suites[suite], self.models[model]
        recommended = facts["sampling"] if "sampling" in stated else {}
        return facts | {"min_p": 0, "sampling": ""} | stated | recommended

    def suites_of(self, study: str) -> dict[str, dict]:
        """The suites of a study and their settings, in its order."""
        return {name: self.suites[name] for name in self.studies[study]["suites"]}

    def suites_of_cells(self) -> dict[tuple[str, str], list[str]]:
        """The suites that each (model, "quantizer/scheme") is asked, over all studies."""
        found: dict[tuple[str, str], dict[str, None]] = {}
        for study, entry in self.studies.items():
            for cell in self.cells(study):
                found.setdefault(cell, {}).update(dict.fromkeys(entry["suites"]))
        return {cell: list(suites) for cell, suites in found.items()}

    def ladders(self, study: str) -> list[list[str]]:
        """Suites of a study that differ only in how long a thought is let or made to be, the shortest first."""
        alike: dict[str, list[str]] = {}
        for name, suite in self.suites_of(study).items():
            others = {key: value for key, value in suite.items() if key not in ("thinking_tokens", "think_again")}
            alike.setdefault(json.dumps(others, sort_keys=True), []).append(name)

        def thought(name: str) -> tuple[float, int]:
            return self.suites[name].get("thinking_tokens", math.inf), self.suites[name].get("think_again", 0)

        return [sorted(names, key=thought) for names in alike.values() if len(names) > 1]

    def benchmarks(self, study: str) -> list[str]:
        """Each benchmark of a study once, in the order of its suites."""
        return list(dict.fromkeys(b for suite in self.suites_of(study).values() for b in suite["benchmarks"]))


def load(config: dict, sources: list[str]) -> Config:
    """Check a config, merged from the files `sources`, together with the files of models, datasets and quantizers.

    Raises:
        UserError: anything is wrong.
    """
    source = " + ".join(sources)
    for path in sources:
        read_yaml(Path(path))  # whoever merged them did not look for keys that stand twice
    validate(config, "config", source)
    models, datasets, quantizers = read_models(), read_datasets(), read_yaml(QUANTIZERS)
    schemes = {}
    for quantizer, entry in quantizers.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("schemes"), dict):
            continue  # the schema says so in words
        for scheme, settings in entry["schemes"].items():
            if isinstance(settings, dict):
                entry["schemes"][scheme] = entry.get("defaults", {}) | settings
                schemes[f"{quantizer}/{scheme}"] = entry["schemes"][scheme]
    validate(quantizers, "quantizers", str(QUANTIZERS))
    schemes |= {f"published/{scheme}": {} for facts in models.values() for scheme in facts["published"]}
    suites = {name: {"paper_seeds": False} | suite for name, suite in config["suites"].items()}
    studies = {
        name: {"verdict": "correct_final"} | study | {"grid": _spelt_out(study["grid"], models)}
        for name, study in config["studies"].items()
    }
    corpora = {name: {"cut": "windows"} | corpus for name, corpus in config["corpora"].items()}
    _take_local(config.get("local", {}), {"models": models, "datasets": datasets}, source)
    flags = [config.get(name, False) for name in ("retrain", "unsafe_code", "anonymous_records")]
    gpu_memory_gb = config.get("gpu_memory_gb", 80)
    checked = Config(studies, suites, corpora, models, schemes, datasets, *flags, gpu_memory_gb)
    _take_words(checked.suites, source)
    _check_schemes(checked)
    _check_suites(checked, source)
    _check_corpora(checked, source)
    _check_studies(checked, source)
    return checked


def _spelt_out(grid: list[dict], models: dict[str, dict]) -> list[dict]:
    """The blocks of a grid, with what each model's file names in place of `published/*`."""
    blocks = []
    for block in grid:
        if ALL_PUBLISHED not in block["schemes"]:
            blocks.append(block)
            continue
        for model in block["models"]:
            named = [f"published/{name}" for name in models.get(model, {}).get("published", {})]
            star = block["schemes"].index(ALL_PUBLISHED)
            schemes = block["schemes"][:star] + named + block["schemes"][star + 1 :]
            blocks.append({"models": [model], "schemes": schemes})
    return blocks


def _take_local(local: dict, tables: dict[str, dict], source: str) -> None:
    """Note which models and datasets are taken from this machine instead of the hub."""
    for kind, paths in local.items():
        hub = [name for name, facts in tables[kind].items() if facts.get("source", "hub") == "hub"]
        for name, copy in paths.items():
            known(name, hub, f"{source}: local.{kind}", f"{kind.removesuffix('s')} of the hub")
            part = dict(copy) if isinstance(copy, dict) else {"path": copy}
            path = part.pop("path")
            if not Path(path).exists():
                raise UserError(f"{source}: local.{kind}.{name}: nothing at {path}; correct the path")
            tables[kind][name] |= part | {"local": path}


def _take_words(suites: dict[str, dict], source: str) -> None:
    """Put in place of the names of files in config/discourage/ what they hold."""
    for name, suite in suites.items():
        if "discourage" in suite:
            named, there = suite["discourage"], sorted(path.stem for path in DISCOURAGE.glob("*.yaml"))
            known(named, there, f"{source}: suites.{name}.discourage", f"file in {DISCOURAGE}")
            words = read_yaml(path := DISCOURAGE / f"{named}.yaml")
            validate(words, "discourage", str(path))
            suite["discourage"] = {"name": named} | words


def _check_schemes(config: Config) -> None:
    """Every quantizer has its file, every name of a scheme says the same as its numbers, vLLM knows what is asked."""
    for name, settings in config.schemes.items():
        quantizer, scheme = name.split("/")
        code_files(f"scripts.quantize.{quantizer}")
        for option in {"quantization", "kv_cache_dtype"} & settings.keys():
            where = f"{QUANTIZERS}: {quantizer}.schemes.{scheme}.{option}"
            known(settings[option], offered(option), where, "word of this vLLM's")
        match = NUMBERS.match(scheme)
        if match is None or quantizer == "published":  # of what others say of theirs, the files are asked
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
    for name, suite in config.suites.items():
        for benchmark in suite["benchmarks"]:
            where = f"{source}: suites.{name}.benchmarks"
            known(benchmark, files("questions"), where, "benchmark")
            code_files(f"scripts.questions.{benchmark}")
        if "think_again" in suite and (others := suite.keys() & {"thinking_tokens", "stop_loops"}):
            names = " and ".join(sorted(others))
            raise UserError(f"{source}: suites.{name}.think_again: not together with {names}; make a suite of each")
        if suite.get("thinking_tokens", 0) >= suite["max_model_len"]:
            raise UserError(
                f"{source}: suites.{name}.thinking_tokens: {suite['thinking_tokens']} leaves no room for an answer in "
                f"max_model_len, {suite['max_model_len']}: lower it"
            )


def _check_corpora(config: Config, source: str) -> None:
    for name, corpus in config.corpora.items():
        if "suite" in corpus:
            known(corpus["suite"], config.suites, f"{source}: corpora.{name}.suite", "suite")
        elif "dataset" in corpus:
            known(corpus["dataset"], config.datasets, f"{source}: corpora.{name}.dataset", "dataset")
        elif not Path(corpus["text"]).is_file():
            raise UserError(f"{source}: corpora.{name}.text: no file {corpus['text']}; correct the path")


def _check_studies(config: Config, source: str) -> None:
    for study, entry in config.studies.items():
        where = f"{source}: studies.{study}"
        for suite in entry["suites"]:
            known(suite, config.suites, f"{where}.suites", "suite")
            for benchmark in config.suites[suite]["benchmarks"]:
                known(benchmark, files("score"), f"{where}.suites: suite {suite!r}", "scored benchmark")
                code_files(f"scripts.score.{benchmark}")
        for block in entry["grid"]:
            _check_block(config, block, f"{where}.grid")
        count = Counter(config.cells(study))
        for (model, scheme), times in count.items():
            if times > 1:
                raise UserError(f"{where}.grid: {model} with {scheme} stands {times} times; keep one")
            if (model, BASELINE) not in count:
                raise UserError(
                    f"{where}.grid: {model} lacks the baseline {BASELINE}, against which drops are taken; add it"
                )
            _check_cell(config, source, study, model, scheme)


def _check_block(config: Config, block: dict, where: str) -> None:
    """What a block of a grid names is there."""
    for model in block["models"]:
        if model not in config.models:
            near = suggest(model, list(config.models))
            raise UserError(f"{where}: unknown model {model!r}{near}; `python -m scripts.models.add` adds one")
        folder = config.models[model]["local"]
        if folder and not Path(folder).is_dir():
            raise UserError(f"{MODELS}/{model}.yaml: folder: nothing at {folder}; correct the path")
    for scheme in block["schemes"]:
        if not scheme.startswith("published/"):
            known(scheme, config.schemes, where, "quantizer/scheme")
            continue
        name = scheme.removeprefix("published/")
        for model in block["models"]:
            stated = f"{MODELS}/{model}.yaml"
            if name not in config.models[model]["published"]:
                raise UserError(f"{where}: {stated} has no published.{name}: add it there, or leave the cell out")
            at = config.models[model]["published"][name]["local"]
            if at and not published_files(at):
                raise UserError(
                    f"{stated}: published.{name}: no checkpoint at {at}, neither a folder with config.json nor "
                    "a file.gguf; correct the path"
                )


def published_files(local: str) -> list[str]:
    """The files of a published checkpoint on this machine: those of a folder, or a GGUF; none where it is neither."""
    path = Path(local)
    if path.suffix == ".gguf" and path.is_file():
        return [local]
    if (path / "config.json").is_file():
        kinds = (".json", ".jinja", ".safetensors")
        return sorted(str(file) for file in path.iterdir() if file.is_file() and file.suffix in kinds)
    return []


def _check_cell(config: Config, source: str, study: str, model: str, scheme: str) -> None:
    """What a cell asks for fits the model."""
    suites = list(config.studies[study]["suites"])
    if corpus := config.schemes[scheme].get("corpus"):
        known(corpus, config.corpora, f"{source}: corpora (asked for by {scheme} in {QUANTIZERS})", "corpus")
        suites += [config.corpora[corpus]["suite"]] if "suite" in config.corpora[corpus] else []
    facts = config.models[model]
    context = facts["context_length"]
    for suite in suites:
        if "sampling" in config.suites[suite] and "sampling" not in facts:
            raise UserError(
                f"{source}: suites.{suite}.sampling: {MODELS}/{model}.yaml has no facts.sampling: add the model anew "
                "(`python -m scripts.models.add`); if its authors recommend nothing, state temperature and top_p"
            )
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
