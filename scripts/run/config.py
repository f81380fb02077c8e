"""Reading and checking the configuration: all that can be wrong is found before any work is spent.

Every error names the file, the key and the cure.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from scripts.run.checks import check_corpora, check_schemes, check_studies, check_suites
from scripts.run.errors import UserError
from scripts.run.read import QUANTIZERS, known, read_datasets, read_models, read_yaml, validate

DISCOURAGE = Path("config/discourage")
# Keys that a suite may have and need not.
OF_SUITE = ("questions", "discourage", "thinking_tokens", "think_again", "stop_loops")
OF_STUDY = {
    "verdict": "correct_final",
    "speed": False,
    "price_per_gpu_hour": None,
    "magnitudes": "",
    "margins": {"lossless": 1, "risky": 3},
}  # where a study does not say
ALL_PUBLISHED = "published/*"


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
    speed: dict  # what the stage of that name measures; empty: nothing

    def cells(self, study: str) -> list[tuple[str, str]]:
        """(model, "quantizer/scheme") pairs of a study, in the order of its grid."""
        blocks = self.studies[study]["grid"]
        return [(model, scheme) for block in blocks for model in block["models"] for scheme in block["schemes"]]

    def quantizing(self, model: str, scheme: str) -> tuple[dict, str, dict, dict | None]:
        """A model, a scheme's quantizer and settings, and the corpus that it is calibrated on, if it is."""
        settings = self.schemes[scheme]
        corpus = self.corpora[settings["corpus"]] if "corpus" in settings else None
        return self.models[model], scheme.split("/", maxsplit=1)[0], settings, corpus

    def served(self, model: str, scheme: str) -> bool:
        """Whether the engine serves a cell with kernels of its own, so that its speed is that of its format.

        Other checkpoints are dequantized, and as fast as full precision or slower.
        """
        quantizer, name = scheme.split("/")
        if quantizer == "published":
            at = self.models[model]["published"][name]
            return not (at["file"] or at["local"].endswith(".gguf"))
        return quantizer in ("none", "vllm") or self.schemes[scheme].get("packed", False)

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
        name: OF_STUDY | study | {"grid": _spelt_out(study["grid"], models)}
        for name, study in config["studies"].items()
    }
    corpora = {name: {"cut": "windows"} | corpus for name, corpus in config["corpora"].items()}
    _take_local(config.get("local", {}), {"models": models, "datasets": datasets}, source)
    flags = [config.get(name, False) for name in ("retrain", "unsafe_code", "anonymous_records")]
    gpu_memory_gb = config.get("gpu_memory_gb", 80)
    checked = Config(
        studies, suites, corpora, models, schemes, datasets, *flags, gpu_memory_gb, config.get("speed", {})
    )
    _take_words(checked.suites, source)
    check_schemes(checked)
    check_suites(checked, source)
    check_corpora(checked, source)
    check_studies(checked, source)
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
