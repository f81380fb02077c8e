"""The report's charts: of one model for the page, of all models for a paper.

Colours have a contrast of at least 3 to white and to the page's dark ground alike, and every class has a shape of its
own, so that a chart needs neither colours nor a theme to be read.
"""

from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd

from scripts.report._classes import margins_of
from scripts.report._tables import AVERAGE, CELL

CLASSES = {  # class → colour, shape
    "lossless": ("#1f9e89", "circle"),
    "fair": ("#b8860b", "square"),
    "risky": ("#d1335b", "triangle-down"),
    "undetermined": ("#7f8794", "diamond"),
}
COLOURS = ["#3b7dd8", "#d9662b", "#1f9e89", "#b0559f", "#9a7d0a", "#4d9db8", "#8a6fd1", "#7f8794"]
LOSS, GAIN = "#d1335b", "#1f9e89"
DOT = {"filled": True, "opacity": 1, "color": COLOURS[0]}
KINDS = {"full": "circle", "weights": "square", "cache": "triangle-up", "weights, activations, cache": "diamond"}
WIDTH, HEIGHT, ROW = 760, 360, 19  # pixels of a chart, and of a method's row
CONFIG = {
    "view": {"stroke": None},
    "axis": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "titlePadding": 8, "ticks": False,
             "labelPadding": 6, "domain": False},
    "legend": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"},
    "text": {"fontSize": 10},
    "title": {"fontSize": 12, "anchor": "start", "fontWeight": 600, "offset": 8,
              "frame": "group"},
    "concat": {"spacing": 24},
}  # fmt: skip


def by_suite(tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, pd.DataFrame]]:
    """The rows of each suite, in the study's order, of tables that know suites; the others whole, and `scaling`."""
    of = {name: frame for name, frame in tables.items() if "suite" in frame and name != "scaling"}
    suites = dict.fromkeys(of["accuracy"]["suite"])
    whole = {name: tables[name] for name in ("scaling", "magnitudes")}
    return {suite: {name: frame[frame["suite"] == suite] for name, frame in of.items()} | whole for suite in suites}


def of_model(tables: dict[str, pd.DataFrame], model: str) -> dict[str, alt.TopLevelMixin]:
    """The charts that show one model asked one suite, by name; those that have nothing to show are left out."""
    frames = {
        name: labelled(tables[name]) for name in ("drops", "lengths", "budget", "scaling", "difficulty", "accuracy")
    }
    keys = ["study", *CELL]
    of = {name: frame[frame["model"] == model].round(3) for name, frame in frames.items()}
    ladder = of.pop("scaling").query(f"benchmark == '{AVERAGE}'")
    of = {name: frame.drop(columns=keys) for name, frame in of.items()}
    lost = of["drops"][of["drops"]["benchmark"] == AVERAGE]
    longer = of["lengths"][of["lengths"]["ratio"].notna()]
    found = {"drops": drops(lost)} if len(lost) else {}
    found |= {"lengths": lengths(longer)} if len(longer) else {}
    found["budget"] = budget(of["budget"][of["budget"]["benchmark"] == AVERAGE])
    found |= {"scaling": scaling(ladder)} if len(ladder) else {}
    found["truncated"] = truncated(of["lengths"])
    for by in ("level", "solve_rate"):
        rows = of["difficulty"][of["difficulty"]["by"] == by]
        found |= {by: difficulty(rows)} if len(rows) else {}
    found["seeds"] = seeds(of["accuracy"])
    looked = tables["magnitudes"][tables["magnitudes"]["model"] == model]
    return found | ({"magnitudes": magnitudes(looked)} if len(looked) else {})


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """With `method`, "quantizer/scheme"."""
    return frame.assign(method=frame["quantizer"] + "/" + frame["scheme"])


def methods(frame: pd.DataFrame, labels: bool = True, grid: bool = True) -> alt.Y:
    """The axis of methods, in the order of their rows."""
    order = list(dict.fromkeys(frame["method"]))
    return alt.Y("method:N", sort=order, title=None, axis=alt.Axis(labels=labels, grid=grid, labelLimit=240))


