"""`efficiency.parquet`: what each cell takes and how fast it ran, beside its accuracy.

Nominal sizes are those that a packed checkpoint and cache would have: our own methods are served from dequantized
weights with the same kernels, so their speed here says nothing about the speed of packed kernels. Of checkpoints that
others published sizes are those of their files, and what vLLM rounds itself (quantizer `vllm`) it holds so. Times are
those that the records of `generate` told when this table was made: they differ from run to run, and only this table
holds any. Samples that came from the store are timed as they were when they were generated.
"""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa

from scripts.report._tables import AVERAGE, CELL, STUDY_COLUMNS, verdict_of, write_frame
from scripts.run.errors import UserError
from scripts.run.record import record_path, told
from scripts.run.stage import Input, Inputs, Output, Settings, stage
from scripts.table import column

SCHEMA = pa.schema(
    [
        *STUDY_COLUMNS,
        column("accuracy", pa.float64(), "mean over seeds and the suite's benchmarks, in percent"),
        column("weight_bits", pa.float64(), "mean nominal bits of a weight of the decoder blocks' linear layers"),
        column(
            "activation_bits",
            pa.int64(),
            "bits of the inputs of linear layers; null: not rounded, or not told by a published checkpoint",
        ),
        column("kv_bits", pa.int64(), "bits of keys and values; null: not rounded"),
        column(
            "weight_bytes", pa.int64(), "nominal bytes of all weights: with scales, without zero points or transforms"
        ),
        column("disk_bytes", pa.int64(), "bytes of the checkpoint's files, with dequantized weights"),
        column("kv_bytes", pa.float64(), "nominal bytes of keys and values of one token, scales of its groups counted"),
        column("generated", pa.int64(), "samples that the last run generated; the others came from the store"),
        column(
            "tokens_per_second", pa.float64(), "output tokens per second of generating, in whatever run; null: unknown"
        ),
        column("seconds", pa.float64(), "time of generating all samples, in seconds; null: unknown"),
        column("wall_seconds", pa.float64(), "time of the whole job, start of the engine included, in seconds"),
        column("device", pa.string(), "what it ran on: GPUs, or else the CPU"),
    ]
)
SCALE_BITS = 16
KV_GROUP = 128  # channels of a head that share a scale, at most
MX_BITS, MX_BLOCK = 8, 32  # of MXFP4's shared exponents


def linear_layers(facts: dict) -> list[tuple[int, int, bool]]:
    """(in_features, out_features, row-parallel) of the seven linear layers of a decoder block."""
    hidden, inner, head = facts["hidden_size"], facts["intermediate_size"], facts["head_dim"]
    queries, keys = facts["heads"] * head, facts["kv_heads"] * head
    return [
        (hidden, queries, False), (hidden, keys, False), (hidden, keys, False), (queries, hidden, True),
        (hidden, inner, False), (hidden, inner, False), (inner, hidden, True),
    ]  # fmt: skip


def weight_size(facts: dict, scheme: dict, mx: bool) -> tuple[float, int]:
    """Mean bits of a weight of the linear layers, and bytes of all weights of the model."""
    full = 32 if facts["dtype"] == "float32" else 16
    weights = stored = 0
    for inputs, outputs, row_parallel in linear_layers(facts):
        weights += inputs * outputs
        groups = inputs // MX_BLOCK
        if not mx and "bits" in scheme:
            per_channel, size = scheme.get("row_groups", 1) if row_parallel else 1, scheme.get("group_size", -1)
            groups = per_channel if size == -1 else inputs // size
        scales = outputs * groups * (MX_BITS if mx else SCALE_BITS) if "bits" in scheme else 0
        stored += inputs * outputs * scheme.get("bits", full) + scales
    linear = facts.get("linear_parameters", facts["layers"] * weights)
    others = facts["parameters"] - linear
    return stored / weights, round((linear * stored / weights + others * full) / 8)


def kv_size(facts: dict, scheme: dict, mx: bool) -> float:
    """Bytes of one token's keys and values; keys on a static grid (`before_bias`) have no scales of their own.

    Neither has what the engine caches itself (`kv_cache_dtype`): fp8 has none, and of others vLLM alone knows them.
    """
    head, heads = facts["head_dim"], 2 * facts["layers"] * facts["kv_heads"]
    if "kv_bits" not in scheme:
        return heads * head * (4 if facts["dtype"] == "float32" else 2)
    groups, bits = (head / MX_BLOCK, MX_BITS) if mx else (-(-head // KV_GROUP), SCALE_BITS)
    scaled = 0 if "kv_cache_dtype" in scheme else heads / 2 if "before_bias" in scheme else heads
    return (heads * head * scheme["kv_bits"] + scaled * groups * bits) / 8


def sizes(facts: dict, scheme: dict, quantizer: str, published: dict) -> dict:
    """Bits and bytes of a cell: nominal, or of a published checkpoint those of its files."""
    mx = quantizer == "mxfp4"
    weight_bits, weight_bytes = weight_size(facts, scheme, mx)
    stated = {"weight_bits": weight_bits, "weight_bytes": weight_bytes}
    stated |= {name: scheme.get(name) for name in ("activation_bits", "kv_bits")} | published
    cached = {"kv_bits": stated["kv_bits"], "kv_cache_dtype": "published"} if published.get("kv_bits") else scheme
    return stated | {"kv_bytes": kv_size(facts, cached, mx)}


def timed(record: dict) -> dict:
    """What the record of `generate` tells of a cell."""
    speed = record["facts"]["tokens_per_second"]
    return {
        "generated": record["facts"]["generated"],
        "tokens_per_second": speed,
        "seconds": record["facts"]["output_tokens"] / speed if speed else None,
        "wall_seconds": record["wall_seconds"],
        "device": device(record),
    }


def device(record: dict) -> str:
    names = [gpu["name"] for gpu in record["gpus"]]
    if names:
        return " + ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    return f"{record['cpu']['model']}, {record['cpu']['cores']} cores"


@stage
def main(summary: Input, output: Output, manifests: Inputs, settings: Settings) -> None:
    """`settings`: `models` (name → facts) and `schemes` ("quantizer/scheme" → settings)."""
    averages = pd.read_parquet(summary)
    averages = averages[averages["benchmark"] == AVERAGE]
    held = {manifest.parts[-4:-1]: json.loads(manifest.read_text(encoding="utf-8")) for manifest in manifests}
    rows = []
    for cell in averages.itertuples(index=False):
        facts, scheme = settings["models"][cell.model], settings["schemes"][f"{cell.quantizer}/{cell.scheme}"]
        path = Path("results/generate", cell.model, cell.quantizer, cell.scheme, f"{cell.suite}.parquet")
        if (made := told(path, "facts", "wall_seconds", "gpus", "cpu")) is None:
            raise UserError(
                f"{record_path(path)} is missing: delete {path} and run again; finished samples are in the store"
            )
        manifest = held[cell.model, cell.quantizer, cell.scheme]
        rows.append(
            {
                **{name: getattr(cell, name) for name in ("study", *CELL)},
                "accuracy": cell.mean,
                **sizes(facts, scheme, cell.quantizer, manifest.get("sizes", {})),
                "disk_bytes": sum(file["bytes"] for file in manifest["files"].values()),
                **timed(made),
            }
        )
    write_frame(output, pd.DataFrame(rows), SCHEMA, verdict=verdict_of(summary))


if __name__ == "__main__":
    main()
