"""What made an artifact follows from its path, as rules/ have it: a record that says otherwise is wrong.

A results folder may be anybody's. So nothing is ever run as a record says: module, inputs, outputs and arguments are
those that belong to the path; only parameters are the record's own.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.report import FIGURES, TABLES, TABLES_OF_SAMPLES
from scripts.run.record import record_path, wildcards

PAPER = "resources/paper/tables.csv"
PAGE = "scripts/report/_page"
NAME = "[^/]+"
Names = dict[str, str | list[str]]  # an argument of a stage's `main` → the path or paths that it is given


@dataclass(frozen=True)
class Making:
    """The job that makes an artifact."""

    module: str  # a pattern
    outputs: Names  # the first one names the record
    inputs: Names = field(default_factory=dict)  # always the same
    others: str = "(?!)"  # pattern of inputs that the configuration chooses
    several: str = ""  # argument that is given those
    fixed: dict[str, str] = field(default_factory=dict)  # parameters that are no choice


def making(name: str) -> Making:
    """The job that makes the artifact of this name.

    Raises:
        ValueError: no rule makes it.
    """
    parts = Path(name).parts
    if len(parts) < 3 or parts[0] != "results" or ".." in parts:
        raise ValueError(f"no rule makes {name}")
    stage, keys = parts[1], list(parts[2:])
    if stage == "report":
        job = _of_report(name, f"results/report/{keys[0]}", "/".join(keys[1:]))
    else:
        job = _of_stage(name, stage, keys)
    if job is None:
        raise ValueError(f"no rule makes {name}")
    return job


def _of_stage(name: str, stage: str, keys: list[str]) -> Making | None:
    folder = str(Path(name).parent)
    pair: Names = {"checkpoint": f"{folder}/checkpoint", "manifest": f"{folder}/manifest.json"}
    job = None
    match stage, keys:
        case "models", [model, ("checkpoint" | "manifest.json")]:
            job = Making(r"scripts\.models\.\w+", pair, others=f"resources/models/{re.escape(model)}/{NAME}")
        case "published", [model, _, ("checkpoint" | "manifest.json")]:
            job = Making(r"scripts\.published", pair, _model(model), "(?!results/).+")
        case "datasets", [_, ("files" | "manifest.json")]:
            job = Making(r"scripts\.datasets", {"files": f"{folder}/files", "manifest": f"{folder}/manifest.json"})
        case "questions", [file]:
            job = Making(_module("questions", _stem(file)), {"output": name}, others=f"results/datasets/{NAME}/files")
        case "calibrate", [model, file]:
            _stem(file)
            texts = f"results/generate/{re.escape(model)}/none/full/{NAME}\\.parquet|results/datasets/{NAME}/files"
            job = Making(r"scripts\.calibrate", {"output": name}, _model(model), f"{texts}|(?!results/).+")
        case "magnitudes", [model, file]:
            read: Names = {"calibration": f"results/calibrate/{model}/{_stem(file)}.parquet"}
            read["network"] = f"results/models/{model}/checkpoint"
            job = Making(r"scripts\.magnitudes", {"output": name}, read)
        case "quantize", [model, "published", scheme, ("checkpoint" | "manifest.json")]:
            theirs: Names = {"published": f"results/published/{model}/{scheme}/checkpoint"}
            job = Making(_module("quantize", "published"), pair, _model(model) | theirs)
        case "quantize", [model, quantizer, _, ("checkpoint" | "manifest.json")]:
            texts = f"results/calibrate/{re.escape(model)}/{NAME}\\.parquet"
            job = Making(_module("quantize", quantizer), pair, _model(model), texts)
        case "generate", [model, quantizer, scheme, file]:
            _stem(file)
            own: Names = {"checkpoint": f"results/quantize/{model}/{quantizer}/{scheme}/checkpoint"}
            questions = f"results/questions/{NAME}\\.parquet"
            job = Making(_module("generate", "engine"), {"output": name}, own, questions)
        case "speed", [model, quantizer, file]:
            served: Names = {"checkpoint": f"results/quantize/{model}/{quantizer}/{_stem(file)}/checkpoint"}
            job = Making(r"scripts\.speed", {"output": name}, served)
        case "score", [model, quantizer, scheme, suite, file]:
            samples = f"results/generate/{model}/{quantizer}/{scheme}/{suite}.parquet"
            asked: Names = {"questions": f"results/questions/{file}", "samples": samples}
            job = Making(
                _module("score", _stem(file)), {"output": name}, asked, f"results/datasets/{NAME}/files", "datasets"
            )
    return job


def _model(name: str) -> Names:
    return {"model": f"results/models/{name}/checkpoint"}


def _module(stage: str, name: str) -> str:
    return re.escape(f"scripts.{stage}.{name}")


def _stem(file: str) -> str:
    """Raises ValueError where the file is no table, or its name none of a module."""
    if not (found := re.fullmatch(r"([\w-]+(?:\.[\w-]+)*)\.parquet", file)):
        raise ValueError(f"no rule makes {file}")
    return found[1]


def _of_report(name: str, folder: str, file: str) -> Making | None:
    def table(*names: str) -> Names:
        return {each: f"{folder}/{each}.parquet" for each in names}

    module, output = _module("report", file.removesuffix(".parquet")), {"output": name}
    places = {"questions": "results/questions"}
    questions = f"results/questions/{NAME}\\.parquet"
    cell = f"{NAME}/{NAME}/{NAME}"
    manifests = f"results/quantize/{cell}/manifest\\.json"
    drawn = [f"{folder}/figures/{figure}.{form}" for figure in FIGURES for form in ("svg", "png")]
    job = None
    if file in {f"{each}.parquet" for each in (*TABLES_OF_SAMPLES, "ablations", "scaling")}:
        job = Making(module, output, table("samples"))
    elif file == "magnitudes.parquet":
        job = Making(module, output, others=f"results/magnitudes/{NAME}/{NAME}\\.parquet", several="magnitudes")
    elif file == "loops.parquet":
        drawn_by, fixed = f"results/generate/{cell}/{NAME}\\.parquet", {"generate": "results/generate"}
        job = Making(module, output, table("samples"), drawn_by, fixed=fixed)
    elif file in ("findings.parquet", "paper.parquet"):
        others = (manifests, "manifests") if file == "findings.parquet" else ()
        job = Making(module, output, table("samples") | {"paper": PAPER}, *others)
    elif file == "samples.parquet":
        scores = f"results/score/{cell}/{NAME}/{NAME}\\.parquet"
        job = Making(module, output, others=f"{scores}|{questions}", fixed=places | {"scores": "results/score"})
    elif file == "efficiency.parquet":
        made = f"{manifests}|results/speed/{cell}\\.parquet"
        job = Making(module, output, table("summary", "lengths"), made, "made")
    elif file in ("summary.md", "summary.tex"):
        both: Names = {"output": f"{folder}/summary.md", "tex": f"{folder}/summary.tex"}
        job = Making(_module("report", "headline"), both, table("summary", "drops"))
    elif file in ("explorer/files", "explorer/manifest.json"):
        pieces: Names = {"files": f"{folder}/explorer/files", "manifest": f"{folder}/explorer/manifest.json"}
        others, fixed = f"results/generate/{cell}/{NAME}\\.parquet|{questions}", {"generate": "results/generate"}
        job = Making(_module("report", "explorer"), pieces, table("samples"), others, fixed=places | fixed)
    elif file == "index.html":
        shown: Names = {"tables": [f"{folder}/{each}.parquet" for each in TABLES]}
        sources = {"template": "page.html", "style": "page.css", "charts_code": "charts.js"}
        sources |= {"explorer_code": "explorer.js"}
        job = Making(_module("report", "page"), output, {k: f"{PAGE}/{v}" for k, v in sources.items()} | shown)
    elif name in drawn:
        used = table("accuracy", "drops", "lengths", "budget", "scaling", "difficulty", "efficiency", "magnitudes")
        job = Making(_module("report", "figures"), {"figures": drawn}, used)
    return job


def listed(names: Names) -> list[str]:
    """All paths."""
    return [path for value in names.values() for path in (value if isinstance(value, list) else [value])]


def place(record: dict) -> str:
    """Where the record of these outputs lies."""
    return str(record_path(Path(listed(making(min(record["outputs"])).outputs)[0])))


def wrong(record: dict) -> str | None:
    """In which respect a record does not say what follows from the path of its artifact; None if in none."""
    return next(_faults(record), None)


def _faults(record: dict) -> Iterator[str]:
    name = min(record["outputs"])
    try:
        job = making(name)
    except ValueError as error:
        yield str(error)
        return
    outputs, inputs, parameters = listed(job.outputs), record["inputs"], record["parameters"]
    if record["outputs"].keys() != set(outputs):
        yield f"names the outputs {', '.join(record['outputs'])}, not {', '.join(outputs)}"
    keys = wildcards(Path(outputs[0]))
    for key, value in {"rule": Path(name).parts[1], "wildcards": keys}.items():
        if record[key] != value:
            yield f"says {key} {record[key]!r}, where the path of its artifact says {value!r}"
    if not re.fullmatch(job.module, record["module"]):
        yield f"says that {record['module']} made it, which does not make such artifacts"
    if missing := [path for path in listed(job.inputs) if path not in inputs]:
        yield f"does not name its input {missing[0]}"
    others = [path for path in inputs if path not in listed(job.inputs)]
    if strange := [path for path in others if ".." in Path(path).parts or not re.fullmatch(job.others, path)]:
        yield f"names the input {strange[0]}, which its rule does not have"
    for key, value in (keys | job.fixed).items():
        if parameters.get(key, value) != value:
            yield f"says {key} {parameters[key]!r} in its parameters, where its path says {value!r}"
    yield from _of_settings(record, others)


def _of_settings(record: dict, others: list[str]) -> Iterator[str]:
    """A checkpoint is calibrated on the corpus that its settings name."""
    settings = record["parameters"].get("settings", {})
    if not isinstance(settings, dict):
        yield "has settings that are none"
    elif record["rule"] == "quantize":
        corpus = settings.get("corpus")
        if others != ([f"results/calibrate/{record['wildcards']['model']}/{corpus}.parquet"] if corpus else []):
            yield f"names beside its model {', '.join(others) or 'no input'}, but its settings name the corpus {corpus}"


def arguments(record: dict, folder: Path) -> tuple[Any, dict[str, Any], dict[str, Path]]:
    """The stage's `main`, its arguments with all outputs below a folder, and where each output lies then, by name.

    For tables and scores, of records in which nothing is wrong.
    """
    job = making(min(record["outputs"]))
    module = importlib.import_module(record["module"])
    main = inspect.unwrap(module.main.registered_commands[0].callback)
    others = [path for path in record["inputs"] if path not in listed(job.inputs)]
    found: dict[str, Any] = record["parameters"] | record["wildcards"] | job.fixed | {job.several: others}
    made = {path: folder / path for path in listed(job.outputs)}

    def paths(value: Any) -> Any:
        return [paths(part) for part in value] if isinstance(value, list) else made.get(value, Path(value))

    names = {**job.inputs, **job.outputs}
    found |= {key: paths(value) for key, value in (found | names).items() if key in (*names, job.several)}
    return main, {key: found[key] for key in inspect.signature(main).parameters}, made
