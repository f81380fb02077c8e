"""Log-probabilities of given tokens, by vLLM: python -m tests.serve FOLDER MODE RANKS CHECKPOINT...

Reads FOLDER/tokens.json, a list of sequences; prints last a line of JSON, by checkpoint the log-probability of every
token but the first of each sequence. Modes:

    eager     as the pipeline runs on a CPU
    traced    the model's forward traced whole by torch.compile, the traced operations run one by one
    compiled  as the pipeline runs on a GPU: by Inductor, and on a GPU captured in CUDA graphs
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from vllm import LLM

MODES: dict[str, dict[str, Any]] = {
    "eager": {},
    "traced": {"enforce_eager": False, "compilation_config": {"mode": 2, "backend": "eager", "cudagraph_mode": "NONE"}},
    "compiled": {"enforce_eager": False},
}


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


def prepare(mode: str) -> None:
    """What must be in the environment before vLLM and torch are imported."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1" if mode == "eager" else "0"
    os.environ["VLLM_DISABLE_COMPILE_CACHE"] = "1"  # else code of an earlier run could be served


def start(checkpoint: Path, mode: str, ranks: int, settings: dict[str, Any]) -> "LLM":
    """The pipeline's engine, in a mode and on a number of ranks of the caller's choice."""
    import vllm

    from scripts.generate.start import start_engine

    llm_class = vllm.LLM
    with (
        mock.patch("scripts.generate.start.tensor_parallel_size", return_value=ranks),
        mock.patch("vllm.LLM", lambda **arguments: llm_class(**arguments | MODES[mode])),
    ):
        return start_engine(checkpoint, settings)


def stop(mode: str) -> None:
    """Call it when nothing holds the engine any more.

    Raises:
        AssertionError: on a CPU, where the engine runs in this process: its model was not compiled, or not whole.
    """
    import torch
    from torch._dynamo.utils import counters

    gc.collect()
    if mode == "eager" or torch.cuda.is_available():
        return
    assert not counters["graph_break"]
    if mode == "traced":
        assert counters["frames"]["ok"] == counters["frames"]["total"] > 0
    else:
        assert sum(counters["inductor"][f"fxgraph_cache_{found}"] for found in ("hit", "miss")) > 0
    counters.clear()
    torch.compiler.reset()  # what was traced for one model must not serve the next


def logprobs(llm: "LLM", tokens: list[list[int]]) -> list[float]:
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
    answers = llm.generate([{"prompt_token_ids": ids} for ids in tokens], sampling, use_tqdm=False)
    return [
        scores[token].logprob
        for ids, answer in zip(tokens, answers, strict=True)
        for token, scores in zip(ids[1:], answer.prompt_logprobs[1:], strict=True)
    ]


def main() -> None:
    folder, mode, ranks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    prepare(mode)
    os.environ["VLLM_DISABLED_KERNELS"] = "CPUWNA16LinearKernel"
    dequantize_packed_weights()
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    settings = {"dtype": "float32", "max_model_len": max(map(len, tokens)) + 2, "max_num_seqs": 16}
    found = {}
    for name in sys.argv[4:]:
        llm = start(folder / name, mode, ranks, settings)
        found[name] = logprobs(llm, tokens)
        del llm
        stop(mode)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
