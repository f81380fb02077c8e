"""vLLM with nothing of ours but the engine's settings: what the generate job is measured against.

    python -m tests.bench.bare JOB.json

The job names the checkpoint, its settings and the requests; printed last is a line of JSON with the seconds from the
start of the process to the first request, those of generating, and the tokens generated.
"""

import json
import sys
import time
from pathlib import Path

import psutil


def main() -> None:
    from vllm import SamplingParams

    from scripts.generate.start import start_engine

    job = json.loads(Path(sys.argv[1]).read_text())
    llm = start_engine(Path(job["checkpoint"]), job["settings"])
    prompts = [{"prompt_token_ids": request["prompt"]} for request in job["requests"]]
    sampling = [SamplingParams(**request["sampling"]) for request in job["requests"]]
    started = time.time()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.time() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    startup = started - psutil.Process().create_time()
    print(json.dumps({"startup_seconds": startup, "generation_seconds": seconds, "generated_tokens": tokens}))


if __name__ == "__main__":
    main()
