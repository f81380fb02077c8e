"""How fast the engine serves a checkpoint on this machine: first token and those after it, by batch and prompt length.

Prompts are random tokens, answers go on to their stated length whatever the model would say: speed depends on shapes,
hardly on words. The engine is warm: each pair of batch and length runs once before it is timed. Times differ from run
to run and from machine to machine; this table, and what is worked out from it, tells which.
"""

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from scripts.generate.packed import check_packed
from scripts.generate.start import start_engine
from scripts.run import machine
from scripts.run.progress import Progress
from scripts.run.stage import Input, Output, Parameter, Settings, stage
from scripts.table import CELL_COLUMNS, column, write_table

if TYPE_CHECKING:
    from vllm import LLM

SCHEMA = pa.schema(
    [
        *CELL_COLUMNS,
        column("batch", pa.int64(), "requests that run at once"),
        column("prompt_tokens", pa.int64(), "length of each prompt, in tokens"),
        column("output_tokens", pa.int64(), "length of each answer, in tokens"),
        column("repeats", pa.int64(), "runs that were timed, each with prompts of its own"),
        column("first_token", pa.float64(), "time to the first token, in seconds: median over requests and runs"),
        column("first_token_low", pa.float64(), "first quartile of the same"),
        column("first_token_high", pa.float64(), "third quartile of the same"),
        column("per_token", pa.float64(), "time per token after the first, in seconds: median over requests and runs"),
        column("per_token_low", pa.float64(), "first quartile of the same"),
        column("per_token_high", pa.float64(), "third quartile of the same"),
        column("tokens_per_second", pa.float64(), "output tokens of all requests per second: median over runs"),
        column("gpus", pa.int64(), "GPUs that served it; 0: the CPU"),
        column("device", pa.string(), "what it ran on: GPUs, or else the CPU"),
    ]
)


class Run:
    """One batch from its first request to its last token; all times in seconds."""

    def __init__(self, llm: "LLM", prompts: list[list[int]], tokens: int) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine, first, last = llm.llm_engine, {}, {}
        sampling = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
        )
        began = time.perf_counter()
        for name, prompt in enumerate(prompts):
            engine.add_request(str(name), {"prompt_token_ids": prompt}, sampling)
        while engine.has_unfinished_requests():
            outputs, now = engine.step(), time.perf_counter() - began
            for output in outputs:
                first.setdefault(output.request_id, now)
                last[output.request_id] = now
        self.seconds = max(last.values())
        self.first_token = list(first.values())
        self.per_token = [(last[name] - first[name]) / (tokens - 1) for name in first]


def summarized(runs: list[Run], tokens: int) -> dict:
    """The columns that follow from the runs of a batch."""
    row = {}
    for name in ("first_token", "per_token"):
        values = [value for run in runs for value in getattr(run, name)]
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        row |= dict(zip((f"{name}_low", name, f"{name}_high"), quartiles, strict=True))
    rates = [len(run.first_token) * tokens / run.seconds for run in runs]
    return row | {"tokens_per_second": statistics.median(rates)}


def measure(llm: "LLM", settings: dict, label: str) -> list[dict]:
    """A row of each batch and prompt length, without the columns of cell and device."""
    draw, vocabulary = np.random.default_rng(0), llm.llm_engine.model_config.get_vocab_size()
    batches, tokens, repeats = sorted({1, 8, settings["max_num_seqs"]}), settings["tokens"], settings["repeats"]
    pairs = [(batch, length) for length in settings["prompts"] for batch in batches]
    progress = Progress(label, (1 + repeats) * len(pairs), "runs")
    rows = []
    for batch, length in pairs:
        runs = []
        for _ in range(1 + repeats):  # the first one warms the engine; no prompt comes twice, so none is cached
            runs.append(Run(llm, draw.integers(vocabulary, size=(batch, length)).tolist(), tokens))
            progress.add(1, batch * tokens)
        shape = {"batch": batch, "prompt_tokens": length, "output_tokens": tokens, "repeats": repeats}
        rows.append(shape | summarized(runs[1:], tokens))
    progress.close()
    return rows


@stage
def main(
    checkpoint: Input, output: Output, model: Parameter, quantizer: Parameter, scheme: Parameter, settings: Settings
) -> None:
    """`settings`: `prompts`, `tokens`, `repeats`, and of the model `max_num_seqs` and `dtype`."""
    check_packed(checkpoint, settings)
    llm = start_engine(checkpoint, settings | {"max_model_len": max(settings["prompts"]) + settings["tokens"]})
    rows = measure(llm, settings, f"speed {model}/{quantizer}/{scheme}")
    gpus = machine.gpu()["gpus"]
    keys = {"model": model, "quantizer": quantizer, "scheme": scheme}
    keys |= {"gpus": len(gpus), "device": machine.device(gpus, machine.cpu())}
    write_table(output, [keys | row for row in rows], SCHEMA)


if __name__ == "__main__":
    main()
