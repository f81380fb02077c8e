"""`magnitudes.parquet`: how far channels stick out, by model, layer and place; they all stand in results/magnitudes/.

Keys whose largest channels come with the bias, not without it, have a large bias: methods that round them behind it
lose there ("Quantization Hurts Reasoning?", arXiv 2504.04823, appendix C).
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from scripts.places import COLUMNS
from scripts.report._tables import write_frame
from scripts.run.stage import Inputs, Output, Parameter, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        column("study", pa.string(), "name of the study"),
        *COLUMNS,
        column("channels", pa.int64(), "channels there"),
        column("largest", pa.float64(), "largest magnitude of all channels"),
        column("median", pa.float64(), "median over the channels of their largest magnitudes"),
        column("ratio", pa.float64(), "largest over median: how far the worst channel sticks out"),
        column(
            "by_bias",
            pa.float64(),
            "largest magnitude of keys_before_rope over that of keys_before_bias of the layer; null elsewhere",
        ),
    ]
)


def tabulate(found: pd.DataFrame, study: str) -> pd.DataFrame:
    """One row per model, layer and place, from the rows of results/magnitudes/."""
    channels = found["magnitudes"].map(pd.Series)
    table = found.assign(
        study=study,
        channels=channels.map(len),
        largest=channels.map(pd.Series.max),
        median=channels.map(pd.Series.median),
    )
    before = table[table["place"] == "keys_before_bias"].set_index(["model", "layer"])["largest"]
    without = pd.MultiIndex.from_frame(table[["model", "layer"]]).map(before)
    return table.assign(
        ratio=table["largest"] / table["median"],
        by_bias=(table["largest"] / without).where(table["place"] == "keys_before_rope"),
    )[SCHEMA.names]


def joined(paths: Sequence[Path]) -> pd.DataFrame:
    """The rows of these files, by their names: a record knows no other order."""
    names = [*(field.name for field in COLUMNS), "magnitudes"]
    found = [pd.read_parquet(path) for path in sorted(paths)] or [pd.DataFrame(columns=names)]
    return pd.concat(found, ignore_index=True)


@stage
def main(output: Output, study: Parameter, magnitudes: Inputs = ()) -> None:
    write_frame(output, tabulate(joined(magnitudes), study), SCHEMA)


if __name__ == "__main__":
    main()
