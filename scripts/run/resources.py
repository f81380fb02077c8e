"""What a job needs, from the facts of its model, its scheme and its suite: the one place where sizes are estimated.

Sizes are in GB of 1e9 bytes. An estimate that is too small costs a retry, not work: samples that are finished are
stored, and the retry asks for more (`attempt` in rules/common.smk).
"""

from scripts.questions._chosen import count_of
from scripts.run.errors import UserError

GPU_SHARE = 0.9  # of its memory that vLLM takes (gpu_memory_utilization)
ENGINE_GB = 4  # per GPU: CUDA context and graphs, activations, logits of a full batch
WEIGHT_SHARE = 0.4  # of the GPUs' memory for weights: beyond it too few long answers run at once
SEQUENCES = 4  # answers of full length for which the KV cache must have room at the least
SIZES = (1, 2, 4, 8)  # tensor-parallel sizes: GPUs of one machine
PROCESS_MB = 4000  # an interpreter with torch and vLLM
# A 7B model answers the study's five benchmarks in 100 GPU minutes per 3 seeds (tests/bench/simulate.py).
MINUTES_PER_BILLION = 100 / 7.6 / 5 / 3  # and benchmark and seed, at 32,768 tokens
QUESTIONS = 481  # of a benchmark of the study, on average
SLACK = 4
SHARD_GB = 5  # of a checkpoint that is written (scripts/quantize/_rewrite.py)
ROUNDED_BYTES = 24  # by weight of a matrix that is rounded in float32
# FlatQuant's peak while it learns a layer in float32, in bytes: by parameter of the layer, and by token and channel of
# either width (tests/bench/learning.py).
LEARNED_BYTES, HIDDEN_BYTES, INTERMEDIATE_BYTES = 31, 91, 47
# A replication of FlatQuant took 5.3 hours of an H20 for the 1.5B model: 15 epochs of 128 sequences of 4,096 tokens in
# 28 layers of 1,536 and 8,960 channels. What it does is rounding, so that time goes by tokens and channels.
LEARNING_MINUTES = 5.3 * 60 / (15 * 128 * 4096) / (28 * (1536 + 8960))


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


def quantize_gb(model: dict, quantizer: str, scheme: dict, corpus: dict) -> tuple[float, float, float]:
    """What a GPU holds at once of a scheme that is calibrated: a layer, what is worked out for it, and its inputs.

    `make check-sizes` prints the sum, and the host's, beside the peaks of layers of the real widths.
    """
    hidden, intermediate = model["hidden_size"], model["intermediate_size"]
    parameters = weight_gb(model) / _bytes(model) / model["layers"]  # of a layer, in billions
    calibration = 2 * corpus["sequences"] * corpus["length"] * hidden * _bytes(model) / 1e9
    if quantizer == "flatquant":
        tokens = scheme["batch_size"] * corpus["length"]
        work = tokens * (HIDDEN_BYTES * hidden + INTERMEDIATE_BYTES * intermediate) / 1e9
        return LEARNED_BYTES * parameters, work, calibration
    if quantizer == "kvquant":
        return _bytes(model) * parameters, 0, calibration
    if quantizer == "awq":
        return 4 * parameters, ROUNDED_BYTES * hidden * intermediate / 1e9, calibration
    if inner := model.get("moe_intermediate_size"):  # the library holds the Hessians of all experts at once
        experts = model["linear_parameters"] / model["layers"] / (3 * hidden * inner)
        return 4 * parameters, 4 * experts * (2 * hidden**2 + inner**2) / 1e9, calibration
    return 4 * parameters, (2 if quantizer == "gptq" else 6) * 4 * intermediate**2 / 1e9, calibration


