"""A study as a Workflow Run RO-Crate (profile Provenance Run Crate 0.5): what was run, on what, with which result.

https://www.researchobject.org/workflow-run-crate/profiles/provenance_run_crate
"""

import json
import mimetypes
import shlex
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from scripts.audit._records import Results, lineage
from scripts.audit.verify import verify
from scripts.run.errors import UserError
from scripts.run.files import sha256

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
}
VOCABULARY = "https://w3id.org/ro/terms/workflow-run#"
TERMS = {name: f"{VOCABULARY}{name}" for name in ("sha256", "resourceUsage")}
WORKFLOW = ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
PYTHON = "https://www.python.org"
LICENSE = "https://spdx.org/licenses/Apache-2.0"
REPOSITORY = (
    "Makefile", "pyproject.toml", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE",
    "rules", "scripts", "config", "profiles", "envs",
)  # fmt: skip
LARGE = ("models", "published", "datasets", "quantize")  # whose folders need not be exported
FORMATS = {".parquet": "application/vnd.apache.parquet", ".safetensors": "application/octet-stream"}
USAGE = {"wall_seconds": "s", "cpu_seconds": "s", "peak_memory_bytes": "bytes"}
COMPLETED = {"@id": "http://schema.org/CompletedActionStatus"}


def export(results: Results, study: str, target: Path, checkpoints: bool = False) -> None:
    """Write the crate of a study, a folder or, by its name, a zip file.

    Args:
        results: of the repository in the working folder.
        study: whose tables, and all behind them, are exported.
        target: must not exist.
        checkpoints: take the files of models, checkpoints and datasets, too, not only their manifests.

    Raises:
        UserError: no such study, the target exists, or `verify` finds a cause.
    """
    tables = [name for name in results.artifacts if name.startswith(f"results/report/{study}/")]
    if not tables:
        known = sorted({name.split("/")[2] for name in results.artifacts if name.startswith("results/report/")})
        raise UserError(f"study {study!r} has no tables with records; there are {', '.join(known) or 'none'}")
    if target.exists():
        raise UserError(f"{target} exists; name another place, or remove it")
    if causes := verify(results, quick=True, names=tables):
        raise UserError(f"what was altered is not exported: {causes[0]}")
    edges = {name: inputs for table in tables for name, inputs in lineage(results, table).items()}
    records = {name: record for name, record in results.records.items() if edges.keys() & record["outputs"].keys()}
    crate = _crate(study, list(dict.fromkeys(map(_tool, records.values()))), checkpoints)
    jobs = [_job(crate, results, name, record, checkpoints) for name, record in records.items()]
    _run(crate, list(records.values()), jobs, [_add(crate, results, table) for table in tables])
    (crate.write_zip if target.suffix == ".zip" else crate.write)(target)


def _crate(study: str, tools: list[Path], checkpoints: bool) -> ROCrate:
    """A crate of the repository, without results: the workflow, and a step for each stage's script that was run."""
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms = TERMS
    crate.name = f"Quantized reasoning: study {study}"
    left_out = "" if checkpoints else "; of models, checkpoints and datasets the manifests, with each file's SHA-256"
    crate.description = (
        f"The tables of the study {study!r} and all behind them: questions, samples, scores, the workflow with its "
        f"code, and a provenance record of each artifact{left_out}."
    )
    crate.license = crate.add(
        ContextEntity(crate, LICENSE, {"@type": "CreativeWork", "name": "Apache License 2.0", "identifier": LICENSE})
    )
    workflow = crate.add_workflow(
        "Snakefile",
        "Snakefile",
        main=True,
        lang="snakemake",
        properties=_facts(Path("Snakefile")) | {"@type": WORKFLOW},
    )
    crate.add(ContextEntity(crate, PYTHON, {"@type": "ComputerLanguage", "name": "Python"}))
    for url, name in PROFILES.items():
        properties = {"@type": "CreativeWork", "name": name, "version": url.rsplit("/", 1)[1]}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, url, properties)))
    for entry in map(Path, REPOSITORY):
        for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
            if path.is_file() and "__pycache__" not in path.parts:
                tool = {"@type": ["File", "SoftwareSourceCode"], "programmingLanguage": {"@id": PYTHON}}
                crate.add_file(path, str(path), properties=_facts(path) | (tool if path in tools else {}))
    for position, path in enumerate(tools, 1):
        properties = {"@type": "HowToStep", "name": str(path), "position": str(position)}
        step = crate.add(ContextEntity(crate, f"#step/{path}", properties))
        step["workExample"] = crate.dereference(str(path))
        workflow.append_to("hasPart", crate.dereference(str(path)))
        workflow.append_to("step", step)
    return crate


