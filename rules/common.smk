# What the rules share: the checked configuration, and the slices of it that a job's paths stand for.
import json
import os
import re
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir)))

from scripts.generate.siblings import write_down
from scripts.report import FIGURES, TABLES, TABLES_OF_SAMPLES
from scripts.run.config import OF_SUITE, load
from scripts.run.errors import UserError
from scripts.run import resources as sizes
from scripts.run.imports import code_files, package_versions
from scripts.run.read import published_files
from scripts.run.planned import VARIABLE, packages_digest
from scripts.run.record import ANONYMOUS

if Path(shutil.which("python") or "").parent.resolve() != Path(sys.executable).parent.resolve():
    raise WorkflowError(
        f"`python` is not the one that runs snakemake ({sys.executable}): activate the environment, source .venv/bin/activate"
    )

try:
    study_config = load(config, [str(path) for path in workflow.configfiles])
except UserError as error:
    raise WorkflowError(str(error)) from None

SUITES_OF_CELLS = study_config.suites_of_cells()

os.environ.setdefault(VARIABLE, packages_digest())  # inherited by every job, wherever it runs
os.environ[ANONYMOUS] = str(study_config.anonymous_records)
os.environ.update(PYTHONUTF8="1")  # also for jobs: files, arguments and logs are UTF-8, whatever the locale


