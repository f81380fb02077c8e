"""Log-probabilities of given tokens, by vLLM: python -m tests.serve FOLDER RANKS CHECKPOINT...

Reads FOLDER/tokens.json, a list of sequences; prints last a line of JSON, by checkpoint the log-probability of every
token but the first of each sequence. On one rank the model's forward is traced whole by torch.compile, as on a GPU, but
for the backend, which runs the traced operations one by one; two ranks run it eagerly.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock


def dequantize_packed_weights() -> None:
    """Register a kernel of ours for packed weights; what reads and joins the checkpoint's tensors is vLLM's."""
    import torch
    from vllm.model_executor.kernels.linear import MPLinearKernel, MPLinearLayerConfig, register_linear_kernel
    from vllm.platforms import PlatformEnum

    class DequantizingKernel(MPLinearKernel):
        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @classmethod
        def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
            return True, None

        def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
            packed, scale, packed_zero = self._get_weight_params(layer)
            shifts = torch.arange(0, 32, 4)
            integers = (packed.unsqueeze(2) >> shifts).bitwise_and(15).flatten(1)
            zero = (packed_zero.unsqueeze(1) >> shifts[:, None]).bitwise_and(15).flatten(0, 1)
            steps = integers.unflatten(1, (-1, self.config.group_size)) - zero.unsqueeze(2)
            layer.dequantized = (steps * scale.unsqueeze(2)).flatten(1)

        def apply_weights(
            self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
        ) -> torch.Tensor:
            return torch.nn.functional.linear(x, layer.dequantized, bias)

    register_linear_kernel(DequantizingKernel, PlatformEnum.CPU)


def main() -> None:
    folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
    os.environ["TORCHDYNAMO_DISABLE"] = "1" if ranks > 1 else "0"
    os.environ["VLLM_DISABLED_KERNELS"] = "CPUWNA16LinearKernel"

    import torch
    import vllm
    from torch._dynamo.utils import counters

    from scripts.generate.start import start_engine

    traced = {"enforce_eager": False, "compilation_config": {"mode": 2, "backend": "eager", "cudagraph_mode": "NONE"}}
    llm_class = vllm.LLM
    dequantize_packed_weights()

    def make_llm(**arguments: Any) -> vllm.LLM:
        return llm_class(**arguments | (traced if ranks == 1 else {}))

    tokens = json.loads((folder / "tokens.json").read_text())
    settings = {"dtype": "float32", "max_model_len": max(map(len, tokens)) + 2, "max_num_seqs": 16}
    sampling = vllm.SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    found = {}
    for name in sys.argv[3:]:
        with (
            mock.patch("scripts.generate.start.tensor_parallel_size", return_value=ranks),
            mock.patch("vllm.LLM", make_llm),
        ):
            llm = start_engine(folder / name, settings)
        answers = llm.generate([{"prompt_token_ids": ids} for ids in tokens], sampling, use_tqdm=False)
        found[name] = [
            scores[token].logprob
            for ids, answer in zip(tokens, answers, strict=True)
            for token, scores in zip(ids[1:], answer.prompt_logprobs[1:], strict=True)
        ]
        del llm
        gc.collect()
        if ranks == 1:
            assert counters["frames"]["ok"] == counters["frames"]["total"] > 0
            assert not counters["graph_break"]
            torch.compiler.reset()  # what was traced for one model must not serve the next
    print(json.dumps(found))


if __name__ == "__main__":
    main()