def _tool(record: dict) -> Path:
    return Path(*record["module"].split(".")).with_suffix(".py")


def _add(crate: ROCrate, results: Results, name: str, checkpoints: bool = False) -> Any:
    """An artifact or a source of one in the crate; in place of a folder that is left out, its manifest."""
    path = results.path(name)
    if path.is_dir() and name.split("/")[1] in LARGE and not checkpoints:
        name, path = str(Path(name).with_name("manifest.json")), path.with_name("manifest.json")
    if known := crate.dereference(f"{name}/" if path.is_dir() else name):
        return known
    if path.is_dir():
        return crate.add_dataset(path, name, properties={"name": name})
    return crate.add_file(path, name.lstrip("/~"), properties=_facts(path) | {"name": name})


def _facts(path: Path) -> dict[str, str]:
    kind = FORMATS.get(path.suffix) or mimetypes.guess_type(path)[0] or "text/plain"
    size = str(path.stat().st_size)
    return {"name": str(path), "sha256": sha256(path), "contentSize": size, "encodingFormat": kind}


def _job(crate: ROCrate, results: Results, name: str, record: dict, checkpoints: bool) -> Any:
    """The run of a stage: what it took, what it made, and at which step of the workflow."""
    tool, job = crate.dereference(str(_tool(record))), f"#{name.removesuffix('.json')}"
    taken = {entity.id: entity for source in record["inputs"] if (entity := _add(crate, results, source, checkpoints))}
    made = {entity.id: entity for output in record["outputs"] if (entity := _add(crate, results, output, checkpoints))}
    values = [
        _value(crate, f"{job}/{key}", key, value if isinstance(value, str) else json.dumps(value, sort_keys=True))
        for key, value in record["parameters"].items()
    ]
    usage = [
        _value(crate, f"{job}/{key}", key, str(record[key]), propertyID=f"{VOCABULARY}{key}", unitText=unit)
        for key, unit in USAGE.items()
    ]
    action = crate.add_action(
        tool,
        job,
        object=[*taken.values(), *values],
        result=list(made.values()),
        properties={
            "name": " ".join([record["rule"], *record["wildcards"].values()]),
            "description": shlex.join(record["command"]),
            "startTime": record["start"],
            "endTime": record["end"],
            "actionStatus": COMPLETED,
        },
    )
    action["resourceUsage"] = usage
    action["subjectOf"] = _add(crate, results, name)
    control = crate.add(ContextEntity(crate, f"#control/{name}", {"@type": "ControlAction", "name": f"run of {name}"}))
    control["instrument"] = crate.dereference(f"#step/{tool.id}")
    control["object"] = action
    control["actionStatus"] = COMPLETED
    return control


def _value(crate: ROCrate, identifier: str, name: str, value: str, **more: str) -> Any:
    return crate.add(ContextEntity(crate, identifier, {"@type": "PropertyValue", "name": name, "value": value} | more))


def _run(crate: ROCrate, records: list[dict], jobs: list[Any], tables: list[Any]) -> None:
    """The run of the workflow as a whole, made of its jobs."""
    times = {
        "startTime": min(record["start"] for record in records),
        "endTime": max(record["end"] for record in records),
        "actionStatus": COMPLETED,
    }
    config = crate.dereference("config/config.yaml")
    run = crate.add_action(crate.mainEntity, "#run", [config], tables, {"name": "run of the workflow", **times})
    engine = {
        "@type": "SoftwareApplication",
        "name": "Snakemake",
        "version": records[-1]["packages"]["snakemake"],
        "url": "https://snakemake.readthedocs.io",
    }
    organizer = crate.add(ContextEntity(crate, "#organizer", {"@type": "OrganizeAction", "name": "snakemake", **times}))
    organizer["instrument"] = crate.add(ContextEntity(crate, "#snakemake", engine))
    organizer["object"] = jobs
    organizer["result"] = run
    crate.root_dataset["mentions"] = [run, *(job["object"] for job in jobs)]
