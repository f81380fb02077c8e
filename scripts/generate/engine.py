"""Let one checkpoint answer all questions of a suite, all seeds, in one vLLM engine start."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from scripts.generate.prompts import prompt_ids, request_seed
from scripts.run import record
from scripts.run.errors import UserError
from scripts.run.progress import Progress
from scripts.run.stage import Input, Inputs, Output, Parameter, Settings, stage
from scripts.table import column, read_rows, write_table

if TYPE_CHECKING:
    from vllm import LLM

SCHEMA = pa.schema(
    [
        column("model", pa.string(), "name in config/models.tsv"),
        column("quantizer", pa.string(), "algorithm, a file in scripts/quantize/"),
        column("scheme", pa.string(), "numbers of the algorithm, a key in config/quantizers.yaml"),
        column("suite", pa.string(), "name of the suite in the study's config"),
        column("benchmark", pa.string(), "name of the benchmark"),
        column("id", pa.string(), "name of the question"),
        column("seed", pa.int64(), "seed of the run"),
        column("prompt", pa.string(), "rendered prompt, chat template included"),
        column("prompt_tokens", pa.int64(), "length of the prompt in tokens"),
        column("output", pa.string(), "generated text, thinking included, without the final EOS"),
        column("output_tokens", pa.int64(), "length of the output in tokens, the final EOS included"),
        column("finish_reason", pa.string(), "stop (EOS) or length (token limit reached: truncated)"),
    ]
)


@dataclass(frozen=True)
class Request:
    benchmark: str
    id: str
    seed: int
    prompt: list[int]
    expected_tokens: int


def start_engine(checkpoint: Path, settings: dict) -> "LLM":
    """vLLM in this process; the KV cache holds `max_num_seqs` sequences of full length on a CPU."""
    import torch

    on_gpu = torch.cuda.is_available()
    os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
    memory = {}
    if not on_gpu:
        # One process with the threads that the job was given; without a stated size vLLM takes the machine's memory.
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }
        config = AutoConfig.from_pretrained(checkpoint)
        memory["kv_cache_memory_bytes"] = (
            settings["max_num_seqs"] * settings["max_model_len"] * kv_bytes_per_token(config, settings["dtype"])
        )
    from vllm import LLM

    return LLM(
        model=str(checkpoint),
        dtype=settings["dtype"],
        max_model_len=settings["max_model_len"],
        max_num_seqs=settings["max_num_seqs"],
        tensor_parallel_size=torch.cuda.device_count() if on_gpu else 1,
        enforce_eager=not on_gpu,
        generation_config="vllm",
        seed=0,
        **memory,
    )


def kv_bytes_per_token(config: PretrainedConfig, dtype: str) -> int:
    """Bytes that one token occupies in the KV cache, over all layers."""
    import torch

    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * getattr(torch, dtype).itemsize


def generate(llm: "LLM", requests: list[Request], settings: dict, label: str) -> list[dict]:
    """Outputs in the order of `requests`; the engine gets the longest expected first, so that none runs alone last."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine = llm.llm_engine
    for index in sorted(range(len(requests)), key=lambda i: -requests[i].expected_tokens):
        request = requests[index]
        sampling = SamplingParams(
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            top_k=settings["top_k"],
            max_tokens=settings["max_model_len"] - len(request.prompt),
            seed=request_seed(request.seed, request.id, paper_seeds=settings["paper_seeds"]),
            skip_special_tokens=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(str(index), {"prompt_token_ids": request.prompt}, sampling)
    outputs: list[dict] = [{}] * len(requests)
    progress = Progress(label, len(requests), "samples")
    while engine.has_unfinished_requests():
        for finished in engine.step():
            answer = finished.outputs[0]
            outputs[int(finished.request_id)] = {
                "output": answer.text,
                "output_tokens": len(answer.token_ids),
                "finish_reason": answer.finish_reason,
            }
            progress.add(1, tokens=len(answer.token_ids))
    progress.close()
    record.add_facts(output_tokens=progress.tokens, generation_seconds=round(progress.seconds, 3))
    return outputs


@stage
def main(
    questions: Inputs,
    checkpoint: Input,
    output: Output,
    model: Parameter,
    quantizer: Parameter,
    scheme: Parameter,
    suite: Parameter,
    settings: Settings,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    requests = []
    for row in (row for path in questions for row in read_rows(path)):
        ids = prompt_ids(tokenizer, row["messages"])
        if len(ids) >= settings["max_model_len"]:
            raise UserError(
                f"{row['benchmark']}: question {row['id']} has {len(ids)} prompt tokens; "
                f"raise max_model_len ({settings['max_model_len']}) of suite {suite}"
            )
        for seed in settings["seeds"]:
            requests.append(Request(row["benchmark"], row["id"], seed, ids, row["expected_tokens"]))
    llm = start_engine(checkpoint, settings)
    answers = generate(llm, requests, settings, f"generate {model}/{quantizer}/{scheme}/{suite}")
    keys = {"model": model, "quantizer": quantizer, "scheme": scheme, "suite": suite}
    write_table(
        output,
        [
            keys
            | {"benchmark": request.benchmark, "id": request.id, "seed": request.seed}
            | {"prompt": tokenizer.decode(request.prompt), "prompt_tokens": len(request.prompt)}
            | answer
            for request, answer in zip(requests, answers, strict=True)
        ],
        SCHEMA,
    )


if __name__ == "__main__":
    main()
