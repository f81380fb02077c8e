"""`efficiency.parquet`: what each cell takes and how fast it ran, beside its accuracy.

Nominal sizes are those that a packed checkpoint and cache would have: our own methods are served from dequantized
weights with the same kernels, so their speed here says nothing about the speed of packed kernels. Of checkpoints that
others published sizes are those of their files, and what vLLM rounds itself (quantizer `vllm`) it holds so. Times are
those that the records of `generate` told when this table was made; samples that came from the store are timed as they
were when they were generated. What an answer takes and costs is worked out from the stage `speed`, for what the engine
serves with kernels of its own. Times differ from run to run; beside `results/speed` only this table holds any.

Cells are comparable where the records say that their samples were drawn alike: `differs` says where not. What was timed
on another device than the baseline has no times here.
"""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa

from scripts.report._tables import (
    AVERAGE,
    BASELINE,
    CELL,
    STUDY_COLUMNS,
    Cell,
    baseline_of,
    verdict_of,
    write_frame,
)
from scripts.run import machine
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
        column("mean_tokens", pa.float64(), "mean length of the outputs, in tokens: mean over the suite's benchmarks"),
        column(
            "memory_bytes",
            pa.int64(),
            "nominal bytes of all weights, and of keys and values of an output of that length",
        ),
        column(
            "kernels",
            pa.string(),
            "real: the engine serves it with kernels of its format; dequantized: it has no speed of its own",
        ),
        column("generated", pa.int64(), "samples that the last run generated; the others came from the store"),
        column(
            "tokens_per_second", pa.float64(), "output tokens per second of generating, in whatever run; null: unknown"
        ),
        column("seconds", pa.float64(), "time of generating all samples, in seconds; null: unknown"),
        column("wall_seconds", pa.float64(), "time of the whole job, start of the engine included, in seconds"),
        column("device", pa.string(), "what it ran on: GPUs, or else the CPU"),
        column("engine", pa.string(), "package and version that drew the samples, whenever they were drawn"),
        column("dtype", pa.string(), "type that it computed in"),
        column("tensor_parallel_size", pa.string(), "GPUs that shared the model, as samples were drawn"),
        column("prompts", pa.string(), "digest of all prompts, as tokens"),
        column(
            "differs",
            pa.list_(pa.string()),
            "of engine, kind of device, dtype, tensor_parallel_size and prompts those that are not as the baseline's: "
            "what a drop may come from but the checkpoint",
        ),
        column("first_token", pa.float64(), "time to the first token of a request alone, in seconds; null: not timed"),
        column("per_token", pa.float64(), "time per token after it, in seconds; null: not timed"),
        column("answer_seconds", pa.float64(), "time of an output of mean length, alone, in seconds; null: not timed"),
        column("right_answer_seconds", pa.float64(), "the same for each right answer; null: not timed, or none is"),
        column("answer_price", pa.float64(), "price of such an output at the largest batch; null: no price, or no GPU"),
        column(
            "right_answer_price", pa.float64(), "the same for each right answer; null: no price, no GPU, or none is"
        ),
    ]
)
CONDITIONS = ("engine", "device", "dtype", "tensor_parallel_size", "prompts")
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
        "device": machine.device(record["gpus"], record["cpu"]),
    }


def differing(conditions: dict[Cell, dict[str, str]], cell: Cell) -> list[str]:
    """In which of them a cell is not as its baseline."""
    return [name for name in CONDITIONS if conditions[cell][name] != conditions[baseline_of(cell)][name]]


def memory(row: dict) -> int:
    """Bytes of all weights, and of the keys and values of an answer of mean length."""
    return round(row["weight_bytes"] + row["kv_bytes"] * row["mean_tokens"])


