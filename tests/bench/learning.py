"""Memory of FlatQuant's learning, in bytes by parameter, and by token and channel: python -m tests.bench.learning

Layers of several widths learn one epoch in float32; all tensors that live at once are counted, whatever an allocator
makes of them. The coefficients that fit best stand beside those of scripts/run/resources.py.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, Qwen2Config

from scripts.quantize._flatquant import Call, learn
from scripts.run import resources
from tests.bench import size

HEAD_DIM = 64
SHAPES = size(  # hidden and intermediate size, heads of keys and tokens of a sequence
    [(256, 1024, 2, 64), (256, 2048, 2, 256), (512, 1024, 2, 256), (512, 2048, 8, 256), (1024, 3072, 4, 512)],
    [(256, 512, 2, 32), (128, 1024, 1, 64), (256, 1024, 2, 128)],
)
SETTINGS = {
    "bits": 4, "activation_bits": 4, "kv_bits": 4, "row_groups": 2, "alpha": 0.3, "clip": 0.982, "epochs": 1,
    "batch_size": 2, "learning_rate": 0.005, "seed": 0,
}  # fmt: skip


class Living(TorchDispatchMode):
    """Counts the bytes of all tensors that were made in it and still live, and the most that they ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        given = operation(*arguments, **(keywords or {}))
        for x in tree_leaves(given):
            if isinstance(x, torch.Tensor) and (storage := x.untyped_storage())._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return given

    def free(self, name: int, count: int) -> None:
        self.seen.discard(name)
        self.now -= count


def peak(hidden: int, intermediate: int, kv_heads: int, length: int) -> tuple[int, int]:
    """Parameters of a layer, and the most bytes that live while it learns from one batch."""
    config = Qwen2Config(
        vocab_size=64, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=1,
        num_attention_heads=hidden // HEAD_DIM, num_key_value_heads=kv_heads, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    layer, calls = model.model.layers[0], list[Call]()
    layer.register_forward_pre_hook(lambda _, x, named: calls.append((x[0], named)), with_kwargs=True)
    with torch.no_grad():
        for _ in range(SETTINGS["batch_size"]):
            model(input_ids=torch.randint(0, 64, (1, length)), use_cache=False)
    with Living() as living:
        learn(layer, list(calls), SETTINGS, torch.Generator().manual_seed(0))
    return sum(parameter.numel() for parameter in layer.parameters()), living.peak


def main() -> None:
    torch.set_num_threads(1)
    rows, peaks = [], []
    for hidden, intermediate, kv_heads, length in SHAPES:
        parameters, most = peak(hidden, intermediate, kv_heads, length)
        tokens = SETTINGS["batch_size"] * length
        rows.append([parameters, tokens * hidden, tokens * intermediate])
        peaks.append(most)
    stated = torch.tensor([resources.LEARNED_BYTES, resources.HIDDEN_BYTES, resources.INTERMEDIATE_BYTES])
    sizes, found = torch.tensor(rows, dtype=torch.float64), torch.tensor(peaks, dtype=torch.float64)
    print(f"{'hidden':>8}{'intermediate':>14}{'tokens':>8}{'peak, MB':>10}{'stated':>8}")
    for shape, most, row in zip(SHAPES, peaks, sizes, strict=True):
        tokens = SETTINGS["batch_size"] * shape[3]
        print(f"{shape[0]:8}{shape[1]:14}{tokens:8}{most / 1e6:10.0f}{row @ stated.double() / 1e6:8.0f}")
    fitted = torch.linalg.lstsq(sizes, found.unsqueeze(1)).solution.flatten()
    print("bytes by parameter, token and hidden channel, token and intermediate channel, fitted beside stated:")
    print(", ".join(f"{a:.0f} ({b})" for a, b in zip(fitted.tolist(), stated.tolist(), strict=True)))


if __name__ == "__main__":
    main()