def quantize_gpus(model: dict, quantizer: str, scheme: dict, corpus: dict | None, gpu_gb: int) -> int:
    """One GPU, which holds one layer at a time, for a scheme that is calibrated; the others never touch one.

    Args:
        corpus: the one that the scheme is calibrated on, if it is.

    Raises:
        UserError: the largest layer does not fit; the message shows the sum.
    """
    if corpus is None:
        return 0
    layer, work, calibration = quantize_gb(model, quantizer, scheme, corpus)
    need = layer + work + calibration + ENGINE_GB
    if need > gpu_gb:
        of = {"flatquant": "a batch that it learns from", "awq": "rounding its largest matrix"}
        hessians = "the Hessian of down_proj and its inverse, or of all experts"
        raise UserError(
            f"needs {layer:.1f} GB for a layer + {work:.1f} GB for "
            f"{of.get(quantizer, hessians)} + {calibration:.1f} GB for calibration + "
            f"{ENGINE_GB} GB = {need:.1f} GB on one GPU of {gpu_gb} GB: raise gpu_memory_gb, or leave this cell out"
        )
    return 1


def cores(model: dict, gpus: int) -> int:
    """Up to four per GPU, for tokenizing, sampling and moving data; a tiny model is fastest on one."""
    return min(4, 1 + int(model["parameters"] / 1e9)) * max(gpus, 1)


def generate_mb(model: dict, gpus: int) -> int:
    """Host memory: a process per GPU and one that schedules, and the weights while they are read."""
    return int(PROCESS_MB * gpus + 1000 * weight_gb(model))


def weights_mb(model: dict) -> int:
    """Host memory of what checks a model, and stores it: the weights twice."""
    return int(PROCESS_MB + 2000 * weight_gb(model))


def quantize_mb(model: dict, quantizer: str, scheme: dict, corpus: dict | None) -> int:
    """Host memory: the model and a layer's inputs and outputs, or without calibration a shard and a matrix in work."""
    if corpus is None:
        matrix = ROUNDED_BYTES * model["hidden_size"] * model["intermediate_size"] / 1e9
        return int(PROCESS_MB + 1000 * (min(SHARD_GB, weight_gb(model)) + matrix))
    layer, work, calibration = quantize_gb(model, quantizer, scheme, corpus)
    without_gpu = layer + work  # what a GPU would hold otherwise
    kept = 3 if quantizer == "flatquant" else 1  # it keeps its targets, in float32
    return int(PROCESS_MB + 1000 * (weight_gb(model) + kept * calibration + without_gpu))


def disk_mb(model: dict, scheme: dict) -> int:
    """A checkpoint, and the finished layers of one that is calibrated; tokenizer and settings are small."""
    return int(100 + 1000 * weight_gb(model) * (2 if "corpus" in scheme else 1))


def generate_gpu_minutes(model: dict, scheme: dict, suite: dict) -> float:
    """Of a suite; rounding activations and the cache while the model runs is taken to cost as much again."""
    rounds = 2 if scheme.keys() & {"activation_bits", "kv_bits"} else 1
    shares = [min(1, (count_of(suite, benchmark) or QUESTIONS) / QUESTIONS) for benchmark in suite["benchmarks"]]
    length = suite.get("thinking_tokens", suite["max_model_len"])
    runs = sum(shares) * len(suite["seeds"]) * length / 32768
    return rounds * runs * MINUTES_PER_BILLION * model["parameters"] / 1e9


def generate_minutes(model: dict, scheme: dict, suite: dict, gpus: int) -> int:
    """Time limit of a suite."""
    return 60 + int(SLACK * generate_gpu_minutes(model, scheme, suite) / gpus)


def quantize_gpu_minutes(model: dict, quantizer: str, scheme: dict, corpus: dict | None) -> float:
    """Of a checkpoint; none where nothing is calibrated."""
    if corpus is None:
        return 0
    if quantizer != "flatquant":
        return 30 * model["parameters"] / 1e9 / SLACK
    tokens = scheme["epochs"] * corpus["sequences"] * corpus["length"]
    return LEARNING_MINUTES * tokens * model["layers"] * (model["hidden_size"] + model["intermediate_size"])


def quantize_minutes(model: dict, quantizer: str, scheme: dict, corpus: dict | None) -> int:
    """Time limit of a checkpoint. One core rounds the weights of a 70B model in five minutes, without a GPU.

    Learning has no slack: partitions have limits too, and the next attempt goes on with the next layer.
    """
    slack = 1 if quantizer == "flatquant" else SLACK
    return 60 + int(slack * quantize_gpu_minutes(model, quantizer, scheme, corpus))