def served(speed: pd.DataFrame | None, mean_tokens: float, accuracy: float, price: float | None) -> dict:
    """What an answer of mean length takes where it is alone, and what it costs where the largest batch is served.

    Both with the longest of the prompts that were timed. A right answer takes as much as all answers for one that is.

    Args:
        speed: rows of the stage `speed` of a checkpoint; None: there are none.
        price: of one GPU for an hour; None: unknown.
    """
    names = ("first_token", "per_token", "answer_seconds", "right_answer_seconds", "answer_price", "right_answer_price")
    row: dict[str, float | None] = dict.fromkeys(names)
    if speed is None:
        return row
    longest = speed[speed["prompt_tokens"] == speed["prompt_tokens"].max()].sort_values("batch")
    alone, full, share = longest.iloc[0], longest.iloc[-1], accuracy / 100
    seconds = alone["first_token"] + alone["per_token"] * (mean_tokens - 1)
    row |= {"first_token": alone["first_token"], "per_token": alone["per_token"], "answer_seconds": seconds}
    row["right_answer_seconds"] = seconds / share if share else None
    if price is not None and full["gpus"]:
        cost = price / 3600 * full["gpus"] * mean_tokens / full["tokens_per_second"]
        row |= {"answer_price": cost, "right_answer_price": cost / share if share else None}
    return row


@stage
def main(summary: Input, lengths: Input, output: Output, made: Inputs, settings: Settings) -> None:
    """`made`: manifests of all checkpoints, and speeds of some.

    `settings`: `models` (name → facts), `schemes` ("quantizer/scheme" → settings), `served` (cells that have a speed of
    their own) and `price_per_gpu_hour`.
    """
    averages = pd.read_parquet(summary)
    averages = averages[averages["benchmark"] == AVERAGE]
    tokens = pd.read_parquet(lengths).groupby(CELL)["mean"].mean()
    manifests = [path for path in made if path.suffix == ".json"]
    held = {path.parts[-4:-1]: json.loads(path.read_text(encoding="utf-8")) for path in manifests}
    speeds = {path.with_suffix("").parts[-3:]: pd.read_parquet(path) for path in made if path.suffix == ".parquet"}
    real = {(model, *scheme.split("/")) for model, scheme in settings["served"]}
    rows, conditions = [], {}
    for cell in averages.itertuples(index=False):
        facts, scheme = settings["models"][cell.model], settings["schemes"][f"{cell.quantizer}/{cell.scheme}"]
        path = Path("results/generate", cell.model, cell.quantizer, cell.scheme, f"{cell.suite}.parquet")
        drawn = told(path, "facts", "wall_seconds", "gpus", "cpu")
        if drawn is None or "conditions" not in drawn["facts"]:
            raise UserError(
                f"{record_path(path)} is missing, or of an earlier version: delete {path} and run again; finished "
                "samples are in the store"
            )
        checkpoint = (cell.model, cell.quantizer, cell.scheme)
        manifest, mean_tokens = held[checkpoint], tokens[*checkpoint, cell.suite]
        row = {name: getattr(cell, name) for name in ("study", *CELL)}
        row |= {"accuracy": cell.mean, "mean_tokens": mean_tokens}
        row |= sizes(facts, scheme, cell.quantizer, manifest.get("sizes", {}))
        row |= {"disk_bytes": sum(file["bytes"] for file in manifest["files"].values()), "memory_bytes": memory(row)}
        row |= {"kernels": "real" if checkpoint in real else "dequantized"} | timed(drawn)
        conditions[*checkpoint, cell.suite] = found = drawn["facts"]["conditions"]
        row |= {name: found[name] for name in CONDITIONS if name != "device"}
        speed, alike = speeds.get(checkpoint), speeds.get((cell.model, *BASELINE))
        if speed is not None and alike is not None and set(speed["device"]) != set(alike["device"]):
            speed = None
        rows.append(row | served(speed, mean_tokens, cell.mean, settings["price_per_gpu_hour"]))
    for row in rows:
        row["differs"] = differing(conditions, tuple(row[name] for name in CELL))
    write_frame(output, pd.DataFrame(rows), SCHEMA, verdict=verdict_of(summary))


if __name__ == "__main__":
    main()
