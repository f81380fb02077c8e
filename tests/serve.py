"""Log-probabilities of given tokens, by vLLM: python -m tests.serve FOLDER RANKS CHECKPOINT...

Reads FOLDER/tokens.json, a list of sequences; prints last a line of JSON, by checkpoint the log-probability of every
token but the first of each sequence.
"""

import gc
import json
import sys
from pathlib import Path
from unittest import mock


def main() -> None:
    from vllm import SamplingParams

    from scripts.generate.engine import start_engine

    folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
    tokens = json.loads((folder / "tokens.json").read_text())
    settings = {"dtype": "float32", "max_model_len": max(map(len, tokens)) + 2, "max_num_seqs": 16}
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    found = {}
    for name in sys.argv[3:]:
        with mock.patch("scripts.generate.engine.tensor_parallel_size", return_value=ranks):
            llm = start_engine(folder / name, settings)
        answers = llm.generate([{"prompt_token_ids": ids} for ids in tokens], sampling, use_tqdm=False)
        found[name] = [
            scores[token].logprob
            for ids, answer in zip(tokens, answers, strict=True)
            for token, scores in zip(ids[1:], answer.prompt_logprobs[1:], strict=True)
        ]
        del llm
        gc.collect()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
