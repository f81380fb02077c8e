"""What can be wrong in a configuration beyond its form: names, sizes, cells that no checkpoint fits.

Every error names the file, the key and the cure.
"""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.engine import offered
from scripts.run.errors import UserError
from scripts.run.geometry import check_geometry
from scripts.run.imports import code_files
from scripts.run.read import MODELS, QUANTIZERS, files, known, published_files, suggest
from scripts.run.resources import generate_gpus, quantize_gpus

if TYPE_CHECKING:
    from scripts.run.config import Config

BASELINE = "none/full"
# What the name of a scheme says: w4g128, w8a8kv8, kv3, each with or without more behind a hyphen.
NUMBERS = re.compile(
    r"(?=w|kv)(?:w(?P<bits>\d+))?(?:a(?P<activation_bits>\d+))?(?:kv(?P<kv_bits>\d+))?(?:g(?P<group_size>\d+))?(?=-|$)"
)


def check_schemes(config: "Config") -> None:
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


def check_suites(config: "Config", source: str) -> None:
    for name, suite in config.suites.items():
        for benchmark in suite["benchmarks"]:
            where = f"{source}: suites.{name}.benchmarks"
            known(benchmark, files("questions"), where, "benchmark")
            code_files(f"scripts.questions.{benchmark}")
        if isinstance(counts := suite.get("questions"), dict):
            for benchmark in counts:
                known(benchmark, suite["benchmarks"], f"{source}: suites.{name}.questions", "benchmark of the suite")
        if "think_again" in suite and (others := suite.keys() & {"thinking_tokens", "stop_loops"}):
            names = " and ".join(sorted(others))
            raise UserError(f"{source}: suites.{name}.think_again: not together with {names}; make a suite of each")
        if suite.get("thinking_tokens", 0) >= suite["max_model_len"]:
            raise UserError(
                f"{source}: suites.{name}.thinking_tokens: {suite['thinking_tokens']} leaves no room for an answer in "
                f"max_model_len, {suite['max_model_len']}: lower it"
            )


def check_corpora(config: "Config", source: str) -> None:
    for name, corpus in config.corpora.items():
        if "suite" in corpus:
            known(corpus["suite"], config.suites, f"{source}: corpora.{name}.suite", "suite")
        elif "dataset" in corpus:
            known(corpus["dataset"], config.datasets, f"{source}: corpora.{name}.dataset", "dataset")
        elif not Path(corpus["text"]).is_file():
            raise UserError(f"{source}: corpora.{name}.text: no file {corpus['text']}; correct the path")


def check_studies(config: "Config", source: str) -> None:
    for study, entry in config.studies.items():
        where = f"{source}: studies.{study}"
        for suite in entry["suites"]:
            known(suite, config.suites, f"{where}.suites", "suite")
            for benchmark in config.suites[suite]["benchmarks"]:
                known(benchmark, files("score"), f"{where}.suites: suite {suite!r}", "scored benchmark")
                code_files(f"scripts.score.{benchmark}")
        if entry["margins"]["lossless"] > entry["margins"]["risky"]:
            raise UserError(f"{where}.margins: lossless is more than risky: a cell could be both; lower it")
        if entry["speed"] and not config.speed:
            raise UserError(f"{where}.speed: {source} does not say what is timed: add `speed` beside `studies`")
        if entry["magnitudes"]:
            known(entry["magnitudes"], config.corpora, f"{where}.magnitudes", "corpus")
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


def _check_block(config: "Config", block: dict, where: str) -> None:
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


def _check_cell(config: "Config", source: str, study: str, model: str, scheme: str) -> None:
    """What a cell asks for fits the model."""
    suites = list(config.studies[study]["suites"])
    if corpus := config.schemes[scheme].get("corpus"):
        known(corpus, config.corpora, f"{source}: corpora (asked for by {scheme} in {QUANTIZERS})", "corpus")
    for each in {corpus, config.studies[study]["magnitudes"]} & config.corpora.keys():
        suites += [config.corpora[each]["suite"]] if "suite" in config.corpora[each] else []
    facts = config.models[model]
    context = facts["context_length"]
    limits = {f"suites.{suite}.max_model_len": config.suites[suite]["max_model_len"] for suite in suites}
    if config.studies[study]["speed"]:
        limits["speed: the longest of prompts and tokens"] = max(config.speed["prompts"]) + config.speed["tokens"]
    for key, limit in limits.items():
        if limit > context:
            raise UserError(f"{source}: {key}: {limit} exceeds the context length of {model}, {context}; lower it")
    for suite in suites:
        if "sampling" in config.suites[suite] and "sampling" not in facts:
            raise UserError(
                f"{source}: suites.{suite}.sampling: {MODELS}/{model}.yaml has no facts.sampling: add the model anew "
                "(`python -m scripts.models.add`); if its authors recommend nothing, state temperature and top_p"
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
