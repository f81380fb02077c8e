"""The paper's full grid on H100s, simulated: one engine start per checkpoint beside one per benchmark and seed.

    python -m tests.bench.simulate

Nothing here was measured on a GPU. Assumptions: answer lengths are lognormal with the means below and sigma 0.8, cut
at 32,768 tokens; a decoding step takes 4 ms and the time to read the weights and the batch's KV cache in bfloat16 at
60 % of the memory's 3.35 TB/s on each GPU; prefill is free; a batch has at most 256 sequences whose caches fit into
90 % of the memory beside the weights; a start takes 90 s and reads the weights at 2 GB/s. Quantization is fake, so
that every checkpoint of a model costs the same.
"""

import heapq
import random
from dataclasses import dataclass
from itertools import product

from tests.bench import size

STEP_SECONDS = 4e-3
BYTES_PER_SECOND = 0.6 * 3.35e12
GPU_BYTES = 0.9 * 80e9
MAX_SEQUENCES = 256
LIMIT = 32_768
SEEDS = size(3, 1)
BENCHMARKS = {  # questions, mean tokens of an answer
    "AIME-120": (120, 12_000),
    "MATH-500": (500, 4_000),
    "GSM8K": (1319, 1_000),
    "GPQA-D": (198, 8_000),
    "LCB": (268, 10_000),
}


@dataclass(frozen=True)
class Model:
    parameters: float
    layers: int
    kv_heads: int
    gpus: int
    checkpoints: int  # rows of the paper's tables

    @property
    def weight_bytes(self) -> float:
        return 2 * self.parameters

    @property
    def kv_bytes(self) -> int:
        """Of one token, over all layers; heads have 128 channels."""
        return 2 * 2 * self.layers * self.kv_heads * 128


MODELS = {
    "DeepSeek-R1-Distill-Qwen-1.5B": Model(1.78e9, 28, 2, 1, 15),
    "DeepSeek-R1-Distill-Qwen-7B": Model(7.62e9, 28, 4, 1, 13),
    "DeepSeek-R1-Distill-Qwen-14B": Model(14.8e9, 48, 8, 1, 15),
    "DeepSeek-R1-Distill-Qwen-32B": Model(32.8e9, 64, 8, 4, 15),
    "DeepSeek-R1-Distill-Llama-8B": Model(8.03e9, 32, 8, 1, 15),
    "DeepSeek-R1-Distill-Llama-70B": Model(70.6e9, 80, 8, 8, 15),
    "QwQ-32B": Model(32.8e9, 64, 8, 4, 15),
    "Qwen3-8B": Model(8.19e9, 36, 8, 1, 14),
}


def answer_lengths(questions: int, mean: int, draw: random.Random) -> list[int]:
    sigma = 0.8
    mu = -(sigma**2) / 2
    return [min(LIMIT, max(1, int(mean * draw.lognormvariate(mu, sigma)))) for _ in range(questions)]


def start_seconds(model: Model) -> float:
    return 90 + model.weight_bytes / 2e9


def decode_seconds(lengths: list[int], model: Model) -> float:
    """Continuous batching, first come first served: from one finished sequence to the next."""
    capacity = (GPU_BYTES * model.gpus - model.weight_bytes) / model.kv_bytes  # tokens
    bandwidth = BYTES_PER_SECOND * model.gpus
    waiting = lengths[::-1]
    running: list[tuple[int, int]] = []  # steps of a sequence's end and length
    step, cached, seconds = 0, 0, 0.0
    while waiting or running:
        # A sequence is let in when there is room for half of its cache: others end before it is grown.
        while waiting and len(running) < MAX_SEQUENCES and (not running or cached + waiting[-1] / 2 <= capacity):
            length = waiting.pop()
            heapq.heappush(running, (step + length, length))
        steps = running[0][0] - step
        mean_cached = cached + len(running) * steps / 2
        seconds += steps * (STEP_SECONDS + (model.weight_bytes + mean_cached * model.kv_bytes) / bandwidth)
        cached += len(running) * steps
        step += steps
        while running and running[0][0] == step:
            cached -= heapq.heappop(running)[1]
    return seconds


def makespan(jobs: list[tuple[int, float]], gpus: int) -> float:
    """Hours until all (GPUs, hours) jobs are done, widest and longest first, on nodes of eight GPUs."""
    free = [[0.0] * 8 for _ in range(gpus // 8)]
    for width, hours in sorted(jobs, reverse=True):
        node = min(free, key=lambda node: sorted(node)[width - 1])
        node.sort()
        begin = node[width - 1]
        node[:width] = [begin + hours] * width
    return max(max(node) for node in free)


def main() -> None:
    draw = random.Random(0)
    one, many, whole_jobs, part_jobs = 0.0, 0.0, [], []
    print(f"(f) {sum(model.checkpoints for model in MODELS.values())} checkpoints; GPU hours per checkpoint")
    print(f"    {'model':30} {'GPUs':>4} {'one start':>10} {'per benchmark and seed':>23} {'ratio':>6}")
    for name, model in MODELS.items():
        parts = [answer_lengths(*BENCHMARKS[benchmark], draw) for benchmark, _ in product(BENCHMARKS, range(SEEDS))]
        ordered = sorted((length for part in parts for length in part), reverse=True)
        whole_hours = (start_seconds(model) + decode_seconds(ordered, model)) / 3600
        part_hours = [(start_seconds(model) + decode_seconds(part, model)) / 3600 for part in parts]
        whole, split = whole_hours * model.gpus, sum(part_hours) * model.gpus
        print(f"    {name:30} {model.gpus:4} {whole:10.1f} {split:23.1f} {split / whole:6.2f}")
        one, many = one + model.checkpoints * whole, many + model.checkpoints * split
        whole_jobs += [(model.gpus, whole_hours)] * model.checkpoints
        part_jobs += [(model.gpus, hours) for hours in part_hours] * model.checkpoints
    print(f"    {'all, GPU hours':35} {one:10,.0f} {many:23,.0f} {many / one:6.2f}")
    for gpus in (8, 64):
        spans = makespan(whole_jobs, gpus), makespan(part_jobs, gpus)
        print(f"    {f'days on {gpus} GPUs':35} {spans[0] / 24:10.1f} {spans[1] / 24:23.1f} {spans[1] / spans[0]:6.2f}")


if __name__ == "__main__":
    main()