onstart:
    if Path("results").exists() and not os.access("results", os.W_OK):
        raise WorkflowError("results/ cannot be written: allow writing there, or work in a folder of your own")
    write_down(
        {
            f"{model}/{scheme}": {
                suite: {"settings": json.loads(asked_settings(suite, model)), "questions": questions_of(suite)}
                for suite in suites
            }
            for (model, scheme), suites in SUITES_OF_CELLS.items()
        }
    )
    # After every job Snakemake starts a timer that from then on looks for jobs once a second, as long as their number in
    # a time is limited, as it is by default (100 a second): after 250 jobs that takes half a core.
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def one_of(names):
    """A constraint to these names; to none of no names, where an empty pattern would constrain nothing."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def quantizers():
    return {pair.split("/")[0] for pair in study_config.schemes}


wildcard_constraints:
    model=one_of(study_config.models),
    dataset=one_of(study_config.datasets),
    benchmark=one_of(name for suite in study_config.suites.values() for name in suite["benchmarks"]),
    corpus=one_of(study_config.corpora),
    quantizer=one_of(quantizers()),
    scheme=one_of({pair.split("/")[1] for pair in study_config.schemes}),
    suite=one_of(study_config.suites),
    study=one_of(study_config.studies),
    module=r"scripts(\.[a-z][a-z0-9_]*)+",


def slice_of(settings, *keys):
    """The named settings as JSON: what a rule takes as parameters is all that can rerun it."""
    return json.dumps({key: settings[key] for key in keys})


# code


def module_files(wildcards):
    return code_files(wildcards.module)


def module_packages(wildcards):
    return [f"{name}=={version}" for name, version in package_versions(wildcards.module).items()]


# Sizes, from the facts of a model; a further attempt gets more of what may have run out


def weights_mb(wildcards, attempt):
    return sizes.weights_mb(study_config.models[wildcards.model]) * attempt


def disk_mb(wildcards):
    scheme = quantizing(wildcards)[2] if "quantizer" in wildcards.keys() else {}
    return sizes.disk_mb(study_config.models[wildcards.model], scheme)


# models


def models_of_source(hub):
    return [name for name, facts in study_config.models.items() if (facts["source"] == "hub") == hub]


def retained_weights(wildcards):
    """Weights kept in the repository, so that the tiny reasoners need no training."""
    if study_config.models[wildcards.model]["source"] != "arithmetic" or study_config.retrain:
        return []
    return [f"resources/models/{wildcards.model}/{name}" for name in ("model.safetensors", "recipe.json")]


def model_source(wildcards):
    return study_config.models[wildcards.model]["source"]


def model_code(wildcards):
    return f"results/code/scripts.models.{model_source(wildcards)}.txt"


ASKED = ("think", "system", "template", "date")  # how a model is asked, and marks its thought
FACTS = (
    "revision",
    "dtype",
    "context_length",
    "parameters",
    "layers",
    "hidden_size",
    "intermediate_size",
    "heads",
    "kv_heads",
    "head_dim",
)


def model_facts(wildcards):
    return slice_of(study_config.models[wildcards.model], *FACTS)


def hub_facts(wildcards):
    return slice_of(study_config.models[wildcards.model], "repository", "local", *ASKED, *FACTS)


# published


def published_at(wildcards):
    return study_config.models[wildcards.model]["published"][wildcards.scheme]


def published_settings(wildcards):
    return json.dumps(published_at(wildcards))


def local_published(wildcards):
    return published_files(published_at(wildcards)["local"]) if published_at(wildcards)["local"] else []


# datasets


def dataset_settings(wildcards):
    return slice_of(study_config.datasets[wildcards.dataset], "repository", "revision", "files", "rows", "local")


def dataset_manifests(names):
    return [f"results/datasets/{name}/manifest.json" for name in names]


def dataset_folders(names):
    """The folders themselves; that they are up to date is what their manifests are there for."""
    return [ancient(f"results/datasets/{name}/files") for name in names]


# questions


def question_datasets(wildcards):
    return [name for name, facts in study_config.datasets.items() if facts["used_by"] == wildcards.benchmark]


def question_manifests(wildcards):
    return dataset_manifests(question_datasets(wildcards))


def question_folders(wildcards):
    return dataset_folders(question_datasets(wildcards))


# calibrate


def corpus_source(wildcards):
    corpus = study_config.corpora[wildcards.corpus]
    if "suite" in corpus:
        return f"results/generate/{wildcards.model}/none/full/{corpus['suite']}.parquet"
    if "dataset" in corpus:
        return dataset_folders([corpus["dataset"]])
    return corpus["text"]


def corpus_manifest(wildcards):
    corpus = study_config.corpora[wildcards.corpus]
    return dataset_manifests([corpus["dataset"]] if "dataset" in corpus else [])


def corpus_settings(wildcards):
    return slice_of(study_config.corpora[wildcards.corpus], "sequences", "length", "seed", "cut")


# quantize


def scheme_settings(wildcards):
    return json.dumps(study_config.schemes[f"{wildcards.quantizer}/{wildcards.scheme}"])


def scheme_calibration(wildcards):
    corpus = study_config.schemes[f"{wildcards.quantizer}/{wildcards.scheme}"].get("corpus")
    return f"results/calibrate/{wildcards.model}/{corpus}.parquet" if corpus else []


def quantizing(wildcards):
    return study_config.quantizing(wildcards.model, f"{wildcards.quantizer}/{wildcards.scheme}")


def quantize_gpus(wildcards):
    return sizes.quantize_gpus(*quantizing(wildcards), study_config.gpu_memory_gb)


def quantize_mb(wildcards, attempt):
    return sizes.quantize_mb(*quantizing(wildcards)) * attempt


def quantize_cores(wildcards):
    return sizes.cores(study_config.models[wildcards.model], 1)


def quantize_minutes(wildcards, attempt):
    return sizes.quantize_minutes(*quantizing(wildcards)) * attempt


# magnitudes, layer by layer as ranges of keys are found


def looking_at(wildcards):
    return study_config.models[wildcards.model], "kvquant", {}, study_config.corpora[wildcards.corpus]


def magnitudes_gpus(wildcards):
    return sizes.quantize_gpus(*looking_at(wildcards), study_config.gpu_memory_gb)


def magnitudes_mb(wildcards, attempt):
    return sizes.quantize_mb(*looking_at(wildcards)) * attempt


def magnitudes_cores(wildcards):
    return sizes.cores(study_config.models[wildcards.model], 1)


def study_magnitudes(wildcards):
    corpus = study_config.studies[wildcards.study]["magnitudes"]
    models = dict.fromkeys(model for model, _ in study_config.cells(wildcards.study)) if corpus else ()
    return [f"results/magnitudes/{model}/{corpus}.parquet" for model in models]


# generate


def generate_gpus(wildcards):
    return sizes.generate_gpus(
        study_config.models[wildcards.model],
        study_config.schemes[f"{wildcards.quantizer}/{wildcards.scheme}"],
        study_config.suites[wildcards.suite]["max_model_len"],
        study_config.gpu_memory_gb,
    )


def generate_cores(wildcards):
    return sizes.cores(study_config.models[wildcards.model], generate_gpus(wildcards))


def generate_mb(wildcards, attempt):
    return sizes.generate_mb(study_config.models[wildcards.model], generate_gpus(wildcards)) * attempt


def generate_minutes(wildcards, attempt):
    """Of all suites of the checkpoint: whoever starts the engine answers them."""
    cell = wildcards.model, f"{wildcards.quantizer}/{wildcards.scheme}"
    model, scheme, gpus = study_config.models[cell[0]], study_config.schemes[cell[1]], generate_gpus(wildcards)
    suites = {wildcards.suite, *SUITES_OF_CELLS.get(cell, ())}
    minutes = [sizes.generate_minutes(model, scheme, study_config.suites[suite], gpus) for suite in suites]
    return sum(minutes) * attempt


def questions_of(suite):
    return [f"results/questions/{name}.parquet" for name in study_config.suites[suite]["benchmarks"]]


def suite_questions(wildcards):
    return questions_of(wildcards.suite)


def suite_settings(wildcards):
    return asked_settings(wildcards.suite, wildcards.model)


def asked_settings(suite, model):
    asked = study_config.asking(suite, model)
    return slice_of(
        asked,
        *(key for key in OF_SUITE if key in asked),
        "seeds",
        "sampling",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_model_len",
        "paper_seeds",
        "max_num_seqs",
        "dtype",
        *ASKED,
    )


# speed


def speed_gpus(wildcards):
    speed = study_config.speed
    return sizes.generate_gpus(
        study_config.models[wildcards.model],
        study_config.schemes[f"{wildcards.quantizer}/{wildcards.scheme}"],
        max(speed["prompts"]) + speed["tokens"],
        study_config.gpu_memory_gb,
    )


def speed_cores(wildcards):
    """All of this machine, so that nothing else runs beside what is timed; of a cluster as many as for generating."""
    return workflow.cores or sizes.cores(study_config.models[wildcards.model], speed_gpus(wildcards))


def speed_mb(wildcards, attempt):
    return sizes.generate_mb(study_config.models[wildcards.model], speed_gpus(wildcards)) * attempt


def speed_settings(wildcards):
    return json.dumps(
        study_config.speed | json.loads(slice_of(study_config.models[wildcards.model], "max_num_seqs", "dtype"))
    )


def study_speeds(wildcards):
    entry = study_config.studies[wildcards.study]
    cells = study_config.cells(wildcards.study) if entry["speed"] else []
    return [f"results/speed/{model}/{scheme}.parquet" for model, scheme in cells if study_config.served(model, scheme)]


# score


def score_datasets(wildcards):
    return [name for name in question_datasets(wildcards) if study_config.datasets[name]["scored_from"] == "yes"]


def score_manifests(wildcards):
    return dataset_manifests(score_datasets(wildcards))


def score_folders(wildcards):
    return dataset_folders(score_datasets(wildcards))


def runs_programs(wildcards):
    return "scripts/score/_sandbox.py" in code_files(f"scripts.score.{wildcards.benchmark}")


def score_threads(wildcards):
    return 16 if runs_programs(wildcards) else 1


def score_memory(wildcards, threads, attempt):
    """A program may use 1 GB."""
    return (2000 + 1000 * (threads if runs_programs(wildcards) else 0)) * attempt


def score_minutes(wildcards, attempt):
    return 60 * attempt


def score_options(wildcards):
    """What only scores of programs depend on, so that it replans no others."""
    settings = json.dumps({"unsafe_code": study_config.unsafe_code})
    return ["--settings", settings] if runs_programs(wildcards) else []


# report

PAGES = ["index.html", "explorer/manifest.json", *(f"figures/{name}.svg" for name in FIGURES)]


def study_scores(wildcards):
    return [
        f"results/score/{model}/{scheme}/{suite}/{benchmark}.parquet"
        for model, scheme in study_config.cells(wildcards.study)
        for suite, settings in study_config.suites_of(wildcards.study).items()
        for benchmark in settings["benchmarks"]
    ]


def study_samples(wildcards):
    return [
        f"results/generate/{model}/{scheme}/{suite}.parquet"
        for model, scheme in study_config.cells(wildcards.study)
        for suite in study_config.suites_of(wildcards.study)
    ]


def study_questions(wildcards):
    return [f"results/questions/{name}.parquet" for name in study_config.benchmarks(wildcards.study)]


def study_settings(wildcards):
    return json.dumps(
        {
            "verdict": study_config.studies[wildcards.study]["verdict"],
            "cells": study_config.cells(wildcards.study),
            "suites": [
                {"suite": name}
                | {key: suite[key] for key in ("benchmarks", "seeds", "max_model_len", *OF_SUITE) if key in suite}
                for name, suite in study_config.suites_of(wildcards.study).items()
            ],
        }
    )


def study_schemes(study):
    return {scheme: study_config.schemes[scheme] for _, scheme in study_config.cells(study)}


def table_options(wildcards):
    """What a table rests on beside the samples: the margins of classes, and what baselines were published to score."""
    margins = {"margins": study_config.studies[wildcards.study]["margins"]}
    models = dict.fromkeys(model for model, _ in study_config.cells(wildcards.study))
    expected = {"expected": {model: study_config.models[model]["expected"] for model in models}}
    settings = {"drops": margins, "baselines": margins | expected}.get(wildcards.table)
    return ["--settings", json.dumps(settings)] if settings else []


def ablation_settings(wildcards):
    return json.dumps({"schemes": study_schemes(wildcards.study)})


def scaling_settings(wildcards):
    return json.dumps({"ladders": study_config.ladders(wildcards.study)})


def study_manifests(wildcards):
    return [f"results/quantize/{model}/{scheme}/manifest.json" for model, scheme in study_config.cells(wildcards.study)]


SIZES = ("dtype", "parameters", "linear_parameters", "layers", "hidden_size", "intermediate_size", "heads", "kv_heads")
SIZES += ("head_dim",)  # of a model, from which bits and bytes follow


def facts_of(models, names):
    """These facts of models, as far as they have them."""
    facts = {model: study_config.models[model] for model in models}
    return {model: {name: known[name] for name in names if name in known} for model, known in facts.items()}


def efficiency_settings(wildcards):
    models = dict.fromkeys(model for model, _ in study_config.cells(wildcards.study))
    cells = [cell for cell in study_config.cells(wildcards.study) if study_config.served(*cell)]
    return json.dumps(
        {
            "models": facts_of(models, SIZES),
            "schemes": study_schemes(wildcards.study),
            "served": cells,
            "price_per_gpu_hour": study_config.studies[wildcards.study]["price_per_gpu_hour"],
        }
    )


def finding_settings(wildcards):
    with open("resources/paper/tables.csv", encoding="utf-8") as stream:
        papers = {line.split(",")[0] for line in stream} & set(study_config.models)
    models = papers | {model for model, _ in study_config.cells(wildcards.study)}
    return json.dumps(
        {
            "models": facts_of(sorted(models), (*SIZES, "origin", "key_bias")),
            "ladders": study_config.ladders(wildcards.study),
            "schemes": study_schemes(wildcards.study),
            "own_reasoning": sorted(name for name, corpus in study_config.corpora.items() if "suite" in corpus),
        }
    )
