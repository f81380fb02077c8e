"""What a job needs, from the facts of its model, its scheme and its suite: the one place where sizes are estimated.

Sizes are in GB of 1e9 bytes. An estimate that is too small costs a retry, not work: samples that are finished are
stored, and the retry asks for more (`attempt` in rules/common.smk).
"""

from scripts.run.errors import UserError

GPU_SHARE = 0.9  # of its memory that vLLM takes (gpu_memory_utilization)
ENGINE_GB = 4  # per GPU: CUDA context and graphs, activations, logits of a full batch
WEIGHT_SHARE = 0.4  # of the GPUs' memory for weights: beyond it too few long answers run at once
SEQUENCES = 4  # answers of full length for which the KV cache must have room at the least
SIZES = (1, 2, 4, 8)  # tensor-parallel sizes: GPUs of one machine
PROCESS_MB = 4000  # an interpreter with torch and vLLM
# A 7B model answers the study's five benchmarks in 100 GPU minutes per 3 seeds (tests/bench/simulate.py).
MINUTES_PER_BILLION = 100 / 7.6 / 5 / 3  # and benchmark and seed, at 32,768 tokens
SLACK = 4


def weight_gb(model: dict) -> float:
    return model["parameters"] * _bytes(model) / 1e9


def _bytes(model: dict) -> int:
    return 4 if model["dtype"] == "float32" else 2


def sequence_gb(model: dict, tokens: int, gpus: int) -> float:
    """KV cache of one sequence over all GPUs; beyond one head per GPU the heads are replicated."""
    heads = max(model["kv_heads"], gpus)
    return 2 * model["layers"] * heads * model["head_dim"] * _bytes(model) * tokens / 1e9


def sizes(model: dict, scheme: dict) -> list[int]:
    """Tensor-parallel sizes that divide the model's heads and widths and the scheme's `row_groups`."""
    return [
        size
        for size in SIZES
        if model["heads"] % size == model["intermediate_size"] % size == scheme.get("row_groups", size) % size == 0
        and (model["kv_heads"] % size == 0 or size % model["kv_heads"] == 0)
    ]


def generate_gpus(model: dict, scheme: dict, tokens: int, gpu_gb: int) -> int:
    """GPUs that serve a checkpoint: the fewest whose weights leave room for a batch, or else the most that are allowed.

    Args:
        tokens: the suite's max_model_len.

    Raises:
        UserError: no number of GPUs holds the model; the message shows the sum.
    """

    def need(gpus: int) -> float:
        return weight_gb(model) + ENGINE_GB * gpus + SEQUENCES * sequence_gb(model, tokens, gpus)

    allowed = sizes(model, scheme)
    for gpus in allowed:
        if weight_gb(model) <= WEIGHT_SHARE * gpus * gpu_gb and need(gpus) <= GPU_SHARE * gpus * gpu_gb:
            return gpus
    most = allowed[-1]
    if need(most) <= GPU_SHARE * most * gpu_gb:
        return most
    raise UserError(
        f"needs {weight_gb(model):.1f} GB for weights + {ENGINE_GB} GB × {most} GPUs for the engine + {SEQUENCES} × "
        f"{sequence_gb(model, tokens, most):.1f} GB for answers of {tokens:,} tokens = {need(most):.1f} GB, but "
        f"{most} × {gpu_gb} GB × {GPU_SHARE} = {GPU_SHARE * most * gpu_gb:.1f} GB; heads, widths and row_groups "
        f"({scheme.get('row_groups', 'none')}) allow {', '.join(map(str, allowed))} GPUs: raise row_groups or "
        "gpu_memory_gb, or leave this cell out"
    )


def quantize_gpus(scheme: dict, model: dict, gpu_gb: int) -> int:
    """One GPU, which holds one layer at a time; none to link the baseline.

    Raises:
        UserError: the largest layer does not fit; the message shows the sum.
    """
    if not scheme:
        return 0
    layer = weight_gb(model) / model["layers"] * 4 / _bytes(model)
    hessian = 3 * model["intermediate_size"] ** 2 * 4 / 1e9 if "bits" in scheme else 0
    calibration = 2 * 128 * 2048 * model["hidden_size"] * _bytes(model) / 1e9
    need = layer + hessian + calibration + ENGINE_GB
    if need > gpu_gb:
        raise UserError(
            f"needs {layer:.1f} GB for a layer in float32 + {hessian:.1f} GB for the Hessian of down_proj and its "
            f"inverse + {calibration:.1f} GB for calibration + {ENGINE_GB} GB = {need:.1f} GB on one GPU of {gpu_gb} "
            "GB: raise gpu_memory_gb, or leave this cell out"
        )
    return 1


def cores(model: dict, gpus: int) -> int:
    """Up to four per GPU, for tokenizing, sampling and moving data; a tiny model is fastest on one."""
    return min(4, 1 + int(model["parameters"] / 1e9)) * max(gpus, 1)


def generate_mb(model: dict, gpus: int) -> int:
    """Host memory: a process per GPU and one that schedules, and the weights while they are read."""
    return int(PROCESS_MB * gpus + 1000 * weight_gb(model))


def weights_mb(model: dict) -> int:
    """Host memory of what reads a model and writes another: the weights twice."""
    return int(PROCESS_MB + 2000 * weight_gb(model))


def disk_mb(model: dict, scheme: dict) -> int:
    """A checkpoint, and the finished layers of one that is calibrated; tokenizer and settings are small."""
    return int(100 + 1000 * weight_gb(model) * (2 if "corpus" in scheme else 1))


def generate_gpu_minutes(model: dict, scheme: dict, suite: dict) -> float:
    """Of a suite; rounding activations and the cache while the model runs is taken to cost as much again."""
    rounds = 2 if scheme.keys() & {"activation_bits", "kv_bits"} else 1
    runs = len(suite["benchmarks"]) * len(suite["seeds"]) * suite["max_model_len"] / 32768
    return rounds * runs * MINUTES_PER_BILLION * model["parameters"] / 1e9


def generate_minutes(model: dict, scheme: dict, suite: dict, gpus: int) -> int:
    """Time limit of a suite."""
    return 60 + int(SLACK * generate_gpu_minutes(model, scheme, suite) / gpus)


def quantize_gpu_minutes(model: dict) -> float:
    """Of a method that calibrates; learned transforms, the slowest, take hours for a 7B model."""
    return 30 * model["parameters"] / 1e9 / SLACK


def quantize_minutes(model: dict) -> int:
    """Time limit of a checkpoint."""
    return 60 + int(SLACK * quantize_gpu_minutes(model))