def tooltip(*fields: str) -> list[alt.Tooltip]:
    """Each of "name", or "name|title"; numbers with two decimals at the most."""
    names = {"model", "method", "suite", "benchmark", "class", "bin", "seed"}
    entries = []
    for field in fields:
        name, _, title = field.partition("|")
        options = {"type": "nominal"} if name in names else {"type": "quantitative", "format": ",.2~f"}
        entries.append(alt.Tooltip(field=name, title=title or name, **options))
    return entries


def rule(at: float) -> alt.Chart:
    """A vertical line to read distances from."""
    frame = pd.DataFrame({"x": [at]})
    return alt.Chart(frame).mark_rule(color=COLOURS[-1], strokeDash=[3, 3], tooltip=None).encode(x="x:Q")


def drops(frame: pd.DataFrame) -> alt.LayerChart:
    """Drops of one model's averages with their intervals, coloured by class, best first."""
    frame = frame.sort_values("drop", ascending=False)
    classes = list(CLASSES)
    base = alt.Chart().encode(
        y=methods(frame),
        color=alt.Color(
            "class:N",
            scale=alt.Scale(domain=classes, range=[colour for colour, _ in CLASSES.values()]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        tooltip=tooltip("method", "accuracy", "baseline", "drop", "low", "high", "class", "p_adjusted|p (Holm)"),
    )
    scale = alt.Scale(zero=True, nice=True)
    x = alt.X("low:Q", title="drop of the average, in points, with its 95 % interval", scale=scale)
    shapes = alt.Scale(domain=classes, range=[shape for _, shape in CLASSES.values()])
    layers = [
        rule(0),
        *(rule(-margin) for margin in margins_of(frame).values()),
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(filled=True, size=75, opacity=1).encode(
            x="drop:Q", shape=alt.Shape("class:N", scale=shapes, legend=alt.Legend(title=None, orient="top"))
        ),
    ]
    return alt.layer(*layers, data=frame).properties(width=WIDTH, height=alt.Step(ROW))


def kind(row: pd.Series) -> str:
    """What a cell of `efficiency` rounds."""
    if pd.notna(row["activation_bits"]):
        return "weights, activations, cache"
    if pd.notna(row["kv_bits"]):
        return "cache"
    return "full" if row["quantizer"] == "none" else "weights"


def of_all(efficiency: pd.DataFrame) -> dict[str, alt.LayerChart]:
    """The charts that show all models asked one suite, by name; what was not timed is in none of time."""
    timed = efficiency[efficiency["answer_seconds"].notna()]
    found = {"pareto": front(efficiency, "weight_bytes", "nominal size of the weights")}
    found["memory"] = front(efficiency, "memory_bytes", "nominal size of the weights and of a mean answer's cache")
    return found | ({"speed": front(timed, "answer_seconds", "time of a mean answer alone")} if len(timed) else {})


def front(frame: pd.DataFrame, taken: str, title: str) -> alt.LayerChart:
    """`efficiency` of all models: what each takes, in bytes or seconds, against accuracy; the line joins the best.

    Nothing that takes less is as accurate as what lies on it.
    """
    unit, size = "s", 1.0
    if taken.endswith("bytes"):
        unit, size = ("GB", 1e9) if frame[taken].max() >= 1e9 else ("MB", 1e6)
    frame = labelled(frame).assign(kind=frame.apply(kind, axis=1), size=frame[taken] / size)
    models = list(dict.fromkeys(frame["model"]))
    front = frame.sort_values(["size", "accuracy"], ascending=[True, False])
    front = front[front["accuracy"] > front["accuracy"].cummax().shift(fill_value=-1)]
    x = alt.X("size:Q", title=f"{title}, {unit}").axis(grid=False)
    low, high = frame["size"].min(), frame["size"].max()
    room = max(high / low, 1.5)  # names stand left of their points
    x = x.scale(type="log", nice=False, domain=[low / room**0.2, high * room**0.04])
    y = alt.Y("accuracy:Q", title="accuracy, in percent, mean of the benchmarks")
    y = y.scale(zero=False, padding=16)
    colour = alt.Color("model:N", legend=alt.Legend(title=None, orient="top"))
    shape = alt.Shape("kind:N", legend=alt.Legend(title=None, orient="top"))
    picked = alt.selection_point(fields=["model"], bind="legend")
    points = alt.Chart(frame).mark_point(filled=True, size=85).encode(
        x=x,
        y=y,
        color=colour.scale(domain=models, range=COLOURS),
        shape=shape.scale(domain=list(KINDS), range=list(KINDS.values())),
        opacity=alt.condition(picked, alt.value(0.9), alt.value(0.12)),
        tooltip=tooltip("model", "method", "accuracy", f"size|{title}, {unit}", "weight_bits|bits of a weight"),
    )  # fmt: skip
    line = alt.Chart(front).mark_line(color=COLOURS[-1], strokeWidth=1.5, interpolate="step-after").encode(x=x, y=y)
    # Above and left of the line nothing lies: there is room for names, but for those too close to the one before.
    place = pd.DataFrame({"x": np.log(frame["size"]), "y": frame["accuracy"]})
    place = (place / (place.max() - place.min()).clip(lower=1e-9) * [WIDTH, HEIGHT]).loc[front.index]
    named: list[int] = []
    for row in place.itertuples():
        if not named or row.x - place.x[named[-1]] > 120 or row.y - place.y[named[-1]] > 20:
            named.append(row.Index)
    names = alt.Chart(front.loc[named]).mark_text(align="right", dx=-8, dy=-8).encode(x=x, y=y, text="method:N")
    return alt.layer(line, points.add_params(picked), names).properties(width=WIDTH, height=HEIGHT)


def lengths(frame: pd.DataFrame) -> alt.HConcatChart:
    """`lengths` of one model's quantized checkpoints: how much longer outputs are than the baseline's, by benchmark."""

    def draw(rows: pd.DataFrame, y: alt.Y) -> alt.LayerChart:
        shown = ("method", "benchmark", "mean|mean tokens", "ratio", "low", "high", "truncated|truncated, %")
        base = alt.Chart().encode(y=y, tooltip=tooltip(*shown))
        x = alt.X("low:Q", title="mean length / baseline's", scale=alt.Scale(zero=False))
        interval = base.mark_rule(strokeWidth=2, color=COLOURS[0]).encode(x=x, x2="high:Q")
        return alt.layer(rule(1), interval, base.mark_point(**DOT, size=60).encode(x="ratio:Q"), data=rows)

    return by_benchmark(frame, draw)


def lines(frame: pd.DataFrame, size: int) -> alt.Chart:
    """A line for each method, with points of this size."""
    order = list(dict.fromkeys(frame["method"]))
    colour = alt.Color("method:N", sort=order, scale=alt.Scale(domain=order, range=COLOURS))
    colour = colour.legend(title=None, orient="top", columns=4, labelLimit=240)
    chart = alt.Chart(frame).mark_line(point={"size": size}, strokeWidth=1.5).encode(color=colour)
    return chart.properties(width=WIDTH, height=HEIGHT)


def budget(frame: pd.DataFrame) -> alt.Chart:
    """`budget` of one model: the average's accuracy by where answers are cut, a line for each method."""
    picked = alt.selection_point(fields=["method"], bind="legend")
    x = alt.X("tokens:Q", title="answers cut at, in tokens", scale=alt.Scale(type="log", base=2, nice=False))
    x = x.axis(values=sorted(frame["tokens"].unique().tolist()), grid=False)
    shown = ("method", "tokens", "ended|ended, %", "accuracy", "baseline", "drop", "low", "high")
    y = alt.Y("accuracy:Q", title="accuracy, in percent, mean of the benchmarks")
    opacity = alt.condition(picked, alt.value(0.9), alt.value(0.12))
    return lines(frame, 30).encode(x=x, y=y, opacity=opacity, tooltip=tooltip(*shown)).add_params(picked)


def scaling(frame: pd.DataFrame) -> alt.Chart:
    """`scaling` of one model: the average's accuracy by the mean length of outputs, a point for each rung."""
    frame = frame[["method", "suite", "thinking_tokens", "mean_tokens", "accuracy", "gain", "low", "high"]]
    shown = ("method", "suite", "thinking_tokens|budget", "mean_tokens|mean tokens", "accuracy", "gain", "low", "high")
    x = alt.X("mean_tokens:Q", title="mean length of an answer, in tokens", scale=alt.Scale(zero=False))
    y = alt.Y("accuracy:Q", title="accuracy, in percent, mean of the benchmarks", scale=alt.Scale(zero=False))
    return lines(frame, 45).encode(x=x, y=y, order="mean_tokens:Q", tooltip=tooltip(*shown))


def truncated(frame: pd.DataFrame) -> alt.HConcatChart:
    """`lengths` of one model: the share of outputs that the token limit cut off, by benchmark."""
    scale = alt.Scale(domain=[0, max(frame["truncated"].max(), 1)])

    def draw(rows: pd.DataFrame, y: alt.Y) -> alt.Chart:
        x = alt.X("truncated:Q", title="cut off, in percent", scale=scale)
        shown = tooltip("method", "benchmark", "truncated|truncated, %", "max|longest, tokens")
        return alt.Chart(rows).mark_bar(height=9, color=COLOURS[1]).encode(x=x, y=y, tooltip=shown)

    return by_benchmark(frame, draw)


def difficulty(frame: pd.DataFrame) -> alt.HConcatChart:
    """`difficulty` of one model by one of its kinds of bins: the drop in each."""
    size = alt.Scale(type="sqrt", domain=[0, max(frame["drop"].abs().max(), 1)], range=[0.03, 0.75])

    def draw(rows: pd.DataFrame, y: alt.Y) -> alt.LayerChart:
        order = sorted(rows["bin"].unique(), key=lambda name: (len(name), name))
        shown = ("method", "benchmark", "bin", "n|answers", "baseline", "accuracy", "drop", "low", "high")
        base = alt.Chart().encode(
            x=alt.X("bin:N", title=None, sort=order, axis=alt.Axis(labelAngle=0, orient="top")),
            y=y,
            tooltip=tooltip(*shown),
        )
        cells = base.mark_rect(cornerRadius=3).encode(
            color=alt.condition("datum.drop < 0", alt.value(LOSS), alt.value(GAIN)),
            opacity=alt.Opacity("size:Q", scale=size, legend=None),
        )
        numbers = base.mark_text().encode(text=alt.Text("drop:Q", format="+.1f"))
        return alt.layer(cells, numbers, data=rows.assign(size=rows["drop"].abs()))

    return by_benchmark(frame, draw, width=alt.Step(46))


def seeds(frame: pd.DataFrame) -> alt.HConcatChart:
    """`accuracy` of one model: a dot for each seed, a line at their mean, by benchmark."""

    def draw(rows: pd.DataFrame, y: alt.Y) -> alt.LayerChart:
        base = alt.Chart().encode(y=y)
        x = alt.X("accuracy:Q", title="accuracy, in percent", scale=alt.Scale(zero=False))
        shown = tooltip("method", "benchmark", "seed", "accuracy")
        return alt.layer(
            base.mark_tick(thickness=2, size=13, color=COLOURS[-1]).encode(x="mean(accuracy):Q"),
            base.mark_point(**DOT, size=34).encode(x=x, tooltip=shown),
            data=rows,
        )

    return by_benchmark(frame, draw)


def magnitudes(frame: pd.DataFrame) -> alt.Chart:
    """`magnitudes` of one model: the largest of each layer, a line for each place."""
    frame = frame[["layer", "place", "largest", "median", "ratio"]].rename(columns={"place": "method"})
    x = alt.X("layer:Q", title="decoder layer", axis=alt.Axis(tickMinStep=1, grid=False))
    y = alt.Y("largest:Q", title="largest magnitude", scale=alt.Scale(type="log", nice=False))
    shown = ("method|place", "layer", "largest", "median|median of the channels", "ratio|largest / median")
    return lines(frame, 30).encode(x=x, y=y, tooltip=tooltip(*shown))


def by_benchmark(
    frame: pd.DataFrame,
    draw: Callable[[pd.DataFrame, alt.Y], alt.Chart | alt.LayerChart],
    width: alt.Step | None = None,
) -> alt.HConcatChart:
    """What `draw` makes of each benchmark's rows, side by side in the study's order; the first names the methods."""
    order = list(dict.fromkeys(frame["benchmark"]))
    size = {"width": width or max(110, WIDTH // len(order) - 24), "height": alt.Step(ROW)}
    charts = []
    for name in order:
        y = methods(frame, labels=name == order[0], grid=width is None)
        charts.append(draw(frame[frame["benchmark"] == name], y).properties(title=name, **size))
    return alt.hconcat(*charts)
