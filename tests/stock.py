"""Log-probabilities of given tokens in bfloat16: python tests/stock.py stock|project FOLDER CHECKPOINT...

Reads FOLDER/tokens.json, a list of sequences; prints last a line of JSON: whether vLLM has a kernel for packed weights
on this CPU, and by checkpoint the log-probability of every token but the first of each sequence. `stock` is vLLM with
nothing of this repository, `project` the engine as `generate` starts it.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm import LLM

LENGTH, SEQUENCES = 256, 16


def stock(checkpoint: Path) -> "LLM":
    """As vLLM's documentation starts it, on a CPU of which other processes have a share."""
    from vllm import LLM

    return LLM(
        model=str(checkpoint), dtype="bfloat16", max_model_len=LENGTH, max_num_seqs=SEQUENCES, enforce_eager=True,
        kv_cache_memory_bytes=10**8, enable_chunked_prefill=False, max_num_batched_tokens=2048,
    )  # fmt: skip


def project(checkpoint: Path) -> "LLM":
    from scripts.generate.start import start_engine

    return start_engine(checkpoint, {"dtype": "bfloat16", "max_model_len": LENGTH, "max_num_seqs": SEQUENCES})


def main() -> None:
    way, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if way == "stock":
        os.environ |= {
            "VLLM_PLUGINS": "",
            "VLLM_CPU_INT4_W4A8": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }
    import torch
    from vllm import SamplingParams
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    kernel, found = hasattr(torch.ops._C, "cpu_gemm_wna16"), {}
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    for name in names if kernel or way == "project" else []:
        llm = (stock if way == "stock" else project)(folder / name)
        answers = llm.generate([{"prompt_token_ids": ids} for ids in tokens], sampling, use_tqdm=False)
        found[name] = [
            scores[token].logprob
            for ids, answer in zip(tokens, answers, strict=True)
            for token, scores in zip(ids[1:], answer.prompt_logprobs[1:], strict=True)
        ]
        del llm
        gc.collect()
    if way == "stock":
        assert not any(name.split(".")[0] == "scripts" for name in sys.modules)
    print(json.dumps({"kernel": kernel, "found": found}))


if __name__ == "__main__":
    main()
