"""vLLM rounds as a checkpoint says: one quantization method for every architecture, no model file copied.

`register_quantization_config` is vLLM's extension point. Importing this module registers the method `fakequant`
in a process; vLLM's workers import it because the configuration that they receive is of a class defined here.
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from vllm.config import get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import LinearBase, QKVParallelLinear, RowParallelLinear, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

from scripts.fakequant.rounding import fake_quantize
from scripts.fakequant.settings import (
    KEY_GRIDS,
    METHOD,
    ROW_PARALLEL,
    TRANSFORMS,
    Tensors,
    hadamard_at,
    learned_at,
    round_heads,
    round_input,
)

Grid = tuple[torch.Tensor, torch.Tensor]  # scale and zero point


def check_tensor_parallel(settings: dict[str, Any], size: int) -> None:
    """Refuse a tensor-parallel size under which a rank would hold a part of a row group.

    Raises:
        ValueError: `size` does not divide `row_groups`.
    """
    groups = settings.get("row_groups", size)  # where nothing depends on them, any size will do
    if groups % size:
        raise ValueError(
            f"tensor-parallel size {size} does not divide row_groups {groups} of this checkpoint: serve it on "
            f"{' or '.join(str(n) for n in range(1, groups + 1) if groups % n == 0)} GPUs"
        )


class FakeQuantLinear(UnquantizedLinearMethod):
    """A linear layer whose input is rounded, and whose keys are, where it makes them before RoPE."""

    def __init__(self, name: str, settings: dict[str, Any], key_grid: Grid | None, tensors: Tensors) -> None:
        super().__init__()
        self.name, self.settings, self.key_grid, self.tensors = name, settings, key_grid, tensors
        size = get_tensor_model_parallel_world_size()
        self.row_groups = settings.get("row_groups", size) // size

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        if self.key_grid is not None:
            scale, zero = self.key_grid
            self.key_grid = scale.to(layer.weight.device), zero.to(layer.weight.device)
        super().process_weights_after_loading(layer)

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        x = round_input(x, self.name, self.settings, self.row_groups, self.tensors)
        if self.key_grid is None:
            return super().apply(layer, x, bias)
        settings = self.settings["keys_before_rope"]
        before_bias = settings["place"] == "before_bias"
        y = super().apply(layer, x, None if before_bias else bias)
        sizes = [heads * layer.head_size for heads in (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)]
        query, key, value = y.split(sizes, -1)
        key = fake_quantize(key.float(), *self.key_grid, settings["bits"]).to(key.dtype)
        y = torch.cat([query, key, value], -1)
        return y + bias if before_bias and bias is not None else y


def round_key_norm(grid: Grid, bits: int, head_dim: int) -> None:
    """Round what the `k_norm` gives that comes next into being, of the attention whose `qkv_proj` is being made.

    vLLM asks for no quantization method of a norm; torch tells of every module that becomes part of another.
    """
    scale, zero = (part.reshape(-1, head_dim) for part in grid)

    def wrap(_: nn.Module, name: str, module: nn.Module | None) -> None:
        if name != "k_norm":
            return
        handle.remove()
        device = module.weight.device
        module.register_buffer("key_scale", scale.to(device), persistent=False)
        module.register_buffer("key_zero", zero.to(device), persistent=False)
        forward = module.forward

        def rounded(x: torch.Tensor) -> torch.Tensor:
            """Keys by head, `(tokens, heads, head_dim)`."""
            y = forward(x)
            return fake_quantize(y.float(), module.key_scale, module.key_zero, bits).to(y.dtype)

        module.forward = rounded

    handle = register_module_module_registration_hook(wrap)


@register_quantization_config(METHOD)
class FakeQuantConfig(QuantizationConfig):
    """`quantization_config` of a checkpoint's `config.json`; scripts/fakequant/settings.py says what is in it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self._files: dict[str, dict[str, torch.Tensor]] = {}

    @classmethod
    def get_name(cls) -> str:
        return METHOD

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FakeQuantConfig":
        return cls(config)

    def get_quant_method(self, layer: nn.Module, prefix: str) -> UnquantizedLinearMethod | None:
        """The decoder blocks' linear layers get a method of ours, attention layers another `forward`."""
        if isinstance(layer, Attention):
            self._round_attention(layer, prefix)
            return None
        if not isinstance(layer, LinearBase):
            return None
        name = prefix.rsplit(".", 1)[-1]
        if isinstance(layer, RowParallelLinear):
            check_tensor_parallel(self.settings, get_tensor_model_parallel_world_size())
        key_grid, index = None, _layer_index(prefix)
        if isinstance(layer, QKVParallelLinear) and (keys := self.settings.get("keys_before_rope")):
            key_grid = self._key_grid(layer, index)
            if keys["place"] == "after_norm":
                round_key_norm(key_grid, keys["bits"], layer.head_size)
                key_grid = None
        # Both are made on the default device: while vLLM makes a model, the one that it makes it on.
        factors = hadamard_at(self.settings, name, layer.input_size // self.settings.get("row_groups", 1))
        return FakeQuantLinear(name, self.settings, key_grid, factors | self._learned(index, name))

    def _round_attention(self, layer: Attention, prefix: str) -> None:
        tensors = hadamard_at(self.settings, "heads", layer.head_size) | self._learned(_layer_index(prefix), "heads")
        forward = layer.forward

        def rounded(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *arguments: Any, **named: Any
        ) -> torch.Tensor:
            heads = [x.reshape(-1, x.shape[-1] // layer.head_size, layer.head_size) for x in (query, key, value)]
            rounded_heads = round_heads(*heads, self.settings, tensors)
            return forward(*(x.flatten(1) for x in rounded_heads), *arguments, **named)

        # vLLM asks for the method of an attention layer more than once; to round twice is not to round.
        if "forward" not in vars(layer) and ("keys" in self.settings or "values" in self.settings):
            layer.forward = rounded

    def _key_grid(self, layer: QKVParallelLinear, index: int) -> Grid:
        """The static grid of a layer's keys, for the heads that this rank has: several ranks may have the same."""
        grids = self._tensors(KEY_GRIDS)
        first = get_tensor_model_parallel_rank() // layer.num_kv_head_replicas * layer.num_kv_heads * layer.head_size
        own = slice(first, first + layer.num_kv_heads * layer.head_size)
        return grids[f"{index}.scale"][own], grids[f"{index}.zero"][own]

    def _learned(self, index: int, name: str) -> Tensors:
        """What was learned for an input, or for `heads`: of row-parallel layers the row groups of this rank."""
        if "learned" not in self.settings:
            return {}
        tensors = learned_at(self._tensors(TRANSFORMS), index, name)
        if name in ROW_PARALLEL:
            size, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
            tensors = {key: tensor.chunk(size)[rank] for key, tensor in tensors.items()}
        device = torch.get_default_device()
        return {key: tensor.to(device) for key, tensor in tensors.items()}

    def _tensors(self, file: str) -> dict[str, torch.Tensor]:
        """A file of the checkpoint's folder, read once."""
        if file not in self._files:
            self._files[file] = load_file(Path(get_current_vllm_config().model_config.model) / file)
        return self._files[file]


def _layer_index(prefix: str) -> int:
    return int(re.search(r"layers\.(\d+)\.", prefix)[1])
