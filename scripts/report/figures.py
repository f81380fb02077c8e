"""`figures/`: the charts of a study, all models in each, as SVG and PNG for papers."""

import altair as alt
import pandas as pd
import vl_convert

from scripts.report import _charts as charts
from scripts.run.files import write_atomically
from scripts.run.stage import Input, Outputs, stage

PIXELS_PER_INCH = 200


def of_study(tables: dict[str, pd.DataFrame]) -> dict[str, alt.TopLevelMixin]:
    """Each chart of the page by name, suites and models below each other; one with nothing to show is left out."""
    found: dict[str, list[alt.TopLevelMixin]] = {}
    suites = charts.by_suite(tables)
    for suite, of_suite in suites.items():
        named = [suite] if len(suites) > 1 else []
        drawn = [(name, "", chart) for name, chart in charts.of_all(of_suite["efficiency"]).items()]
        for model in dict.fromkeys(of_suite["accuracy"]["model"]):
            drawn += [(name, model, chart) for name, chart in charts.of_model(of_suite, model).items()]
        for name, model, chart in drawn:
            title = ", ".join([*([model] if model else []), *named])
            titled = chart.properties(title=alt.Title(title, fontSize=14, frame="bounds")) if title else chart
            found.setdefault(name, []).append(titled)
    return {name: alt.vconcat(*parts, spacing=36).configure(**charts.CONFIG) for name, parts in found.items()}


@stage
def main(
    accuracy: Input,
    drops: Input,
    lengths: Input,
    budget: Input,
    scaling: Input,
    difficulty: Input,
    efficiency: Input,
    magnitudes: Input,
    figures: Outputs,
) -> None:
    paths = {
        "accuracy": accuracy,
        "drops": drops,
        "lengths": lengths,
        "budget": budget,
        "scaling": scaling,
        "difficulty": difficulty,
        "efficiency": efficiency,
        "magnitudes": magnitudes,
    }
    found = of_study({name: pd.read_parquet(path) for name, path in paths.items()})
    nothing = alt.Chart(pd.DataFrame({"row": [0]})).mark_text(text="nothing to show").configure(**charts.CONFIG)
    for figure in figures:
        spec = found.get(figure.stem, nothing).to_dict()
        if figure.suffix == ".svg":
            content = vl_convert.vegalite_to_svg(spec).encode()
        else:
            content = vl_convert.vegalite_to_png(spec, ppi=PIXELS_PER_INCH, scale=1)
        write_atomically(figure, lambda path, content=content: path.write_bytes(content))


if __name__ == "__main__":
    main()
